"""What Marzban's answers mean: its JSON in the bridge's words, or why it is none.

Facts are of Marzban 0.8.4. Field names are spelt here as Marzban spells them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import httpx

from marzban_bridge.errors import OddUserError, PanelError
from marzban_bridge.panels.identity import PanelUsers, UserMark
from marzban_bridge.panels.names import account_key
from marzban_bridge.panels.users import (
    Listed,
    NextPlan,
    PanelAdmin,
    PanelEvent,
    PanelUser,
    ResetStrategy,
    Status,
)

log = logging.getLogger(__name__)

MAX_NUMBER = 2**60
"""Beyond any quota, moment or counter of a panel; sums of a few still fit 64 bits."""
MAX_NAME_LENGTH = 255
MAX_REASON_LENGTH = 200
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
"""Of webhooks: after each of these a user has to be looked at."""


@contextmanager
def expecting(what: str, kind: type[PanelError] = PanelError) -> Iterator[None]:
    """Make of an answer with another shape, whichever way it surprises, a PanelError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}"[:MAX_REASON_LENGTH]
        raise kind(
            f"the panel's {what} is not as Marzban 0.8.4 gives it ({reason}): "
            "is MARZBAN_URL a Marzban panel?"
        ) from error


def parse_user(data: Mapping[str, Any]) -> PanelUser:
    """Read a user object of the panel; OddUserError when it is not one.

    `data_limit` null and 0 both mean unlimited. `created_at` is UTC without saying so.
    """
    with expecting("user object", OddUserError):
        created_at, limit, owner = data.get("created_at"), data["data_limit"], data.get("admin")
        return PanelUser(
            username=_name(data["username"]),
            status=Status(data["status"]),
            data_limit_bytes=None if limit is None else _amount(limit) or None,
            used_bytes=_amount(data["used_traffic"]),
            lifetime_bytes=_amount(data["lifetime_used_traffic"]),
            reset_strategy=ResetStrategy(data.get("data_limit_reset_strategy") or "no_reset"),
            created_at=_utc(created_at) if created_at else None,
            expire=_whole_or_none(data.get("expire")),
            on_hold_expire_duration=_whole_or_none(data.get("on_hold_expire_duration")),
            next_plan=_parse_next_plan(data.get("next_plan")),
            admin=text_of(owner["username"]) if owner else None,
            online_at=_online_at(data.get("online_at")),
            note=None if data.get("note") is None else text_of(data["note"]),
        )


def _online_at(found: object) -> datetime | None:
    """Read when a user was last online; None where it is not said in a way that can be read."""
    try:
        return _utc(found) if isinstance(found, str) else None
    except (ValueError, OverflowError):
        return None


def parse_event(data: Mapping[str, Any]) -> PanelEvent | None:
    """Read one event of a webhook; None for one of which no user has to be looked at.

    Marzban sends the user along as it is after what happened.
    """
    action = data["action"]
    if action not in TELLING_ACTIONS:
        return None
    user = None
    if action in RESET_ACTIONS:
        with suppress(LookupError, OddUserError):
            user = parse_user(data["user"])
    return PanelEvent(username=data["username"], is_reset=action in RESET_ACTIONS, user=user)


def parse_panel_users(data: Mapping[str, Any]) -> PanelUsers:
    """Read what tells one panel's users from another's; who cannot be read is left out."""
    with expecting("list of users"):
        total = whole(data["total"])
        marks, lifetime_bytes = dict[str, UserMark](), dict[str, int]()
        for item in list(data["users"]):
            with suppress(OddUserError):
                user = parse_user(item)
                key = account_key(user.username)
                made = json.dumps(item.get("proxies"), sort_keys=True)
                digest = hashlib.sha256(made.encode()).hexdigest()
                marks[key] = UserMark(created_at=user.created_at, credentials=digest)
                lifetime_bytes[key] = user.lifetime_bytes
        return PanelUsers(total=total, marks=marks, lifetime_bytes=lifetime_bytes)


def read_into(listed: Listed, item: Any) -> None:
    """Read a user of a list; one that cannot be read is set aside, if it says who it is."""
    try:
        listed.users.append(parse_user(item))
    except OddUserError as error:
        if name := name_in(item):
            listed.aside[name] = str(error)
        else:
            log.warning("one of the panel's users is left out, and has no name: %s", error)


def name_in(item: Any) -> str | None:
    """Return the name of a user of a list; None where there is none."""
    with suppress(LookupError, TypeError, ValueError):
        return _name(item["username"])
    return None


def bearer_of(response: httpx.Response) -> str:
    """Read the token of a sign-in's answer; PanelError when there is none that fits a header."""
    data = json_of(response)
    with expecting("answer to a sign-in"):
        token = data["access_token"]
        if not isinstance(token, str) or not token or not (token.isascii() and token.isprintable()):
            raise ValueError("no token")
        return token


def json_of(response: httpx.Response) -> Any:
    """Return the answer's JSON; PanelError for what a proxy or another program may answer."""
    try:
        return response.json()
    except (ValueError, RecursionError) as error:
        raise PanelError(
            f"{response.request.url.copy_with(query=None)} answers {response.status_code} with "
            "something that is not JSON: is MARZBAN_URL a Marzban panel?"
        ) from error


def parse_admin(data: Mapping[str, Any]) -> PanelAdmin:
    """Read an admin object of the panel; PanelError when it is not one."""
    with expecting("admin object"):
        is_sudo = data["is_sudo"]
        if not isinstance(is_sudo, bool):
            raise TypeError("is_sudo is neither true nor false")
        used_bytes = _whole_or_none(data.get("users_usage")) or 0
        return PanelAdmin(
            username=text_of(data["username"]), is_sudo=is_sudo, used_bytes=used_bytes
        )


def _parse_next_plan(data: Mapping[str, Any] | None) -> NextPlan | None:
    if not data:
        return None
    json.dumps(data, allow_nan=False, ensure_ascii=False).encode()  # it has to be sent back
    return NextPlan(
        data_limit_bytes=_whole_or_none(data.get("data_limit")),
        expire=_whole_or_none(data.get("expire")),
        adds_remaining_traffic=bool(data.get("add_remaining_traffic", False)),
        fires_on_either=bool(data.get("fire_on_either", True)),
        panel_fields=dict(data),
    )


def whole(value: object) -> int:
    """Return a number the books can hold."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_NUMBER:
        raise ValueError("a number is expected where there is none")
    return value


def _amount(value: object) -> int:
    """Return a number of bytes that were used, or may be."""
    amount = whole(value)
    if amount < 0:
        raise ValueError(f"{amount} bytes are expected where there are none below zero")
    return amount


def _whole_or_none(value: object) -> int | None:
    return None if value is None else whole(value)


def text_of(value: object) -> str:
    """Return a text that can be stored and sent."""
    if not isinstance(value, str):
        raise TypeError("a text is expected where there is none")
    value.encode()
    return value


def _name(value: object) -> str:
    name = text_of(value)
    if not name or not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        raise ValueError("no username")
    return name


def _utc(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
