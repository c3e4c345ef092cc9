"""What PasarGuard can be asked for and Marzban cannot: switches, bulk changes, admins and keys."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace
from typing import Any

from marzban_bridge.panels.users import Status
from marzban_bridge.simulator.http.api_key_answers import key_answer
from marzban_bridge.simulator.panel import rules
from marzban_bridge.simulator.panel.api_keys import (
    ApiKey,
    acting_admin,
    new_key_text,
    parse_key,
    permissions,
)
from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.panel.payloads.fields import Fields, integer, json_object, text_up_to
from marzban_bridge.simulator.panel.payloads.pasarguard import parse_template
from marzban_bridge.simulator.panel.roles import Role
from marzban_bridge.simulator.panel.users import SimulatedAdmin, SimulatedTemplate, SimulatedUser

ROLE_FLAGS = (
    "disabled_when_limited",
    "disconnect_users_when_limited",
    "disconnect_users_when_disabled",
)
ROLE_NAME_LENGTH = 64


def set_disabled(
    panel: SimulatedPanel, user: SimulatedUser, *, is_disabled: bool
) -> dict[str, Any]:
    """Turn the dashboard's switch: no edit, so that neither its time nor its event tells of it."""
    old_status = user.status
    if is_disabled:
        user.status = Status.DISABLED
    else:
        rules.enable(user, now=panel.clock(), dialect=panel.dialect)
    panel.revision += 1
    answer = panel.show(user)
    user.in_xray = panel.belongs_in_xray(user)
    if user.status is not old_status:
        panel.announce_status(user, by=None)
    return answer


def change_limits(panel: SimulatedPanel, amount_bytes: int, *, ids: Collection[int] = ()) -> int:
    """Add an amount to the limits of some users, or all, and return how many were meant.

    Neither the time of the edit nor an event tells of it. A limit that would be used up by a
    negative amount stays, though its user may change state.
    """
    panel.revision += 1
    changed = 0
    for user in panel.users.values():
        if not user.data_limit or (ids and user.id not in ids):
            continue
        new_limit = user.data_limit + amount_bytes
        if new_limit <= 0:
            continue
        changed += 1
        if new_limit <= user.used_traffic and user.status is Status.ACTIVE:
            user.status = Status.LIMITED
        elif new_limit > user.used_traffic and user.status is Status.LIMITED:
            user.status = Status.ACTIVE
        user.data_limit = new_limit
        user.in_xray = panel.belongs_in_xray(user)
    return changed


def add_template(panel: SimulatedPanel, body: object) -> SimulatedTemplate:
    """Create a template; RefusedError 422."""
    template = parse_template(1 + max(panel.templates, default=0), body)
    panel.templates[template.id] = template
    panel.revision += 1
    return template


def add_role(panel: SimulatedPanel, body: object) -> Role:
    """Create a role; RefusedError 422, or 409 for a name there is."""
    wanted = Fields(body)
    given = wanted.body
    name = wanted.read("name", text_up_to(ROLE_NAME_LENGTH)) or ""
    allowed = wanted.read("permissions", permissions)
    if not name:
        wanted.wrong.setdefault("name", "Field required")
    wanted.finish()
    if any(role.name == name for role in panel.roles.values()):
        raise RefusedError(409, "Role with this name already exists")
    role = Role(
        id=1 + max(panel.roles),
        name=name,
        permissions=allowed or {},
        **{flag: bool(given[flag]) for flag in ROLE_FLAGS if flag in given},
    )
    panel.roles[role.id] = role
    panel.revision += 1
    return role


def create_admin(panel: SimulatedPanel, body: object) -> SimulatedAdmin:
    """Create an admin with a role; RefusedError 422, 404 for a role or 409 for a name there is."""
    given = json_object_or_refuse(body)
    missing = {
        name: "Field required"
        for name in ("username", "password", "role_id")
        if given.get(name) is None
    }
    if missing:
        raise RefusedError(422, missing)
    if given["username"] in panel.admins:
        raise RefusedError(409, "Admin already exists")
    role = _role(panel, given["role_id"])
    admin = panel.add_admin(given["username"], password=given["password"])
    admin.role = role
    return modify_admin(panel, admin, {"data_limit": given.get("data_limit")})


def modify_admin(panel: SimulatedPanel, admin: SimulatedAdmin, body: object) -> SimulatedAdmin:
    """Change an admin; a raised or lifted quota takes one that was limited back at once."""
    wanted = Fields(body)
    data_limit = wanted.read("data_limit", integer)
    wanted.finish()
    given = wanted.body
    if given.get("password"):
        admin.password = given["password"]
    if given.get("role_id") is not None:
        admin.role = _role(panel, given["role_id"])
    if data_limit is not None:
        admin.data_limit = data_limit or None
    if given.get("status") in {"active", "disabled"}:
        admin.status = given["status"]
    elif admin.status == "limited" and not admin.is_over_its_limit:
        admin.status = "active"
    panel.revision += 1
    panel.follow_admin(admin)
    return admin


def reset_admin(panel: SimulatedPanel, admin: SimulatedAdmin) -> None:
    """Begin a new period of an admin's own quota; one that was limited is taken back."""
    admin.used_before_resets += admin.users_usage
    admin.users_usage = 0
    if admin.status == "limited":
        admin.status = "active"
    panel.revision += 1
    panel.follow_admin(admin)


def admin_of_key(panel: SimulatedPanel, text: str) -> SimulatedAdmin:
    """Return who acts with an API key; RefusedError 401 for one that opens nothing any more."""
    key = panel.api_keys.get(text)
    admin = panel.admins.get(key.admin) if key else None
    if key is None or admin is None or admin.status == "disabled":
        raise RefusedError(401, "Could not validate credentials")
    if not key.is_usable(panel.clock()):
        raise RefusedError(401, "Could not validate credentials")
    return acting_admin(key, admin)


def add_api_key(panel: SimulatedPanel, body: object, *, by: SimulatedAdmin) -> ApiKey:
    """Make a key of the admin's own; RefusedError 422, 403 beyond its permissions, 409."""
    found = parse_key(body, now=panel.clock(), by=by)
    if "name" not in found:
        raise RefusedError(422, {"name": "Field required"})
    if any((each.admin, each.name) == (by.username, found["name"]) for each in _keys(panel)):
        raise RefusedError(409, "API key name already exists")
    key = ApiKey(
        id=1 + max((each.id for each in _keys(panel)), default=0),
        key=new_key_text(),
        admin=by.username,
        created_at=panel.clock(),
        **found,
    )
    panel.api_keys[key.key] = key
    panel.revision += 1
    return key


def change_api_key(
    panel: SimulatedPanel, key_id: int, body: object, *, by: SimulatedAdmin
) -> ApiKey:
    """Change a key, or switch it off (`status` `disabled`); RefusedError 404, 403 or 422."""
    old = find_api_key(panel, key_id, by=by)
    names = {field.name for field in fields(ApiKey)}
    found = parse_key(body, now=panel.clock(), by=by)
    key = replace(old, **{name: value for name, value in found.items() if name in names})
    panel.api_keys[key.key] = key
    panel.revision += 1
    return key


def revoke_api_key(panel: SimulatedPanel, key_id: int, *, by: SimulatedAdmin) -> ApiKey:
    """Put another text in a key's place: the old one opens nothing any more."""
    old = find_api_key(panel, key_id, by=by)
    key = replace(old, key=new_key_text(), revoked_at=panel.clock(), status="active")
    del panel.api_keys[old.key]
    panel.api_keys[key.key] = key
    panel.revision += 1
    return key


def delete_api_key(panel: SimulatedPanel, key_id: int, *, by: SimulatedAdmin) -> None:
    """Delete a key; RefusedError 404 or 403."""
    del panel.api_keys[find_api_key(panel, key_id, by=by).key]
    panel.revision += 1


def find_api_key(panel: SimulatedPanel, key_id: int, *, by: SimulatedAdmin) -> ApiKey:
    """Return a key of the admin, or any to the owner; RefusedError 404 or 403."""
    for key in _keys(panel):
        if key.id == key_id:
            if key.admin != by.username and not by.role.is_owner:
                raise RefusedError(403, "Permission denied")
            return key
    raise RefusedError(404, "API key not found")


def show_api_key(panel: SimulatedPanel, key: ApiKey) -> dict[str, Any]:
    """Return a key without its text."""
    return key_answer(key, admin_id=panel.admins[key.admin].id, now=panel.clock())


def json_object_or_refuse(body: object) -> dict[str, Any]:
    """Return a JSON object; RefusedError 422 for anything else."""
    try:
        return dict(json_object(body))
    except TypeError as error:
        raise RefusedError(422, {"body": str(error)}) from error


def _keys(panel: SimulatedPanel) -> list[ApiKey]:
    return list(panel.api_keys.values())


def _role(panel: SimulatedPanel, role_id: object) -> Role:
    role = panel.roles.get(role_id) if isinstance(role_id, int) else None
    if role is None or role.is_owner:
        raise RefusedError(404, "Role not found")
    return role
