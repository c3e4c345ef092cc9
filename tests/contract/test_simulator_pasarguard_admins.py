"""Roles, API keys, templates and switches: a recorded row of requests, replayed in its order."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from tests.recordings.panels import PASARGUARD, shape
from tests.support.clocks import ManualClock

STEPS = PASARGUARD.rows("admins-and-keys")
MADE_UP = {
    *("proxy_settings", "created_at", "edit_at", "expire", "subscription_url", "revoked_at"),
    *("mem_total", "mem_used", "disk_total", "disk_used", "cpu_cores", "cpu_usage"),
    *("uptime_seconds", "api_key", "api_key_trimmed"),
}
"""Fields whose values the panel makes up, or that are of the moment: their types are compared."""


class Panel:
    """The panel at the beginning of the recording: its owner, and nobody else."""

    def __init__(self) -> None:
        self.panel = SimulatedPanel(
            kind="pasarguard",
            clock=ManualClock(),
            admins={"boss": ("pw", True)},
            database="sqlite",
            sends_webhooks=False,
        )
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(create_simulator_app(self.panel)), base_url="http://panel"
        )
        self._bearers: dict[str, str] = {}
        self._keys: dict[str, str] = {}

    def headers(self, by):
        """Return what proves who asks: a name that signed in once, or `key:` and a key's name."""
        scheme, _, name = by.rpartition(":")
        if scheme == "key":
            return {"x-api-key": self._keys[name]}
        if scheme:
            return {"authorization": f"{scheme} {self._keys[name]}"}
        if by not in self._bearers:
            self._bearers[by] = self.panel.sign_in(by, "pw")
        return {"authorization": f"Bearer {self._bearers[by]}"}

    async def take(self, step):
        method, path, body = step["request"]
        answer = await self.client.request(
            method, path, json=body, headers=self.headers(step["by"])
        )
        found = answer.json() if answer.content else None
        if path == "/api/api_key" and answer.status_code == 201:
            self._keys[found["name"]] = found["api_key"]
        return answer.status_code, found


@pytest.fixture(scope="module")
def answers():
    async def replayed():
        opened = Panel()
        async with opened.client:
            return [await opened.take(step) for step in STEPS]

    return asyncio.run(replayed())


def determined(body):
    if isinstance(body, dict):
        return {
            key: shape(value) if key in MADE_UP else determined(value)
            for key, value in body.items()
        }
    return [determined(each) for each in body] if isinstance(body, list) else body


@pytest.mark.parametrize(
    "number",
    range(len(STEPS)),
    ids=lambda number: " ".join([STEPS[number]["by"], *STEPS[number]["request"][:2]]),
)
def test_status_and_values_are_as_recorded(answers, number):
    status, body = answers[number]
    assert status == STEPS[number]["status"]
    compared = shape if status == 422 else determined
    assert compared(body) == compared(STEPS[number]["answer"])
