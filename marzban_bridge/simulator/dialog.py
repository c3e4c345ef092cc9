"""What the panel's own edit dialog sends when an admin presses its save button."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

GIB = 1024**3
DAY_SECONDS = 86400
SENDABLE_STATUSES = frozenset({"active", "disabled", "on_hold"})
ALWAYS_SENT = ("note", "proxies", "expire", "inbounds")


def dialog_body(user: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the PUT body for a user as the API shows it and the fields an admin changed.

    Marzban 0.8.4, its dashboard's sources and the schema library it uses, run: a data limit is
    shown in GiB with five decimals and sent back times 2^30 (below 5369 bytes it becomes 0:
    unlimited); a limited or expired user is sent as active; without a data limit the strategy
    becomes no_reset; `next_plan` is never sent, so that saving deletes it.
    """
    shown = dict(user)
    if user["data_limit"]:
        shown["data_limit"] = _shown_gib(user["data_limit"]) * GIB
    shown |= changes
    data_limit = shown["data_limit"] or 0
    body = {name: shown[name] for name in ALWAYS_SENT}
    body |= {
        "username": user["username"],
        "data_limit": data_limit,
        "data_limit_reset_strategy": (
            shown["data_limit_reset_strategy"] if data_limit > 0 else "no_reset"
        ),
        "status": shown["status"] if shown["status"] in SENDABLE_STATUSES else "active",
    }
    if body["status"] == "on_hold":
        shown_days = (shown["on_hold_expire_duration"] or 0) / DAY_SECONDS
        body["on_hold_expire_duration"] = shown_days * DAY_SECONDS
    return body


def _shown_gib(data_limit_bytes: int) -> float:
    exact = Decimal(data_limit_bytes / GIB)
    return float(exact.quantize(Decimal("0.00001"), rounding=ROUND_HALF_UP))
