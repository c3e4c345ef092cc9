"""Reads a user's JSON, as far as the kinds of panel agree on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from marzban_bridge.errors import OddUserError
from marzban_bridge.panels.fields import (
    amount_of,
    expecting,
    name_of,
    text_of,
    time_or_none,
    utc,
    whole_or_none,
)
from marzban_bridge.panels.users import NextPlan, PanelUser, ResetStrategy, Status


def user_of(
    data: Mapping[str, Any],
    *,
    expire_of: Callable[[object], int | None],
    plan_of: Callable[[Mapping[str, Any]], NextPlan],
) -> PanelUser:
    """Read a user object of a panel; OddUserError when it is not one.

    `data_limit` null and 0 both mean unlimited. Moments without a time zone are UTC.
    """
    with expecting("user object", OddUserError):
        created_at, limit, owner = data.get("created_at"), data["data_limit"], data.get("admin")
        plan = data.get("next_plan")
        if plan:  # it has to be sent back
            json.dumps(plan, allow_nan=False, ensure_ascii=False).encode()
        return PanelUser(
            username=name_of(data["username"]),
            status=Status(data["status"]),
            data_limit_bytes=None if limit is None else amount_of(limit) or None,
            used_bytes=amount_of(data["used_traffic"]),
            lifetime_bytes=amount_of(data["lifetime_used_traffic"]),
            reset_strategy=ResetStrategy(data.get("data_limit_reset_strategy") or "no_reset"),
            created_at=utc(created_at) if created_at else None,
            expire=expire_of(data.get("expire")),
            on_hold_expire_duration=whole_or_none(data.get("on_hold_expire_duration")),
            next_plan=plan_of(plan) if plan else None,
            admin=text_of(owner["username"]) if owner else None,
            online_at=time_or_none(data.get("online_at")),
            note=None if data.get("note") is None else text_of(data["note"]),
            edited_at=time_or_none(data.get("edit_at")),
        )
