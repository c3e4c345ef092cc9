"""Marzban's interface: its JSON in the bridge's words, its paths and quirks.

Facts are of Marzban 0.8.4. Field names are spelt here as Marzban spells them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from marzban_bridge.panels.api import PanelApi
from marzban_bridge.panels.dialect import MARZBAN
from marzban_bridge.panels.fields import whole_or_none
from marzban_bridge.panels.user_fields import RESET_ACTIONS, event_of, sudo_admin_of, user_of
from marzban_bridge.panels.users import (
    NextPlan,
    PanelAdmin,
    PanelEvent,
    PanelUser,
)


def parse_user(data: Mapping[str, Any]) -> PanelUser:
    """Read a user object of the panel; OddUserError when it is not one."""
    return user_of(data, expire_of=whole_or_none, plan_of=_parse_next_plan)


def parse_event(data: Mapping[str, Any]) -> PanelEvent | None:
    """Read one event of a webhook; None for one that asks for no evaluation.

    Marzban sends the user along as it is after what happened.
    """
    return event_of(data, parse_user=parse_user, with_user=RESET_ACTIONS)


def parse_admin(data: Mapping[str, Any]) -> PanelAdmin:
    """Read an admin object of the panel; PanelError when it is not one."""
    return sudo_admin_of(data, used="users_usage")


def _parse_next_plan(data: Mapping[str, Any]) -> NextPlan:
    return NextPlan(
        data_limit_bytes=whole_or_none(data.get("data_limit")),
        expire=whole_or_none(data.get("expire")),
        adds_remaining_traffic=bool(data.get("add_remaining_traffic", False)),
        fires_on_either=bool(data.get("fire_on_either", True)),
        panel_fields=dict(data),
    )


def _admins(data: Any) -> Sequence[Any]:
    return list(data)


MARZBAN_API = PanelApi(
    dialect=MARZBAN,
    credentials_field="proxies",
    read_user=parse_user,
    read_admin=parse_admin,
    read_admins=_admins,
    read_event=parse_event,
    proof_path="/api/system",  # the environment's admin is told who it is without the database
    names_path="/api/users",
    fire_path="active-next",
    firing_answers_404=True,
    admin_reset_path=lambda username: f"/api/admin/usage/reset/{username}",
    is_admin=lambda data: "is_sudo" in data and "is_disabled" not in data,
)
