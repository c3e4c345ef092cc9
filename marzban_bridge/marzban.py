"""The Marzban panel behind the Panel port: its REST API, spellings, errors and quirks.

Facts are of Marzban 0.8.4. Field names are spelt here as Marzban spells them, and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx

from marzban_bridge.accounts import account_key
from marzban_bridge.errors import (
    NotThePanelError,
    PanelError,
    PanelFailingError,
    PanelRefusedError,
    PanelUnavailableError,
    UserNotFoundError,
)
from marzban_bridge.panel import (
    NextPlan,
    PanelAdmin,
    PanelCheck,
    PanelUser,
    ResetStrategy,
    Status,
    UserUpdate,
)
from marzban_bridge.panel_connection import SIGN_IN_PATH, PanelConnection
from marzban_bridge.panel_names import FIRST_PANEL, folded
from marzban_bridge.panel_pages import once, past_failing_names, past_failures
from marzban_bridge.write_guard import WriteGuard

MAX_NUMBER = 2**60
"""Beyond any quota, moment or counter of a panel; sums of a few still fit 64 bits."""
MAX_NAME_LENGTH = 255
MAX_REASON_LENGTH = 200
MAX_VERSION_LENGTH = 40
NAMES_PER_PAGE = 200
NAMES_PER_REQUEST = 50
"""Keeps the query string of a filtered user list well under common 8 KiB limits."""


class Marzban:
    """A Marzban panel, signed in to with an admin's name and password.

    Signs in when first needed and again when its token is refused. Errors name the settings of the
    panel called `name`. `transport` replaces the network in tests and in the one-process mode; a
    `guard` is asked before each try of each write.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str,
        password: str,
        name: str = FIRST_PANEL,
        timeout_seconds: float = 15,
        transport: httpx.AsyncBaseTransport | None = None,
        guard: WriteGuard | None = None,
    ) -> None:
        connection = PanelConnection(
            url,
            username=username,
            password=password,
            name=name,
            timeout_seconds=timeout_seconds,
            transport=transport,
            guard=guard,
            read_token=bearer_of,
        )
        self._client = connection.client
        self._session, self._gate = connection.session, connection.gate
        self._call, self._send = connection.call, connection.send
        self._version: str | None = None
        self._version_outages = 0

    async def close(self) -> None:
        """Close the connections to the panel."""
        await self._client.aclose()

    async def check(self) -> PanelCheck:
        """Say who the bridge is in the panel, and what the panel is.

        NotThePanelError where there is no such question. The version is asked for once, and again
        after an outage: it may be another one then.
        """
        try:
            me = await self.whoami()
            if self._version is None or self._version_outages != self._gate.failures:
                self._version_outages = self._gate.failures
                self._version = await self._ask_version()
        except PanelRefusedError as error:
            raise NotThePanelError(
                f"{error}; Marzban does not answer so: is MARZBAN_URL a Marzban panel?"
            ) from error
        return PanelCheck(admin=me.username, is_sudo=me.is_sudo, version=self._version)

    async def _ask_version(self) -> str | None:
        try:
            response = await self._call("GET", "/api/system")
        except PanelRefusedError:
            return None
        with suppress(PanelError), expecting("system object"):
            data = _json(response)
            _whole(data["total_user"])
            return _text(data["version"])[:MAX_VERSION_LENGTH]
        return None

    async def get_user(self, username: str) -> PanelUser:
        """Return the user of exactly this name; UserNotFoundError when there is none."""
        response = await self._call("GET", _user_path(username), username=username)
        return _asked_for(parse_user(_json(response)), username)

    async def get_users(self, usernames: Sequence[str]) -> list[PanelUser]:
        """Return those of the named users that the panel lists.

        A user without `created_at` makes Marzban answer 500 for any page that contains it; the
        page is then read in parts and that user left out. Whether it is the panel that fails is
        asked first, and no page is taken apart for any other answer.
        """
        users: list[PanelUser] = []
        prove = once(self.demand_there)
        for start in range(0, len(usernames), NAMES_PER_REQUEST):
            names = usernames[start : start + NAMES_PER_REQUEST]
            users += await past_failing_names(self._list, prove, names)
        return users

    async def _list(self, names: Sequence[str]) -> list[PanelUser]:
        response = await self._call("GET", "/api/users", params={"username": list(names)})
        with expecting("list of users"):
            return [parse_user(item) for item in _json(response)["users"]]

    async def usernames(self, *, offset: int, limit: int) -> list[str]:
        """Return a page of the names of all users, in their order."""
        return await self._names(offset, limit, search=None)

    async def names_like(self, username: str) -> list[str]:
        """Return the names of all users that are equal to a name without case.

        The panel's search finds names and notes that contain the text, `%` and `_` standing for
        anything. A page with a user that makes the panel fail is read in parts, without that user.
        """

        async def ask(offset: int, limit: int) -> list[str]:
            return await self._names(offset, limit, search=username)

        found: list[str] = []
        prove = once(self.demand_there)
        while True:
            page = await past_failures(ask, prove, offset=len(found), limit=NAMES_PER_PAGE)
            found += page
            if len(page) < NAMES_PER_PAGE:
                return [name for name in found if name and folded(name) == folded(username)]

    async def _names(self, offset: int, limit: int, *, search: str | None) -> list[str]:
        params: dict[str, str | int] = {"offset": offset, "limit": limit, "sort": "username"}
        if search is not None:
            params["search"] = search
        response = await self._call("GET", "/api/users", params=params)
        with expecting("list of users"):
            return [_name(item["username"]) for item in _json(response)["users"]]

    async def demand_there(self) -> None:
        """Raise PanelUnavailableError when the panel fails at what has nothing to do with a user.

        Marzban tells its environment's admin who it is without its database, so that is not asked.
        """
        try:
            await self._call("GET", "/api/system")
        except PanelFailingError as error:
            raise PanelUnavailableError(
                f"{error}: the panel, or its database, fails at everything"
            ) from error

    async def update_user(
        self, update: UserUpdate, *, on_lost_try: Callable[[], None] = lambda: None
    ) -> PanelUser:
        """Write only the given fields, with the next plan sent along so that it survives."""
        body: dict[str, object] = {}
        if update.data_limit_bytes is not None:
            if update.data_limit_bytes <= 0:
                raise ValueError(
                    f"refusing to write data_limit {update.data_limit_bytes} for "
                    f"{update.username}: Marzban reads 0 as unlimited"
                )
            body["data_limit"] = update.data_limit_bytes
        if update.status is not None:
            body["status"] = update.status.value
        if update.on_hold_expire_duration is not None:
            body["on_hold_expire_duration"] = update.on_hold_expire_duration
        if update.next_plan is not None:
            body["next_plan"] = dict(update.next_plan.panel_fields)
        if update.note is not None:
            body["note"] = update.note
        path = _user_path(update.username)
        response = await self._call(
            "PUT", path, json=body, username=update.username, on_lost_try=on_lost_try
        )
        return _asked_for(parse_user(_json(response)), update.username)

    async def reset_user(self, username: str) -> None:
        """Press the panel's "Reset usage" for one user."""
        await self._call("POST", f"{_user_path(username)}/reset", username=username)

    async def fire_next_plan(self, username: str) -> None:
        """Fire the user's next plan; Marzban answers 404 although it fired, so look afterwards."""
        try:
            await self._call("POST", f"{_user_path(username)}/active-next", username=username)
        except UserNotFoundError:
            return

    async def reset_all(self, *, bearer: str | None = None) -> None:
        """Reset all users of the caller; Marzban restarts xray on every node for it."""
        await self._call("POST", "/api/users/reset", bearer=bearer)

    async def whoami(self, *, bearer: str | None = None) -> PanelAdmin:
        """Return whose token it is; PanelRefusedError with status 401 when it is nobody's."""
        response = await self._call("GET", "/api/admin", bearer=bearer)
        return _parse_admin(_json(response))

    async def admins(self, *, bearer: str | None = None) -> list[PanelAdmin]:
        """Return the admins in the panel's database; the environment's admin is not among them."""
        response = await self._call("GET", "/api/admins", bearer=bearer)
        with expecting("list of admins"):
            return [_parse_admin(item) for item in _json(response)]

    async def admin_usage_bytes(self, username: str, *, bearer: str | None = None) -> int:
        """Return the panel's own traffic counter of an admin."""
        path = f"/api/admin/usage/{quote(username, safe='')}"
        response = await self._call("GET", path, bearer=bearer)
        with expecting("counter of an admin"):
            return _whole(_json(response))

    async def reset_admin_usage(self, username: str, *, bearer: str | None = None) -> None:
        """Set the panel's traffic counter of an admin to zero."""
        path = f"/api/admin/usage/reset/{quote(username, safe='')}"
        await self._call("POST", path, bearer=bearer)

    async def get_user_as(self, username: str, *, bearer: str) -> PanelUser:
        """Return a user if the bearer of the token may see it; the panel decides."""
        response = await self._call("GET", _user_path(username), username=username, bearer=bearer)
        return _asked_for(parse_user(_json(response)), username)

    async def sign_in_as(self, body: bytes, *, content_type: str) -> httpx.Response:
        """Pass somebody's sign-in through and return the panel's answer as it is."""
        headers = {"content-type": content_type}
        return await self._send(
            "POST", SIGN_IN_PATH, content=body, extra_headers=headers, is_own=False
        )


@contextmanager
def expecting(what: str) -> Iterator[None]:
    """Make of an answer with another shape, whichever way it surprises, a PanelError."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__} {error}"[:MAX_REASON_LENGTH]
        raise PanelError(
            f"the panel's {what} is not as Marzban 0.8.4 gives it ({reason}): "
            "is MARZBAN_URL a Marzban panel?"
        ) from error


def parse_user(data: Mapping[str, Any]) -> PanelUser:
    """Read a user object of the panel; PanelError when it is not one.

    `data_limit` null and 0 both mean unlimited. `created_at` is UTC without saying so.
    """
    with expecting("user object"):
        created_at, limit, owner = data.get("created_at"), data["data_limit"], data.get("admin")
        return PanelUser(
            username=_name(data["username"]),
            status=Status(data["status"]),
            data_limit_bytes=None if limit is None else _whole(limit) or None,
            used_bytes=_whole(data["used_traffic"]),
            lifetime_bytes=_whole(data["lifetime_used_traffic"]),
            reset_strategy=ResetStrategy(data.get("data_limit_reset_strategy") or "no_reset"),
            created_at=_utc(created_at) if created_at else None,
            expire=_whole_or_none(data.get("expire")),
            on_hold_expire_duration=_whole_or_none(data.get("on_hold_expire_duration")),
            next_plan=_parse_next_plan(data.get("next_plan")),
            admin=_text(owner["username"]) if owner else None,
            note=None if data.get("note") is None else _text(data["note"]),
        )


def _asked_for(user: PanelUser, username: str) -> PanelUser:
    """Return the user if it is the one asked for; a database may pad names with blanks."""
    if account_key(user.username) != account_key(username):
        raise UserNotFoundError(username)
    return user


def bearer_of(response: httpx.Response) -> str:
    """Read the token of a sign-in's answer; PanelError when there is none that fits a header."""
    data = _json(response)
    with expecting("answer to a sign-in"):
        token = data["access_token"]
        if not isinstance(token, str) or not token or not (token.isascii() and token.isprintable()):
            raise ValueError("no token")
        return token


def _json(response: httpx.Response) -> Any:
    """Return the answer's JSON; PanelError for what a proxy or another program may answer."""
    try:
        return response.json()
    except (ValueError, RecursionError) as error:
        raise PanelError(
            f"{response.request.url.copy_with(query=None)} answers {response.status_code} with "
            "something that is not JSON: is MARZBAN_URL a Marzban panel?"
        ) from error


def _parse_admin(data: Mapping[str, Any]) -> PanelAdmin:
    with expecting("admin object"):
        is_sudo = data["is_sudo"]
        if not isinstance(is_sudo, bool):
            raise TypeError("is_sudo is neither true nor false")
        used_bytes = _whole_or_none(data.get("users_usage")) or 0
        return PanelAdmin(username=_text(data["username"]), is_sudo=is_sudo, used_bytes=used_bytes)


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


def _whole(value: object) -> int:
    """Return a number the books can hold."""
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_NUMBER:
        raise ValueError("a number is expected where there is none")
    return value


def _whole_or_none(value: object) -> int | None:
    return None if value is None else _whole(value)


def _text(value: object) -> str:
    """Return a text that can be stored and sent."""
    if not isinstance(value, str):
        raise TypeError("a text is expected where there is none")
    value.encode()
    return value


def _name(value: object) -> str:
    name = _text(value)
    if not name or not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        raise ValueError("no username")
    return name


def _utc(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _user_path(username: str) -> str:
    if username in {"", ".", ".."} or "/" in username or username != username.strip():
        # It would name something else: Marzban takes an encoded slash for a slash, and MariaDB a
        # name for that with blanks at its end.
        raise UserNotFoundError(username)
    return f"/api/user/{quote(username, safe='')}"
