"""Calls the API of the bridge that is already running, signed in as the bridge's own admin."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Self

import httpx

from collector.runtime.listening import local_url
from marzban_bridge.api.answers import SERVICE
from marzban_bridge.config.panels_file import PanelSettings, load_panels
from marzban_bridge.config.settings import Settings
from marzban_bridge.errors import BridgeError
from marzban_bridge.panels.names import FIRST_PANEL


class RunningBridge:
    """The bridge that listens on the configured address of this machine."""

    def __init__(self, client: httpx.Client, panel: PanelSettings) -> None:
        self._client = client
        self._prefix = "" if panel.name == FIRST_PANEL else f"/panels/{panel.name}"

    @classmethod
    @contextlib.contextmanager
    def find(cls, settings: Settings, panel: PanelSettings | None = None) -> Iterator[Self | None]:
        """Yield the running bridge, signed in to a panel; None when no bridge answers there.

        Without `panel` it is the first one. Raises SettingsError when that is not configured, and
        BridgeError when the bridge does not accept the sign-in. The password is sent only after
        the program that answers has identified itself as a bridge.
        """
        panel = panel or load_panels(settings)[0]
        url = local_url(settings.host, settings.port)
        with httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
            if not _is_bridge(client):
                yield None
                return
            found, token = cls(client, panel), panel.api_key
            if not token:
                form = {"username": panel.username, "password": panel.password}
                token = found.call("POST", "/api/admin/token", data=form)["access_token"]
            client.headers["authorization"] = f"Bearer {token}"
            yield found

    def problems(self) -> list[str]:
        """Return the reasons and warnings of `/readyz`; empty when it does not answer."""
        try:
            said = self._client.get("/readyz").json()
            return [str(each) for each in (*said["reasons"], *said["warnings"])]
        except (httpx.HTTPError, ValueError, TypeError, KeyError):
            return []

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """Call a route and return its JSON. Raises BridgeError with the message of the answer."""
        try:
            response = self._client.request(method, self._prefix + path, **arguments)
        except httpx.HTTPError as error:
            raise BridgeError(f"the running bridge does not answer: {error}") from error
        if not response.is_success:
            detail = response.text[:300]
            with contextlib.suppress(ValueError, TypeError, KeyError):
                detail = response.json()["detail"]
            raise BridgeError(f"the running bridge answers {response.status_code}: {detail}")
        return response.json()


def _is_bridge(client: httpx.Client) -> bool:
    try:
        return bool(client.get("/healthz", timeout=2).json()["service"] == SERVICE)
    except (httpx.HTTPError, ValueError, TypeError, KeyError):
        return False
