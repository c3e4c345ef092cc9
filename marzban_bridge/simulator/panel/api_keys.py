"""A simulated PasarGuard's API keys: in place of a password, with all or fewer permissions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import uuid4

from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.payloads.fields import Fields, moment, text_up_to
from marzban_bridge.simulator.panel.roles import Permissions, excess
from marzban_bridge.simulator.panel.users import SimulatedAdmin

NAME_LENGTH = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key; `key` is shown once, when it is made."""

    id: int
    key: str
    name: str
    admin: str
    created_at: datetime
    note: str | None = None
    permissions: Permissions | None = None
    """None inherits the admin's."""
    expire_date: datetime | None = None
    revoked_at: datetime | None = None
    status: str = "active"

    def is_usable(self, now: datetime) -> bool:
        """Say whether the key, by itself, still opens the panel."""
        is_expired = self.expire_date is not None and self.expire_date <= now
        return self.status == "active" and not is_expired


def new_key_text() -> str:
    """Return a new key's text."""
    return f"pg_key_{uuid4()}"


def acting_admin(key: ApiKey, admin: SimulatedAdmin) -> SimulatedAdmin:
    """Return the admin as the key lets it act: with its own permissions it is no owner."""
    if key.permissions is None:
        return admin
    return replace(admin, role=replace(admin.role, is_owner=False, permissions=key.permissions))


def parse_key(body: object, *, now: datetime, by: SimulatedAdmin) -> dict[str, Any]:
    """Read a key to make or to change: the named fields of an ApiKey.

    Raises RefusedError 422, or 403 for permissions beyond the admin's own.
    """
    fields = Fields(body)
    found: dict[str, Any] = {
        "name": fields.read("name", text_up_to(NAME_LENGTH)),
        "note": fields.read("note", text_up_to(512)),
        "expire_date": fields.read("expire_date", moment),
        "status": fields.read("status", _status),
    }
    if found["expire_date"] and found["expire_date"] <= now:
        fields.wrong["expire_date"] = "Value error, expire_date must be in the future"
    given = fields.read("permissions", permissions)
    fields.finish()
    if fields.body.get("inherit_permissions", True) is False:
        reason = excess(by, given or {})
        if reason:
            raise RefusedError(403, reason)
        found["permissions"] = given or {}
    return {name: value for name, value in found.items() if value is not None}


def _status(value: Any) -> str:
    if value not in {"active", "disabled"}:
        raise ValueError("Input should be 'active' or 'disabled'")
    return str(value)


def permissions(value: Any) -> Permissions:
    """Return permissions as given: by resource and action. ValueError or TypeError for others."""
    if not isinstance(value, Mapping) or not all(
        isinstance(actions, Mapping) for actions in value.values() if actions is not None
    ):
        raise TypeError("Input should be a valid dictionary")
    found = {resource: dict(actions) for resource, actions in value.items() if actions is not None}
    for actions in found.values():
        for allowed in actions.values():
            scopes = allowed.values() if isinstance(allowed, Mapping) else ()
            if any(type(scope) is not int for scope in scopes):
                raise TypeError("Input should be a valid integer")
            if not isinstance(allowed, bool | Mapping | None):
                raise TypeError("Input should be a valid boolean")
    if isinstance(found.get("api_keys", {}).get("create"), Mapping):
        raise TypeError("Input should be a valid boolean")
    return found
