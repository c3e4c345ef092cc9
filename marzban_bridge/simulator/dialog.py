"""What the panel's own edit dialog sends when an admin presses its save button."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from marzban_bridge.simulator.panel.dialect import SimulatedDialect

GIB = 1024**3
DAY_SECONDS = 86400
SENDABLE_STATUSES = frozenset({"active", "disabled", "on_hold"})
ALWAYS_SENT = ("note", "proxies", "expire", "inbounds")


def dialog_body(
    user: Mapping[str, Any], changes: Mapping[str, Any], *, dialect: SimulatedDialect
) -> dict[str, Any]:
    """Return the PUT body for a user as the API shows it and the fields an admin changed.

    The dashboards' sources, run: a data limit is shown in GiB with a few decimals and sent back
    times 2^30 on every save; without a data limit the strategy becomes no_reset. Marzban below 5369
    bytes sends 0, which is unlimited.
    """
    shown = dict(user)
    if user["data_limit"]:
        shown["data_limit"] = shown_limit_bytes(user["data_limit"], dialect=dialect)
    shown |= changes
    body = _pasarguard(shown, changes) if dialect.kind == "pasarguard" else _marzban(shown)
    if dialect.dialog_keeps_next_plan:
        body["next_plan"] = _next_plan(shown["next_plan"])
    if not dialect.dialog_always_sends_state and "status" not in changes:
        del body["status"]
    return body


def shown_limit_bytes(data_limit_bytes: int, *, dialect: SimulatedDialect) -> float:
    """Return what a data limit becomes when the dialog shows it and sends it back unchanged."""
    gib = data_limit_bytes / GIB
    shown = _shown_gib(gib, dialect.shown_gib_decimals)
    if shown == 0 and dialect.tiny_gib_decimals is not None:
        shown = _shown_gib(gib, dialect.tiny_gib_decimals)
    return shown * GIB


def _shown_gib(gib: float, decimals: int) -> float:
    return float(Decimal(gib).quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP))


def _next_plan(plan: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a next plan as the form sends it: nulls are 0, and a template comes without a plan."""
    if not plan:
        return None
    adds = {"add_remaining_traffic": plan["add_remaining_traffic"]}
    if plan["user_template_id"]:
        return {"user_template_id": plan["user_template_id"], "expire": 0, "data_limit": 0, **adds}
    return {"expire": plan["expire"] or 0, "data_limit": plan["data_limit"] or 0, **adds}


def _strategy(shown: Mapping[str, Any]) -> str:
    return shown["data_limit_reset_strategy"] if shown["data_limit"] else "no_reset"


def _status(shown: Mapping[str, Any]) -> str:
    return shown["status"] if shown["status"] in SENDABLE_STATUSES else "active"


def _marzban(shown: Mapping[str, Any]) -> dict[str, Any]:
    body = {name: shown[name] for name in ALWAYS_SENT}
    body |= {
        "username": shown["username"],
        "data_limit": shown["data_limit"] or 0,
        "data_limit_reset_strategy": _strategy(shown),
        "status": _status(shown),
    }
    if body["status"] == "on_hold":
        shown_days = (shown["on_hold_expire_duration"] or 0) / DAY_SECONDS
        body["on_hold_expire_duration"] = shown_days * DAY_SECONDS
    return body


def _pasarguard(shown: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    body = {
        "username": shown["username"],
        "note": shown["note"] or "",
        "data_limit": math.floor((shown["data_limit"] or 0) + 0.5),
        "hwid_limit": shown["hwid_limit"],
        "group_ids": shown["group_ids"],
        "data_limit_reset_strategy": _strategy(shown),
        "proxy_settings": shown["proxy_settings"],
        "status": _status(shown),
    }
    if body["status"] == "on_hold":
        held = ("on_hold_expire_duration", "on_hold_timeout")
        body |= {name: shown[name] for name in held if shown[name]}
    elif shown["expire"] or "expire" in changes:
        body["expire"] = shown["expire"]
    return body
