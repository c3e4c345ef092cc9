"""The Marzban panel behind the Panel port: its REST API, spellings, errors and quirks.

Facts are of Marzban 0.8.4. Field names are spelt here as Marzban spells them, and nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httpx

from marzban_bridge.errors import (
    NotThePanelError,
    OddUserError,
    PanelError,
    PanelFailingError,
    PanelRefusedError,
    PanelUnavailableError,
    UserNotFoundError,
)
from marzban_bridge.panels.connection import SIGN_IN_PATH, PanelConnection
from marzban_bridge.panels.dialect import MARZBAN
from marzban_bridge.panels.identity import PanelUsers
from marzban_bridge.panels.marzban_answers import (
    bearer_of,
    expecting,
    json_of,
    name_in,
    parse_admin,
    parse_event,
    parse_panel_users,
    parse_user,
    read_into,
    text_of,
    whole,
)
from marzban_bridge.panels.names import FIRST_PANEL, account_key, folded
from marzban_bridge.panels.pages import Prove, once, past_failures
from marzban_bridge.panels.queries import queries
from marzban_bridge.panels.users import (
    Listed,
    PanelAdmin,
    PanelCheck,
    PanelEvent,
    PanelUser,
    SignInAnswer,
    UserUpdate,
)
from marzban_bridge.panels.write_guard import WriteGuard

log = logging.getLogger(__name__)

MAX_VERSION_LENGTH = 40
NAMES_PER_PAGE = 200
REFUSALS_OF_A_LIST = frozenset({400, 404, 413, 414, 422, 431})
"""Of the panel, or of what is before it: about what is in the list, or how long that makes it."""


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
        self.dialect = MARZBAN
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
            data = json_of(response)
            whole(data["total_user"])
            return text_of(data["version"])[:MAX_VERSION_LENGTH]
        return None

    async def get_user(self, username: str) -> PanelUser:
        """Return the user of exactly this name; UserNotFoundError when there is none."""
        response = await self._call("GET", _user_path(username), username=username)
        return _asked_for(parse_user(json_of(response)), username)

    async def get_users(self, usernames: Sequence[str]) -> Listed:
        """Return those of the named users that the panel lists, each read by itself.

        A user that cannot be read is set aside. A user without `created_at` makes Marzban answer
        500 for any page that contains it, and what is before the panel may refuse a list: that is
        halved, down to the one user who is set aside. Whether it is the panel that fails is asked
        first, and no list is taken apart for an outage.
        """
        listed, prove = Listed(), once(self.demand_there)
        for names in queries(usernames):
            await self._list(names, listed, prove)
        return listed

    async def _list(self, names: Sequence[str], listed: Listed, prove: Prove) -> None:
        if listed.is_refused:
            await self._get_one_by_one(names, listed)
            return
        try:
            response = await self._call("GET", "/api/users", params={"username": list(names)})
        except PanelFailingError:
            await prove()
            if len(names) == 1:
                listed.aside[names[0]] = "the panel fails at it (500)"
                return
        except PanelRefusedError as error:
            if error.status not in REFUSALS_OF_A_LIST:
                raise
            if len(names) == 1:
                # Where this one can be asked for by itself, lists are refused whatever is in them.
                listed.is_refused = await self._get_one_by_one(names, listed)
                return
        else:
            with expecting("list of users"):
                items = list(json_of(response)["users"])
            for item in items:
                read_into(listed, item)
            return
        half = len(names) // 2
        await self._list(names[:half], listed, prove)
        await self._list(names[half:], listed, prove)

    async def usernames(self, *, offset: int, limit: int) -> list[str]:
        """Return a page of the names of all users, in their order; an odd one is empty."""
        return await self._names(offset, limit, search=None)

    async def newest_users(self, *, limit: int) -> PanelUsers:
        """Return what tells the users that were created last from those of another panel."""
        return await self._first_users("-created_at", limit)

    async def heaviest_users(self, *, limit: int) -> PanelUsers:
        """Return the same of the users with the most traffic in their current period."""
        return await self._first_users("-used_traffic,username", limit)

    async def _first_users(self, sort: str, limit: int) -> PanelUsers:
        """Return the first users of a list; fewer where the panel fails at one of so many."""
        while True:
            params: dict[str, str | int] = {"limit": limit, "sort": sort}
            try:
                response = await self._call("GET", "/api/users", params=params)
            except PanelFailingError:
                if limit == 1:
                    raise
                limit //= 2
                continue
            return parse_panel_users(json_of(response))

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
            items = list(json_of(response)["users"])
        return [name_in(item) or "" for item in items]

    async def _get_one_by_one(self, usernames: Sequence[str], listed: Listed) -> bool:
        """Ask for each user by itself; return whether the panel took all of these questions."""
        is_taken = True
        for username in usernames:
            try:
                listed.users.append(await self.get_user(username))
            except UserNotFoundError:
                continue
            except PanelFailingError:
                listed.aside[username] = "the panel fails at it (500)"
            except OddUserError as error:
                listed.aside[username] = str(error)
            except PanelRefusedError as error:
                if error.status not in REFUSALS_OF_A_LIST:
                    raise
                is_taken = False
                listed.aside[username] = f"the panel refuses to be asked for it ({error.status})"
        return is_taken

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
        elif update.lifts_limit:
            body["data_limit"] = 0
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
        return _asked_for(parse_user(json_of(response)), update.username)

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
        return parse_admin(json_of(response))

    async def admins(self, *, bearer: str | None = None) -> list[PanelAdmin]:
        """Return the admins in the panel's database; the environment's admin is not among them.

        One that cannot be read is left out, with a line in the log.
        """
        response = await self._call("GET", "/api/admins", bearer=bearer)
        with expecting("list of admins"):
            items = list(json_of(response))
        found = []
        for item in items:
            try:
                found.append(parse_admin(item))
            except PanelError as error:
                log.warning("one of the panel's admins is left out: %s", error)
        return found

    async def reset_admin_usage(self, username: str, *, bearer: str | None = None) -> None:
        """Set the panel's traffic counter of an admin to zero."""
        path = f"/api/admin/usage/reset/{quote(username, safe='')}"
        await self._call("POST", path, bearer=bearer)

    async def get_user_as(self, username: str, *, bearer: str) -> PanelUser:
        """Return a user if the bearer of the token may see it; the panel decides."""
        response = await self._call("GET", _user_path(username), username=username, bearer=bearer)
        return _asked_for(parse_user(json_of(response)), username)

    async def sign_in_as(self, form: bytes, *, content_type: str) -> SignInAnswer:
        """Pass somebody's sign-in form on and return what the panel answers."""
        headers = {"content-type": content_type}
        response = await self._send(
            "POST", SIGN_IN_PATH, content=form, extra_headers=headers, is_own=False
        )
        token = None
        if response.is_success:
            with suppress(PanelError):  # the caller is told what the panel says, as it is
                token = bearer_of(response)
        return SignInAnswer(
            status=response.status_code,
            body=response.content,
            content_type=response.headers.get("content-type"),
            token=token,
        )

    def event_of(self, data: Mapping[str, Any]) -> PanelEvent | None:
        """Read one event of a webhook; None for one of which no user has to be looked at."""
        return parse_event(data)


def _asked_for(user: PanelUser, username: str) -> PanelUser:
    """Return the user if it is the one asked for; a database may pad names with blanks."""
    if account_key(user.username) != account_key(username):
        raise UserNotFoundError(username)
    return user


def _user_path(username: str) -> str:
    if username in {"", ".", ".."} or "/" in username or username != username.strip():
        # It would name something else: Marzban takes an encoded slash for a slash, and MariaDB a
        # name for that with blanks at its end.
        raise UserNotFoundError(username)
    return f"/api/user/{quote(username, safe='')}"
