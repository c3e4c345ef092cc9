"""Users who report for themselves with the subscription of a panel of either kind."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.snapshot import restore_snapshot, to_snapshot
from tests.support.collector.collectors import CollectorWorld, running, wire

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
PATHS = ["/v1/reports", "/api/xpert/traffic-webhook"]


class Panels(httpx.AsyncBaseTransport):
    """Simulated panels, by the host they answer at."""

    def __init__(self) -> None:
        self.panels: dict[str, SimulatedPanel] = {}
        self.asked: list[str] = []
        """The hosts that were asked, in order."""
        self.away: set[str] = set()
        """The hosts that refuse connections."""
        self.now = NOON
        self._served: dict[str, httpx.ASGITransport] = {}

    def add(self, name: str, kind: str, *, path: str = "sub") -> SimulatedPanel:
        """Put a panel of a kind at `http://NAME.test`; its subscriptions begin with a path."""
        panel = SimulatedPanel(
            clock=lambda: self.now, kind=kind, subscription_path=path, secret=f"secret of {name}"
        )
        self.panels[name] = panel
        self._served[f"{name}.test"] = httpx.ASGITransport(create_simulator_app(panel))
        return panel

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer as the panel at the request's host."""
        self.asked.append(request.url.host)
        if request.url.host in self.away:
            raise httpx.ConnectError("refused", request=request)
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


TWO = "two=http://two.test/my/own"


@pytest.mark.parametrize("kinds", [("marzban", "pasarguard"), ("pasarguard", "marzban")])
@pytest.mark.parametrize("path", PATHS)
async def test_users_of_two_panels_prove_themselves_and_are_told_apart(tmp_path, kinds, path):
    """One name on both, the same number on both, and each with its own panel's link."""
    panels = Panels()
    first = panels.add("default", kinds[0])
    second = panels.add("two", kinds[1], path="my/own")
    for panel in (first, second):
        panel.create_user("alice")
    async with collecting(tmp_path, panels, COLLECTOR_SUBSCRIPTION_URLS=TWO) as world:
        for panel, sent_bytes in ((first, 100), (second, 5)):
            body = wire(link(panel, "alice"), bytes_uploaded=0, bytes_downloaded=sent_bytes)
            for _ in range(2):
                answer = await world.send(body, path=path, headers=NOBODY)
                assert answer.status_code == 200, answer.text
        assert await world.totals() == {"alice": 200, "two/alice": 10}
        token = link(second, "alice").rpartition("/")[2]
        page = (await world.client.get(f"/api/xpert/traffic-stats/{token}")).json()
        assert page["servers"][0]["download_gb"] == 0.0
        assert len(page["servers"]) == 1
        assert sorted(panels.asked) == ["default.test"] * 2 + ["two.test"] * 2


async def test_a_user_of_one_panel_reports_for_no_namesake_on_another(tmp_path):
    panels = Panels()
    given = []
    for name, kind in (("default", "marzban"), ("two", "pasarguard")):
        panel = panels.add(name, kind, path="my/own" if name == "two" else "sub")
        panel.create_user("alice")
        given.append(link(panel, "alice"))
    async with collecting(tmp_path, panels, COLLECTOR_SUBSCRIPTION_URLS=TWO) as world:
        for pair in (given, given[::-1]):
            answer = await world.send([wire(each) for each in pair], headers=NOBODY)
            assert answer.status_code == 401
        answer = await world.send([wire(each) for each in given])
        assert answer.json()["accepted"] == 2
        assert await world.totals() == {"alice": 30, "two/alice": 30}


@pytest.mark.parametrize("away", ["default", "two"])
@pytest.mark.parametrize("path", PATHS)
async def test_with_one_panel_away_the_other_ones_users_report_and_its_own_come_again(
    tmp_path, away, path
):
    panels = Panels()
    users = {"default": "alice", "two": "two/carol"}
    links = {}
    for name, kind in (("default", "marzban"), ("two", "pasarguard")):
        panel = panels.add(name, kind, path="my/own" if name == "two" else "sub")
        panel.create_user(users[name].rpartition("/")[2])
        links[name] = link(panel, users[name].rpartition("/")[2])
    here = "two" if away == "default" else "default"
    async with collecting(tmp_path, panels, COLLECTOR_SUBSCRIPTION_URLS=TWO) as world:
        panels.away.add(f"{away}.test")
        answer = await world.send(wire(links[here]), path=path, headers=NOBODY)
        assert answer.status_code == 200
        answer = await world.send(wire(links[away]), path=path, headers=NOBODY)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert f"panel {away} cannot be asked" in answer.json()["detail"]
        assert links[away].rpartition("/")[2] not in answer.text
        by_key = await world.send([wire("bob"), wire(links[here])])
        assert by_key.json()["accepted"] == 2
        ready = (await world.client.get("/readyz")).json()
        assert ready["status"] == "ok"
        assert [each for each in ready["warnings"] if f"panel {away} cannot" in each]
        panels.away.clear()
        answer = await world.send(wire(links[away]), path=path, headers=NOBODY)
        assert answer.status_code == 200
        assert (await world.client.get("/readyz")).json()["warnings"] == []
        assert await world.totals() == {users[here]: 60, users[away]: 30, "bob": 30}


async def test_revoked_on_its_panel_a_link_is_good_on_none(tmp_path):
    panels = Panels()
    panels.add("default", "marzban")
    second = panels.add("two", "pasarguard", path="my/own")
    second.create_user("alice")
    given = link(second, "alice")
    now = panels.now
    async with collecting(tmp_path, panels, COLLECTOR_SUBSCRIPTION_URLS=TWO) as world:
        assert (await send_own(world, given)).status_code == 200
        panels.now = now + timedelta(seconds=5)
        second.revoke_subscription("alice")
        world.monotonic_seconds = lambda: time.monotonic() + 301
        assert (await send_own(world, given)).status_code == 401
        assert (await send_own(world, link(second, "alice"))).status_code == 200
        assert await world.totals() == {"two/alice": 60}


async def test_neither_answers_nor_metrics_nor_logs_show_a_token(tmp_path, caplog):
    caplog.set_level("DEBUG", logger="collector")
    panels = Panels()
    panels.add("default", "marzban")
    second = panels.add("two", "pasarguard", path="my/own")
    second.create_user("alice")
    given = link(second, "alice")
    token = given.rpartition("/")[2]
    async with collecting(tmp_path, panels, COLLECTOR_SUBSCRIPTION_URLS=TWO) as world:
        answers = [await send_own(world, given), await send_own(world, token[:-4] + "AAAA")]
        panels.away |= {"two.test", "default.test"}
        answers.append(await send_own(world, token[:-4] + "BBBB"))
        assert [each.status_code for each in answers] == [200, 401, 503]
        metrics = (await world.client.get("/metrics")).text
        said = "".join(each.text for each in answers) + metrics + caplog.text
    assert 'collector_subscription_panel_answers_total{panel="two",result="known"} 1.0' in metrics
    assert token[:-4] not in said
