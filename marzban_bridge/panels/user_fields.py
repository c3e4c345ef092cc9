"""Reads the JSON of users, admins and events, as far as the kinds of panel agree on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
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
from marzban_bridge.panels.users import (
    NextPlan,
    PanelAdmin,
    PanelEvent,
    PanelUser,
    ResetStrategy,
    Status,
)

RESET_ACTIONS = frozenset({"data_usage_reset", "data_reset_by_next"})
TELLING_ACTIONS = frozenset(
    {
        *RESET_ACTIONS,
        "user_created",
        "user_updated",
        "user_deleted",
        "user_enabled",
        "user_disabled",
        "user_limited",
    }
)
"""Of webhooks: after each of these the user is evaluated."""


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


def sudo_admin_of(data: Mapping[str, Any], *, used: str) -> PanelAdmin:
    """Read an admin object of a panel whose admins are sudo or not; PanelError when it is not one.

    `used` is its field for what the admin's users used.
    """
    with expecting("admin object"):
        is_sudo = data["is_sudo"]
        if not isinstance(is_sudo, bool):
            raise TypeError("is_sudo is neither true nor false")
        used_bytes = whole_or_none(data.get(used)) or 0
        return PanelAdmin(
            username=text_of(data["username"]), is_sudo=is_sudo, used_bytes=used_bytes
        )


def event_of(
    data: Mapping[str, Any],
    *,
    parse_user: Callable[[Mapping[str, Any]], PanelUser],
    with_user: Collection[str],
) -> PanelEvent | None:
    """Read one event of a webhook; None for one that asks for no evaluation.

    The user as it was afterwards is read for the actions in `with_user`, if it can be. Raises
    LookupError where the event names no action or no user.
    """
    action = data["action"]
    if action not in TELLING_ACTIONS:
        return None
    user = None
    if action in with_user:
        with suppress(LookupError, OddUserError):
            user = parse_user(data["user"])
    return PanelEvent(username=data["username"], is_reset=action in RESET_ACTIONS, user=user)
