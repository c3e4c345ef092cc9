"""Users who report for themselves with the subscription of a panel of either kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from collectors import CollectorWorld, running, wire

from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.snapshot import restore_snapshot, to_snapshot

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
PATHS = ["/v1/reports", "/api/xpert/traffic-webhook"]


class Panels(httpx.AsyncBaseTransport):
    """Simulated panels, by the host they answer at."""

    def __init__(self) -> None:
        self.panels: dict[str, SimulatedPanel] = {}
        self.asked: list[str] = []
        """The hosts that were asked, in order."""
        self._served: dict[str, httpx.ASGITransport] = {}

    def add(self, name: str, kind: str, *, path: str = "sub") -> SimulatedPanel:
        """Put a panel of a kind at `http://NAME.test`; its subscriptions begin with a path."""
        panel = SimulatedPanel(
            clock=lambda: NOON, kind=kind, subscription_path=path, secret=f"secret of {name}"
        )
        self.panels[name] = panel
        self._served[f"{name}.test"] = httpx.ASGITransport(create_simulator_app(panel))
        return panel

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer as the panel at the request's host."""
        self.asked.append(request.url.host)
        return await self._served[request.url.host].handle_async_request(request)


def link(panel: SimulatedPanel, username: str) -> str:
    """Return a user's subscription link as the panel shows it."""
    return str(panel.get_user(username)["subscription_url"])


@asynccontextmanager
async def collecting(
    folder: Path, panels: Panels, **environment: str
) -> AsyncIterator[CollectorWorld]:
    """Run a collector that asks these panels."""
    made = CollectorWorld(
        path=folder / "ledger.sqlite3",
        environment={"MARZBAN_URL": "http://default.test"} | environment,
        panel_transport=panels,
    )
    async with running(made) as world:
        yield world


async def send_own(world: CollectorWorld, user_token: str, **more: object) -> httpx.Response:
    """Send a report without a key."""
    return await world.send(wire(user_token, **more), headers=NOBODY)


NOBODY: Mapping[str, str] = {}


@pytest.mark.parametrize("kind", ["marzban", "pasarguard"])
@pytest.mark.parametrize("path", PATHS)
async def test_a_user_of_either_kind_of_panel_proves_itself(tmp_path, kind, path):
    panels = Panels()
    panel = panels.add("default", kind, path="my/own")
    panel.create_user("bob")
    panel.create_user("alice")
    given = link(panel, "alice")
    async with collecting(tmp_path, panels, COLLECTOR_SUBSCRIPTION_PATH="my/own") as world:
        for form in (given, f"https://cdn.example.com{given}", given.rpartition("/")[2]):
            answer = await world.send(wire(form), path=path, headers=NOBODY)
            assert answer.status_code == 200, answer.text
        assert await world.totals() == {"alice": 90}
        assert len(panels.asked) == 1
        token = given.rpartition("/")[2]
        page = await world.client.get(f"/api/xpert/traffic-stats/{token}")
        assert [each["server"] for each in page.json()["servers"]] == ["de-1"]


@pytest.mark.parametrize("kind", ["marzban", "pasarguard"])
async def test_a_changed_token_of_either_kind_is_a_strangers(tmp_path, kind):
    panels = Panels()
    panel = panels.add("default", kind)
    panel.create_user("alice")
    given = link(panel, "alice")
    forged = given[:-1] + ("A" if given[-1] != "A" else "B")
    async with collecting(tmp_path, panels) as world:
        for path in PATHS:
            answer = await world.send(wire(forged), path=path, headers=NOBODY)
            assert answer.status_code == 401
            assert given.rpartition("/")[2][:20] not in answer.text
        assert await world.totals() == {}


async def test_links_of_a_marzban_are_good_on_the_pasarguard_it_became(tmp_path):
    before = Panels().add("before", "marzban")
    before.create_user("alice")
    panels = Panels()
    panel = panels.add("default", "pasarguard")
    restore_snapshot(panel, to_snapshot(before))
    old, new = link(before, "alice"), link(panel, "alice")
    assert "." in new
    assert "." not in old
    async with collecting(tmp_path, panels) as world:
        assert [(await send_own(world, each)).status_code for each in (old, new)] == [200, 200]
        assert await world.totals() == {"alice": 60}
