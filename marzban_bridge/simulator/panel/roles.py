"""The roles of a simulated PasarGuard's admins: what they may do, and to whose users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from marzban_bridge.simulator.panel.errors import RefusedError

OWN, ALL = 1, 2
"""The scopes of a permission: the admin's own users, or everybody's."""

READING = frozenset({"read", "read_simple", "read_general", "logs", "stats"})
SCOPED = ("read", "read_simple", "update", "delete", "reset_usage", "revoke_sub")
CRUD = ("create", "read", "read_simple", "update", "delete")

Permissions = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A role; `permissions` are by resource and action: True, or a scope as `{"scope": 1}`."""

    id: int
    name: str
    is_owner: bool = False
    permissions: Permissions = field(default_factory=dict)
    disabled_when_limited: bool = False
    disconnect_users_when_limited: bool = True
    disconnect_users_when_disabled: bool = True


class RoleHolder(Protocol):
    """Who acts."""

    @property
    def role(self) -> Role:
        """What it may do."""

    @property
    def status(self) -> str:
        """Whether it is over a limit of its own."""


def users_permissions(scope: int) -> dict[str, Any]:
    """Return everything that can be done to users, to whom the scope says."""
    scoped: dict[str, Any] = {action: {"scope": scope} for action in SCOPED}
    owner = True if scope == ALL else None
    return {
        "create": True,
        **scoped,
        "set_owner": owner,
        "activate_next_plan": {"scope": scope},
    }


def _all(*actions: str) -> dict[str, Any]:
    return dict.fromkeys(actions, True)


_EVERYTHING: dict[str, dict[str, Any]] = {
    "users": users_permissions(ALL),
    "admins": _all(*CRUD, "reset_usage"),
    "nodes": _all(*CRUD, "reconnect", "update_core", "logs", "stats"),
    "groups": _all(*CRUD),
    "hosts": _all("create", "read", "update"),
    "templates": _all(*CRUD),
    "client_templates": _all(*CRUD),
    "cores": _all(*CRUD),
    "settings": _all("read", "read_general", "update"),
    "system": _all("read"),
    "hwids": _all("read", "delete"),
    "admin_roles": _all(*CRUD),
    "api_keys": {
        "create": True,
        **{action: {"scope": ALL} for action in ("read", "read_simple", "update", "delete")},
    },
}
OWNER = Role(id=1, name="owner", is_owner=True, permissions=_EVERYTHING)
ADMINISTRATOR = Role(
    id=2,
    name="administrator",
    permissions=_EVERYTHING | {"admin_roles": _all("read", "read_simple")},
)
OPERATOR = Role(
    id=3,
    name="operator",
    permissions={
        "users": users_permissions(OWN),
        "groups": dict.fromkeys(CRUD, False) | _all("read_simple"),
        "templates": dict.fromkeys(CRUD, False) | _all("read", "read_simple"),
        "settings": {"read": False, "read_general": True, "update": False},
        "system": {"read": True},
        "hwids": _all("read", "delete"),
        "api_keys": {action: {"scope": OWN} for action in CRUD if action != "create"},
    },
)
BUILT_IN = (OWNER, ADMINISTRATOR, OPERATOR)


def demand(admin: RoleHolder, resource: str, action: str) -> None:
    """Raise RefusedError 403, naming what is missing, unless the admin may do that at all."""
    if admin.role.is_owner:
        return
    if admin.status == "limited":
        if admin.role.disabled_when_limited:
            raise RefusedError(403, "Admin is limited — all access blocked")
        if action not in READING:
            raise RefusedError(403, "Admin is limited — write actions blocked")
    if not scope_of(admin, resource, action):
        raise RefusedError(403, f"Permission denied: {resource}.{action}")


def demand_for_all(admin: RoleHolder, resource: str, action: str) -> None:
    """Raise RefusedError 403 unless the admin may do that to everybody's users."""
    demand(admin, resource, action)
    if scope_of(admin, resource, action) != ALL:
        raise RefusedError(403, f"Permission denied: {resource}.{action} requires scope=all")


def scope_of(admin: RoleHolder, resource: str, action: str) -> int:
    """Return whose users the admin may change: 0 for none, `OWN` or `ALL`."""
    if admin.role.is_owner:
        return ALL
    allowed = (admin.role.permissions.get(resource) or {}).get(action)
    if isinstance(allowed, Mapping):
        return int(allowed.get("scope", 0))
    return ALL if allowed else 0


def excess(admin: RoleHolder, asked: Permissions) -> str | None:
    """Say why an admin cannot hand out these permissions, or None if it can."""
    if admin.role.is_owner:
        return None
    for resource, actions in asked.items():
        for action, value in (actions or {}).items():
            wanted = value.get("scope", 0) if isinstance(value, Mapping) else ALL if value else 0
            if wanted > scope_of(admin, resource, action):
                return f"You don't have the '{action}' permission on '{resource}'"
    return None
