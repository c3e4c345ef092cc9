"""What another process does to a simulated panel beside Marzban's own paths."""

from __future__ import annotations

import httpx
import pytest

from marzban_bridge.simulator.driving import router
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from tests.support.bridge.bridge_builders import gib
from tests.support.clocks import ManualClock


@pytest.fixture
def panel():
    found = SimulatedPanel(clock=ManualClock())
    found.create_user("alice", data_limit=gib(1))
    return found


@pytest.fixture
async def client(panel):
    app = create_simulator_app(panel)
    app.include_router(router)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://panel") as client:
        yield client


async def test_traffic_is_counted_until_the_user_is_cut_off(client, panel):
    body = {"username": "alice", "bytes": gib(1)}
    assert (await client.post("/simulation/traffic", json=body)).json() == {"used": True}
    panel.review()
    assert (await client.post("/simulation/traffic", json=body)).json() == {"used": False}
    assert panel.get_user("alice")["used_traffic"] == gib(1)
    assert (await client.post("/simulation/traffic", json=body | {"username": "bob"})).is_error


async def test_a_schedule_falls_due_days_ahead_and_the_clock_stays(client, panel):
    panel.modify_user("alice", {"data_limit_reset_strategy": "day"})
    panel.use_traffic("alice", 5)
    now = panel.clock()
    assert (await client.post("/simulation/periodic-resets", json={"days": 0})).is_success
    assert panel.get_user("alice")["used_traffic"] == 5
    assert (await client.post("/simulation/periodic-resets", json={"days": 1})).is_success
    assert panel.get_user("alice")["used_traffic"] == 0
    assert panel.clock() == now


async def test_a_database_is_dumped_exchanged_and_moved(client, panel):
    dump = (await client.get("/simulation/database")).json()
    empty = {**dump, "users": []}
    assert (await client.put("/simulation/database", json=empty)).json() == {"users": 0}
    assert not panel.users
    assert (await client.put("/simulation/database", json=dump)).json() == {"users": 1}
    panel.find("alice").created_at = panel.clock().replace(microsecond=7)
    assert (await client.post("/simulation/database/cut-seconds")).json() == {"users": 1}
    assert panel.find("alice").created_at == panel.clock().replace(microsecond=0)


async def test_without_the_option_there_are_no_such_paths(panel):
    transport = httpx.ASGITransport(create_simulator_app(panel))
    async with httpx.AsyncClient(transport=transport, base_url="http://panel") as plain:
        assert (await plain.get("/simulation/database")).status_code == 404
