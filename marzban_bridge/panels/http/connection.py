"""The way to one panel over HTTP: signed in, one try or two, and what an answer means.

What is asked and how an answer reads is the business of `rest_panel`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import httpx

from marzban_bridge.errors import (
    NotThePanelError,
    PanelBusyError,
    PanelFailingError,
    PanelLoginError,
    PanelRefusedError,
    PanelUnavailableError,
    UserNotFoundError,
)
from marzban_bridge.panels.http.answers import is_outage, no_answer, other_than_panel
from marzban_bridge.panels.http.gate import PanelGate
from marzban_bridge.panels.http.retry_after import bounded_seconds
from marzban_bridge.panels.http.session import PanelSession
from marzban_bridge.panels.names import FIRST_PANEL
from marzban_bridge.panels.write_guard import CONNECTIONS, WriteGuard

SIGN_IN_PATH = "/api/admin/token"
API_KEY_PREFIX = "pg_key_"
"""Of PasarGuard's API keys, which people may have in a token's place, too."""


class PanelConnection:
    """Sends requests to one panel as the bridge's admin, or as whose bearer is given.

    Raises PanelUnavailableError when the call may succeed later, PanelFailingError for a 500,
    NotThePanelError when something else answers, PanelLoginError when the bridge's credentials are
    refused, and PanelRefusedError when the panel says no. A panel that is away, or asks to be left
    alone, gets no more requests than `PanelGate` lets through.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str,
        password: str,
        api_key: str = "",
        name: str,
        timeout_seconds: float,
        transport: httpx.AsyncBaseTransport | None,
        guard: WriteGuard | None,
        read_token: Callable[[httpx.Response], str],
    ) -> None:
        self.client = httpx.AsyncClient(
            base_url=url,
            timeout=timeout_seconds,
            transport=transport or (guard.transport() if guard else None),
            limits=CONNECTIONS,
            follow_redirects=False,
            headers=guard.headers() if guard else None,
        )
        self._guard = guard
        self._url = url
        self._username = username
        self._password = password
        self._api_key = api_key
        self._is_first = name == FIRST_PANEL
        self._url_setting = "MARZBAN_URL" if self._is_first else f"[{name}] url"
        self.gate = PanelGate()
        self._read_token = read_token
        self.session = PanelSession(self._sign_in)

    async def call(
        self,
        method: str,
        path: str,
        *,
        username: str | None = None,
        bearer: str | None = None,
        **arguments: Any,
    ) -> httpx.Response:
        """Return the answer to a request, if it is a success.

        Raises UserNotFoundError for a 404 to what is about a user.
        """
        if bearer is not None:
            response = await self.send(method, path, token=bearer, is_own=False, **arguments)
            return self._checked(response, username=username)
        token = await self.session.token()
        response = await self.send(method, path, token=token, **arguments)
        if response.status_code == 401:
            token = await self.session.renew(stale=token)
            response = await self.send(method, path, token=token, **arguments)
            if response.status_code == 401:
                raise self.session.refused(
                    token,
                    self._refusal_of_key()
                    if self._api_key
                    else f"the panel at {self._url} takes the password of {self._username!r} and "
                    "refuses the token it gives for it: does a proxy drop the Authorization "
                    "header, or do several panels answer at this address?",
                )
        self.session.accepted(token)
        return self._checked(response, username=username)

    def _refusal_of_key(self) -> str:
        setting = "MARZBAN_API_KEY" if self._is_first else "its api_key in the panels file"
        return (
            f"the panel at {self._url} refuses the API key: it is revoked, has expired, or its "
            f"admin is disabled; make another and set {setting} (Marzban, and PasarGuard before "
            "5.1, have no API keys: leave it out and set name and password)"
        )

    async def _sign_in(self) -> str:
        if self._api_key:  # whether it is any good shows with the first request
            return self._api_key
        form = {"username": self._username, "password": self._password}
        response = await self.send("POST", SIGN_IN_PATH, data=form)
        if response.status_code in {401, 403, 422}:
            settings = (
                "MARZBAN_USERNAME and MARZBAN_PASSWORD"
                if self._is_first
                else "its username and password in the panels file"
            )
            # A 422 may quote the password.
            said = f" ({response.text[:300]})" if response.status_code == 403 else ""
            raise PanelLoginError(
                f"the panel at {self._url} refuses the sign-in of {self._username!r}{said}: "
                f"check {settings}"
            )
        if response.status_code in {404, 405}:
            raise NotThePanelError(
                f"the panel at {self._url} answers {response.status_code} to a sign-in: there is "
                f"neither Marzban nor PasarGuard; {self._url_setting} must be the panel's own "
                "address, without a path"
            )
        return self._read_token(self._checked(response))

    async def send(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        is_own: bool = True,
        extra_headers: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> httpx.Response:
        """Return an answer of the panel's own to a request, whatever it says.

        `is_own`: the bridge asks for itself, and not for a caller of its API.
        """
        headers = dict(extra_headers or {})
        is_own_key = is_own and bool(self._api_key)
        if token and (is_own_key or token.startswith(API_KEY_PREFIX)):
            headers["x-api-key"] = token
        elif token:
            headers["authorization"] = f"Bearer {token}"
        async with self.gate.passing(is_own=is_own):
            try:
                response = await self._request(method, path, headers=headers, **arguments)
            except httpx.InvalidURL as error:
                raise PanelRefusedError(
                    f"{method} {path} cannot be asked of the panel: {error}", status=414
                ) from error
            except httpx.HTTPError as error:
                reason = no_answer(error, url=self._url, url_setting=self._url_setting)
                raise PanelUnavailableError(
                    f"the panel at {self._url} does not answer {method} {path}: {reason}"
                ) from error
            self._demand_panel(response, f"{method} {path}")
            return response

    def _demand_panel(self, response: httpx.Response, request: str) -> None:
        """Raise for an answer that is not the panel's, or of a panel that is out of order."""
        status, headers = response.status_code, response.headers
        pause_seconds = bounded_seconds(headers.get("retry-after"), now=datetime.now(UTC))
        says = f"the panel at {self._url} answers {status} to {request}"
        other = other_than_panel(status, headers, response.content, url_setting=self._url_setting)
        if other and not is_outage(status):
            raise NotThePanelError(f"{says}: {other}", retry_after_seconds=pause_seconds)
        if status == 429:
            raise PanelBusyError(says, retry_after_seconds=pause_seconds)
        if is_outage(status):
            raise PanelUnavailableError(says, retry_after_seconds=pause_seconds)
        if status == 500:
            raise PanelFailingError(says, retry_after_seconds=pause_seconds)

    async def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send a request, twice if need be.

        After a 500 Marzban closes the connection without saying so, and whatever is sent next on
        it is lost; what may be repeated is.
        """
        on_lost_try: Callable[[], None] = arguments.pop("on_lost_try", lambda: None)
        try:
            return await self._try(method, path, **arguments)
        except (httpx.ReadError, httpx.RemoteProtocolError):
            if method not in {"GET", "PUT"}:
                raise
            on_lost_try()
            return await self._try(method, path, **arguments)

    async def _try(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        """Send a request once; NotLeadingError instead where it writes and another may lead."""
        if self._guard is None or method == "GET" or path == SIGN_IN_PATH:
            return await self.client.request(method, path, **arguments)
        async with self._guard.one_try() as extensions:
            return await self.client.request(method, path, extensions=extensions, **arguments)

    def _checked(self, response: httpx.Response, *, username: str | None = None) -> httpx.Response:
        if response.is_success:
            return response
        request = response.request
        if response.status_code == 404 and username is not None:
            raise UserNotFoundError(username)
        raise PanelRefusedError(
            f"the panel at {self._url} answers {response.status_code} to {request.method} "
            f"{request.url.path}: {response.text[:300]}",
            status=response.status_code,
        )
