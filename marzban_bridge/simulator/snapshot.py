"""A simulated panel's users and admins as JSON, so that they survive a restart.

The webhook queue is left out: the panel loses it on a restart too.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marzban_bridge.panels.users import ResetStrategy, Status
from marzban_bridge.simulator.panel.api_keys import ApiKey
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.panel.roles import Role
from marzban_bridge.simulator.panel.users import (
    ResetLog,
    SimulatedPlan,
    SimulatedTemplate,
    SimulatedUser,
)
from marzban_bridge.simulator.panel.webhook_settings import WebhookReceiver, WebhookSettings

_FIELDS = tuple(field.name for field in fields(SimulatedUser))
_KEY_TIMES = ("created_at", "expire_date", "revoked_at")
_TIMES = (
    "created_at",
    "on_hold_timeout",
    "edited_at",
    "online_at",
    "sub_updated_at",
    "sub_revoked_at",
)


class WrongKindError(Exception):
    """The copy is of another kind of panel than the one that is to take it."""


def to_snapshot(panel: SimulatedPanel) -> dict[str, Any]:
    """Return what is needed to go on with the same users, admins and tokens."""
    snapshot: dict[str, Any] = {
        "kind": panel.kind,
        "secret": panel.secret,
        "admins": {
            admin.username: {
                "password": admin.password,
                "is_sudo": admin.is_sudo,
                "users_usage": admin.users_usage,
            }
            for admin in panel.admins.values()
        },
        "users": [_user_to_json(user) for user in panel.users.values()],
    }
    return snapshot | (_pasarguard_to_json(panel) if panel.kind == "pasarguard" else {})


def restore_snapshot(panel: SimulatedPanel, snapshot: dict[str, Any]) -> None:
    """Put what `to_snapshot` returned in place of what the panel knows.

    A PasarGuard takes a Marzban's copy, as by a change of the image's tag: users, admins and
    subscription tokens stay. WrongKindError the other way round.
    """
    kind = snapshot.get("kind", "marzban")
    if kind != panel.kind and (kind, panel.kind) != ("marzban", "pasarguard"):
        raise WrongKindError(f"it is the copy of a {kind}, which a {panel.kind} cannot take")
    panel.secret = snapshot["secret"]
    panel.admins.clear()
    for name, admin in snapshot["admins"].items():
        added = panel.add_admin(name, password=admin["password"], is_sudo=admin["is_sudo"])
        added.users_usage = admin["users_usage"]
    users = [_user_from_json(data) for data in snapshot["users"]]
    panel.users = {panel.key(user.username): user for user in users}
    panel.ids = count(1 + max((user.id for user in users), default=0))
    if kind == "pasarguard":
        _pasarguard_from_json(panel, snapshot)
    panel.revision += 1


def _pasarguard_to_json(panel: SimulatedPanel) -> dict[str, Any]:
    return {
        "roles": [asdict(role) for role in panel.roles.values()],
        "admin_details": {
            admin.username: {
                "role": admin.role.id,
                "data_limit": admin.data_limit,
                "status": admin.status,
                "used_before_resets": admin.used_before_resets,
            }
            for admin in panel.admins.values()
        },
        "templates": [asdict(template) for template in panel.templates.values()],
        "api_keys": [
            asdict(key) | {name: _time_to_json(getattr(key, name)) for name in _KEY_TIMES}
            for key in panel.api_keys.values()
        ],
        "webhook": asdict(panel.webhook_settings),
    }


def _pasarguard_from_json(panel: SimulatedPanel, snapshot: dict[str, Any]) -> None:
    roles = [Role(**role) for role in snapshot["roles"]]
    panel.roles = {role.id: role for role in roles}
    for name, details in snapshot["admin_details"].items():
        admin = panel.admins[name]
        admin.role = panel.roles[details["role"]]
        admin.data_limit = details["data_limit"]
        admin.status = details["status"]
        admin.used_before_resets = details["used_before_resets"]
    panel.templates = {each["id"]: _template_from_json(each) for each in snapshot["templates"]}
    panel.api_keys = {}
    for data in snapshot["api_keys"]:
        times = {name: _time_from_json(data[name]) for name in _KEY_TIMES}
        panel.api_keys[data["key"]] = ApiKey(**(data | times))
    panel.webhook_settings = _settings_from_json(snapshot["webhook"])


def _settings_from_json(data: dict[str, Any]) -> WebhookSettings:
    values = {
        "receivers": tuple(WebhookReceiver(**each) for each in data["receivers"]),
        "days_left": tuple(data["days_left"]),
        "usage_percent": tuple(data["usage_percent"]),
    }
    return WebhookSettings(**(data | values))


def _template_from_json(data: dict[str, Any]) -> SimulatedTemplate:
    values = {
        "status": Status(data["status"]),
        "data_limit_reset_strategy": ResetStrategy(data["data_limit_reset_strategy"]),
        "group_ids": tuple(data["group_ids"]),
    }
    return SimulatedTemplate(**(data | values))


def _user_to_json(user: SimulatedUser) -> dict[str, Any]:
    """Return the user's fields; `dataclasses.asdict` would copy a large panel for seconds."""
    data = {name: getattr(user, name) for name in _FIELDS}
    for name in _TIMES:
        data[name] = _time_to_json(data[name])
    data["next_plan"] = asdict(user.next_plan) if user.next_plan else None
    data["reset_logs"] = [
        {"used_traffic": log.used_traffic, "reset_at": _time_to_json(log.reset_at)}
        for log in user.reset_logs
    ]
    return data


def _user_from_json(data: dict[str, Any]) -> SimulatedUser:
    logs = [
        ResetLog(used_traffic=log["used_traffic"], reset_at=datetime.fromisoformat(log["reset_at"]))
        for log in data["reset_logs"]
    ]
    plan = SimulatedPlan(**data["next_plan"]) if data["next_plan"] else None
    times = {name: _time_from_json(data[name]) for name in _TIMES}
    values = (
        data
        | times
        | {
            "status": Status(data["status"]),
            "data_limit_reset_strategy": ResetStrategy(data["data_limit_reset_strategy"]),
            "next_plan": plan,
            "reset_logs": logs,
        }
    )
    return SimulatedUser(**values)


def _time_to_json(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


def _time_from_json(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def write_state(panel: SimulatedPanel, path: Path) -> None:
    """Write the panel's users into a file, in one step."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(to_snapshot(panel)), encoding="utf-8")
    new.replace(path)


class SavesFirst:
    """Answers a change once it is in the file, as a panel answers after its database's commit."""

    def __init__(self, app: ASGIApp, *, panel: SimulatedPanel, path: Path) -> None:
        self._app = app
        self._panel = panel
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        revision = self._panel.revision

        async def save_and_send(message: Message) -> None:
            nonlocal revision
            if self._panel.revision != revision:
                revision = self._panel.revision
                write_state(self._panel, self._path)
            await send(message)

        await self._app(scope, receive, save_and_send)
