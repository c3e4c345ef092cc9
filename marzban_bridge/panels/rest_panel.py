"""A panel behind the Panel port, of either kind: the panel's answers tell which one it is.

How a kind spells its interface is in `marzban` and `pasarguard`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import httpx

from marzban_bridge.errors import (
    NotThePanelError,
    PanelError,
    PanelFailingError,
    PanelLoginError,
    PanelRefusedError,
    PanelUnavailableError,
    UserNotFoundError,
)
from marzban_bridge.panels.api import PanelApi
from marzban_bridge.panels.check import PanelCheck
from marzban_bridge.panels.dialect import MARZBAN, Dialect, PanelKind
from marzban_bridge.panels.fields import bearer_of, expecting, json_of, text_of, whole
from marzban_bridge.panels.http.connection import SIGN_IN_PATH, PanelConnection
from marzban_bridge.panels.identity import PanelUsers
from marzban_bridge.panels.kinds import APIS, api_as_set, api_of, other_kind_of
from marzban_bridge.panels.listing import UserLists
from marzban_bridge.panels.names import FIRST_PANEL, account_key
from marzban_bridge.panels.users import (
    Listed,
    PanelAdmin,
    PanelEvent,
    PanelUser,
    SignInAnswer,
    UserUpdate,
)
from marzban_bridge.panels.write_guard import WriteGuard

log = logging.getLogger(__name__)

MAX_VERSION_LENGTH = 40
FORBIDDEN = 403


class RestPanel:
    """A panel, signed in to with an admin's name and password or with an API key.

    Signs in when first needed and again when its token is refused. The panel's kind is asked
    for when first needed, at each `check`, and when its users have another kind's fields; not where
    `kind` is given. Errors name the settings of the panel called `name`. `transport`
    replaces the network in tests and in the one-process mode; a `guard` is asked before each try of
    each write.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str,
        password: str,
        api_key: str = "",
        kind: PanelKind | None = None,
        name: str = FIRST_PANEL,
        timeout_seconds: float = 15,
        transport: httpx.AsyncBaseTransport | None = None,
        guard: WriteGuard | None = None,
    ) -> None:
        connection = PanelConnection(
            url,
            username=username,
            password=password,
            api_key=api_key,
            name=name,
            timeout_seconds=timeout_seconds,
            transport=transport,
            guard=guard,
            read_token=bearer_of,
        )
        self._client = connection.client
        self._session, self._gate = connection.session, connection.gate
        self._call, self._send = connection.call, connection.send
        self._lists = UserLists(
            self._call, read=self._read_user, get=self.get_user, prove=self.demand_there
        )
        self._is_kind_given = kind is not None
        self._api = APIS[kind] if kind else None
        self._dialect = self._api.dialect if self._api else MARZBAN
        self._version: str | None = None
        self._version_outages = 0
        self._lists_names_slowly = False

    @property
    def dialect(self) -> Dialect:
        """How this kind of panel behaves; Marzban's until it was asked."""
        return self._dialect

    async def close(self) -> None:
        """Close the connections to the panel."""
        await self._client.aclose()

    # --- which kind it is ------------------------------------------------------------------------

    async def check(self) -> PanelCheck:
        """Say who the bridge is in the panel, and what the panel is.

        NotThePanelError where there is no such question, PanelLoginError where the bridge's admin
        is disabled. The version is asked for once, and again after an outage: it may be another
        one then.
        """
        try:
            api, data = await self._recognise()
            me = api.read_admin(data)
            if self._version is None or self._version_outages != self._gate.failures:
                self._version_outages = self._gate.failures
                self._version = await self._ask_version()
        except PanelRefusedError as error:
            if error.status == FORBIDDEN:
                raise PanelLoginError(
                    f"{error}; the panel knows the bridge's admin and refuses it: is it disabled "
                    "there?"
                ) from error
            raise NotThePanelError(
                f"{error}; no panel answers so: is MARZBAN_URL a Marzban panel, or a PasarGuard?"
            ) from error
        return PanelCheck(
            admin=me.username,
            is_sudo=me.is_sudo,
            version=self._version,
            dialect=api.dialect,
            missing_permissions=me.missing_permissions,
        )

    async def _recognise(self) -> tuple[PanelApi, Any]:
        """Ask the panel who the bridge is, which tells its kind; return that and the answer."""
        data = json_of(await self._call("GET", "/api/admin"))
        before = self._api
        if self._is_kind_given:
            api = api_as_set(before or APIS[self._dialect.kind], data)
        else:
            api = api_of(data)
        self._api = api
        if before is not None and before.dialect.kind is not api.dialect.kind:
            log.warning(
                "the panel was %s and is %s: its users go on with their accounts",
                before.dialect.title,
                api.dialect.title,
            )
        if before is not api:
            self._version, self._lists_names_slowly = None, False
        self._dialect = api.dialect
        return api, data

    async def _known_api(self) -> PanelApi:
        """Return the interface of the panel's kind, which is asked for if it is not known."""
        return self._api or (await self._recognise())[0]

    def _read_user(self, item: Any) -> PanelUser:
        """Read a user; PanelUnavailableError where it is one of another kind of panel."""
        api = self._api or APIS[self._dialect.kind]
        if other := other_kind_of(item, api):
            if not self._is_kind_given:
                self._api = None
            raise PanelUnavailableError(
                f"the panel shows users of {other.title}, and was known as {api.dialect.title}: "
                + (
                    f"set the panel's kind (MARZBAN_KIND) to {other.kind}, or leave it out"
                    if self._is_kind_given
                    else "it is asked again which kind it is"
                )
            )
        return api.read_user(item)

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

    async def demand_there(self) -> None:
        """Raise PanelUnavailableError when the panel fails at what has nothing to do with a user.

        What is asked is answered from the panel's database.
        """
        api = await self._known_api()
        try:
            await self._call("GET", api.proof_path)
        except PanelFailingError as error:
            raise PanelUnavailableError(
                f"{error}: the panel, or its database, fails at everything"
            ) from error

    # --- users -----------------------------------------------------------------------------------

    async def get_user(self, username: str) -> PanelUser:
        """Return the user of exactly this name; UserNotFoundError when there is none."""
        await self._known_api()
        response = await self._call("GET", _user_path(username), username=username)
        return _asked_for(self._read_user(json_of(response)), username)

    async def get_user_as(self, username: str, *, bearer: str) -> PanelUser:
        """Return a user if the bearer of the token may see it; the panel decides."""
        await self._known_api()
        response = await self._call("GET", _user_path(username), username=username, bearer=bearer)
        return _asked_for(self._read_user(json_of(response)), username)

    async def get_users(self, usernames: Sequence[str]) -> Listed:
        """Return those of the named users that the panel lists, each read by itself."""
        await self._known_api()
        return await self._lists.users(usernames)

    async def usernames(self, *, offset: int, limit: int, admin: str | None = None) -> list[str]:
        """Return a page of the names of all users, or of an admin's; an odd one is empty."""

        async def ask(path: str) -> list[str]:
            return await self._lists.names(path, offset=offset, limit=limit, admin=admin)

        # Where names are listed fastest, none is asked for by its owner.
        return await (self._by_names_path(ask) if admin is None else ask("/api/users"))

    async def names_like(self, username: str) -> list[str]:
        """Return the names of all users that are equal to a name without case."""

        async def ask(path: str) -> list[str]:
            return await self._lists.names_like(path, username)

        return await self._by_names_path(ask)

    async def _by_names_path(self, ask: Callable[[str], Awaitable[list[str]]]) -> list[str]:
        """Ask where names are listed fastest, or where users are if that is not permitted."""
        api = await self._known_api()
        if not self._lists_names_slowly and api.names_path != "/api/users":
            try:
                answer = await ask(api.names_path)
            except PanelRefusedError as error:
                if error.status != FORBIDDEN:
                    raise
                self._lists_names_slowly = True
            else:
                return answer
        return await ask("/api/users")

    async def newest_users(self, *, limit: int) -> PanelUsers:
        """Return what tells the users that were created last from those of another panel."""
        return await self._lists.first("-created_at", limit, await self._known_api())

    async def heaviest_users(self, *, limit: int) -> PanelUsers:
        """Return the same of the users with the most traffic in their current period."""
        return await self._lists.first("-used_traffic,username", limit, await self._known_api())

    async def update_user(
        self, update: UserUpdate, *, on_lost_try: Callable[[], None] = lambda: None
    ) -> PanelUser:
        """Write only the given fields, with the next plan sent along so that it survives."""
        body: dict[str, object] = {}
        if update.data_limit_bytes is not None:
            if update.data_limit_bytes <= 0:
                raise ValueError(
                    f"refusing to write data_limit {update.data_limit_bytes} for "
                    f"{update.username}: the panel reads 0 as unlimited"
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
        await self._known_api()
        path = _user_path(update.username)
        response = await self._call(
            "PUT", path, json=body, username=update.username, on_lost_try=on_lost_try
        )
        return _asked_for(self._read_user(json_of(response)), update.username)

    async def reset_user(self, username: str) -> None:
        """Press the panel's "Reset usage" for one user."""
        await self._known_api()
        await self._call("POST", f"{_user_path(username)}/reset", username=username)

    async def fire_next_plan(self, username: str) -> None:
        """Fire the user's next plan.

        Marzban answers 404 although it fired the plan, so the user is read afterwards.
        """
        api = await self._known_api()
        try:
            path = f"{_user_path(username)}/{api.fire_path}"
            await self._call("POST", path, username=username)
        except UserNotFoundError:
            if not api.firing_answers_404:
                # Its plan is gone, or the user is: either is seen afterwards.
                log.info("the next plan of user=%r was gone when it was to be fired", username)

    async def reset_all(self, *, bearer: str | None = None) -> None:
        """Reset all users of the caller; the panel restarts xray on every node for it."""
        await self._call("POST", "/api/users/reset", bearer=bearer)

    # --- admins ----------------------------------------------------------------------------------

    async def whoami(self, *, bearer: str | None = None) -> PanelAdmin:
        """Return the admin of a token; PanelRefusedError with status 401 if it is not valid."""
        if bearer is None:
            api, data = await self._recognise()
            return api.read_admin(data)
        api = await self._known_api()
        return api.read_admin(json_of(await self._call("GET", "/api/admin", bearer=bearer)))

    async def admins(self, *, bearer: str | None = None) -> list[PanelAdmin]:
        """Return the admins in the panel's database; Marzban's environment's is not among them.

        One that cannot be read is left out, with a line in the log.
        """
        api = await self._known_api()
        response = await self._call("GET", "/api/admins", bearer=bearer)
        with expecting("list of admins"):
            items = list(api.read_admins(json_of(response)))
        found = []
        for item in items:
            try:
                found.append(api.read_admin(item))
            except PanelError as error:
                log.warning("one of the panel's admins is left out: %s", error)
        return found

    async def reset_admin_usage(self, username: str, *, bearer: str | None = None) -> None:
        """Set the panel's traffic counter of an admin to zero."""
        api = await self._known_api()
        path = api.admin_reset_path(quote(username, safe=""))
        await self._call("POST", path, bearer=bearer)

    async def sign_in_as(self, form: bytes, *, content_type: str) -> SignInAnswer:
        """Pass a person's sign-in form on and return what the panel answers."""
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

    # --- webhooks --------------------------------------------------------------------------------

    def event_of(self, data: Mapping[str, Any]) -> PanelEvent | None:
        """Read one event of a webhook; None for one that asks for no evaluation."""
        api = self._api or APIS[self._dialect.kind]
        other = other_kind_of(data.get("user"), api)
        return (APIS[other.kind] if other else api).read_event(data)


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
