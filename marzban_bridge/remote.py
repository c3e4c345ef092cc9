"""Asks the bridge that is already running, as its own admin, so that nobody has to stop it."""

from __future__ import annotations

import contextlib
from typing import Any, Self

import httpx

from marzban_bridge.errors import BridgeError
from marzban_bridge.settings import Settings


class RunningBridge:
    """A bridge that serves on this machine's configured address."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    @classmethod
    def find(cls, settings: Settings) -> Self | None:
        """Return the running bridge, signed in to; None when nothing answers there.

        Raises BridgeError when it answers but does not accept our sign-in.
        """
        host = "127.0.0.1" if settings.host in {"0.0.0.0", "::", ""} else settings.host  # noqa: S104 - compared with, not bound to
        client = httpx.Client(base_url=f"http://{host}:{settings.port}", timeout=120)
        try:
            client.get("/healthz", timeout=2).raise_for_status()
        except httpx.HTTPError:
            client.close()
            return None
        form = {"username": settings.marzban_username, "password": settings.marzban_password}
        found = cls(client)
        token = found.call("POST", "/api/admin/token", data=form)["access_token"]
        client.headers["authorization"] = f"Bearer {token}"
        return found

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Call a route and return its JSON; BridgeError carries the bridge's own words."""
        try:
            response = self._client.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise BridgeError(f"the running bridge does not answer: {error}") from error
        if not response.is_success:
            detail = response.text[:300]
            with contextlib.suppress(ValueError, TypeError, KeyError):
                detail = response.json()["detail"]
            raise BridgeError(f"the running bridge answers {response.status_code}: {detail}")
        return response.json()
