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

from marzban_bridge.panels.port import ResetStrategy, Status
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.panel.users import ResetLog, SimulatedPlan, SimulatedUser

_FIELDS = tuple(field.name for field in fields(SimulatedUser))
_TIMES = (
    "created_at",
    "on_hold_timeout",
    "edited_at",
    "online_at",
    "sub_updated_at",
    "sub_revoked_at",
)


def to_snapshot(panel: SimulatedPanel) -> dict[str, Any]:
    """Return what is needed to go on with the same users, admins and tokens."""
    return {
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


def restore_snapshot(panel: SimulatedPanel, snapshot: dict[str, Any]) -> None:
    """Put what `to_snapshot` returned in place of what the panel knows."""
    panel.secret = snapshot["secret"]
    panel.admins.clear()
    for name, admin in snapshot["admins"].items():
        added = panel.add_admin(name, password=admin["password"], is_sudo=admin["is_sudo"])
        added.users_usage = admin["users_usage"]
    users = [_user_from_json(data) for data in snapshot["users"]]
    panel.users = {panel.key(user.username): user for user in users}
    panel.ids = count(1 + max((user.id for user in users), default=0))
    panel.revision += 1


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
