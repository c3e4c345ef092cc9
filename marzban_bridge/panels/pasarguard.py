"""PasarGuard's interface: its JSON in the bridge's words, its paths and quirks.

Facts are of PasarGuard 5.2.1, and of 3.1.0 where it differs: up to 4.0 there were no roles and no
API keys. Field names are spelt here as PasarGuard spells them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from marzban_bridge.panels.api import PanelApi
from marzban_bridge.panels.dialect import PASARGUARD, PASARGUARD_4
from marzban_bridge.panels.fields import expecting, text_of, utc, whole_or_none
from marzban_bridge.panels.user_fields import RESET_ACTIONS, event_of, sudo_admin_of, user_of
from marzban_bridge.panels.users import NextPlan, PanelAdmin, PanelEvent, PanelUser

ALL = 2
"""The scope of a permission that is about all admins' users; 1 is about the admin's own."""
OF_ALL_USERS = (
    "users.read",
    "users.read_simple",
    "users.update",
    "users.reset_usage",
    "users.activate_next_plan",
)
"""What a bridge does to users, to be allowed with the scope of all."""
BESIDES = ("system.read", "admins.read")
TELLING_USERS = RESET_ACTIONS | {"user_updated"}
"""Of webhooks: of these it matters how the user was right afterwards."""


def parse_user(data: Mapping[str, Any]) -> PanelUser:
    """Read a user object of the panel; OddUserError when it is not one."""
    return user_of(data, expire_of=_expire, plan_of=_next_plan)


def parse_admin(data: Mapping[str, Any]) -> PanelAdmin:
    """Read an admin object of the panel; PanelError when it is not one.

    An API key that has fewer permissions than its admin shows its own.
    """
    with expecting("admin object"):
        role = data["role"]
        missing = () if role["is_owner"] is True else _missing(role["permissions"])
        used_bytes = whole_or_none(data.get("used_traffic")) or 0
        is_limited, is_disabled = (data.get("status") == each for each in ("limited", "disabled"))
        return PanelAdmin(
            username=text_of(data["username"]),
            is_sudo=not any(each.startswith("users.") for each in missing),
            used_bytes=used_bytes,
            missing_permissions=missing,
            limit_bytes=whole_or_none(data.get("data_limit")) or None,
            is_limited=is_limited,
            is_disabled=is_disabled,
            cuts_users_off=(is_limited and bool(role.get("disconnect_users_when_limited")))
            or (is_disabled and bool(role.get("disconnect_users_when_disabled"))),
        )


def _parse_sudo_admin(data: Mapping[str, Any]) -> PanelAdmin:
    return sudo_admin_of(data, used="used_traffic")


def _missing(permissions: Mapping[str, Any]) -> tuple[str, ...]:
    lacking = [each for each in OF_ALL_USERS if _scope(permissions, each) != ALL]
    return (*lacking, *(each for each in BESIDES if not _scope(permissions, each)))


def _scope(permissions: Mapping[str, Any], permission: str) -> int:
    """Return about whose users a permission is; 0 where it is not given."""
    resource, _, action = permission.partition(".")
    allowed = (permissions.get(resource) or {}).get(action)
    if isinstance(allowed, Mapping):
        return int(allowed.get("scope") or 0)
    return ALL if allowed is True else 0


def parse_event(data: Mapping[str, Any]) -> PanelEvent | None:
    """Read one event of a webhook; None for one that asks for no evaluation.

    `enqueued_at` is when it happened. Of a next plan that fired by itself, and of what the panel
    does on schedule, no admin of a number is named.
    """
    event = event_of(data, parse_user=parse_user, with_user=TELLING_USERS)
    if event is None:
        return None
    return replace(
        event, by=_admin_in(data.get("by")), happened_at=_moment(data.get("enqueued_at"))
    )


def _admin_in(by: object) -> str | None:
    """Return who did something; None for the panel itself, which has no number."""
    if not isinstance(by, Mapping) or by.get("id") is None:
        return None
    name = by.get("username")
    return name if isinstance(name, str) else None


def _moment(found: object) -> datetime | None:
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    with suppress(ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(found, UTC)
    return None


def _expire(found: object) -> int | None:
    """Return when a user expires in whole seconds since 1970."""
    return None if found is None else int(utc(text_of(found)).timestamp())


def _next_plan(data: Mapping[str, Any]) -> NextPlan:
    """Read a next plan, which fires at the limit as at the expiry.

    Where it names a template, limit and expiry are the template's, whatever else it says.
    """
    template_id = whole_or_none(data.get("user_template_id"))
    limit_bytes, expire = whole_or_none(data.get("data_limit")), whole_or_none(data.get("expire"))
    return NextPlan(
        data_limit_bytes=limit_bytes if template_id is None else None,
        expire=expire if template_id is None else None,
        adds_remaining_traffic=bool(data.get("add_remaining_traffic", False)),
        fires_on_either=True,
        panel_fields=dict(data),
        template_id=template_id,
    )


def _admins(data: Any) -> Sequence[Any]:
    return list(data["admins"])


PASARGUARD_API = PanelApi(
    dialect=PASARGUARD,
    credentials_field="proxy_settings",
    read_user=parse_user,
    read_admin=parse_admin,
    read_admins=_admins,
    read_event=parse_event,
    proof_path="/api/admin",
    names_path="/api/users/simple",
    fire_path="active_next",
    firing_answers_404=False,
    admin_reset_path=lambda username: f"/api/admin/{username}/reset",
    is_admin=lambda data: isinstance(data.get("role"), Mapping),
)
PASARGUARD_4_API = replace(
    PASARGUARD_API,
    dialect=PASARGUARD_4,
    read_admin=_parse_sudo_admin,
    is_admin=lambda data: "is_sudo" in data and "is_disabled" in data,
)
