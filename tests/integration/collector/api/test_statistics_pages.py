"""Statistics are answered in pages, as often as a user may ask, and nobody else waits for them."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from collector.ledger.sqlite.writer import SqliteLedger
from tests.support.collector.collectors import (
    ALICE_TOKEN,
    AS_ADMIN,
    BOB_TOKEN,
    CollectorWorld,
    running,
    wire,
)
from tests.support.collector.ledgers import NOON_MILLIS, batch, report

ORIGINAL = "/api/xpert/traffic-stats"
SERVERS = 1203


@pytest.fixture
async def world(tmp_path):
    path = tmp_path / "ledger.sqlite3"
    with closing(SqliteLedger(path)) as ledger:
        many = [report(server=f"s{n}", up=n, down=0, connections=1) for n in range(1, SERVERS + 1)]
        ledger.record([batch(*many)], received_at_millis=NOON_MILLIS)
    async with running(CollectorWorld(path=path)) as world:
        yield world


@pytest.mark.parametrize(
    "path", ["/v1/usage/alice", f"{ORIGINAL}/alice", f"{ORIGINAL}/{ALICE_TOKEN}"]
)
async def test_a_user_with_very_many_servers_is_answered_in_pages(world, path):
    found = []
    for after in range(0, SERVERS + 1, 1000):
        page = await world.get(path, days=1, after=after)
        assert len(page["servers"]) <= 1000
        found += [each["server"] for each in page["servers"]]
    assert found == [f"s{n}" for n in range(SERVERS, 0, -1)]
    (largest,) = (await world.get(path, days=1, limit=1))["servers"]
    assert largest["server"] == f"s{SERVERS}"


async def test_sums_are_over_all_servers_whatever_the_page(world):
    page = await world.get("/v1/usage/alice", limit=3)
    total = SERVERS * (SERVERS + 1) // 2
    assert (page["upload_bytes"], page["billed_bytes"]) == (total, total)
    assert (page["connections"], page["server_count"]) == (SERVERS, SERVERS)
    assert [each["upload_bytes"] for each in page["servers"]] == [1203, 1202, 1201]


async def test_all_servers_are_listed_in_pages(world):
    assert len(await world.get("/v1/servers")) == 1000
    assert len(await world.get("/v1/servers", after=1000)) == 203
    for limit in (0, 1001):
        answer = await world.client.get("/v1/servers", params={"limit": limit}, headers=AS_ADMIN)
        assert answer.status_code == 422


async def test_a_user_asks_as_often_as_it_may_report_and_others_have_their_own_limit(world):
    world.monotonic_seconds = lambda: 1e9  # the limit does not refill meanwhile
    statuses = []
    for _ in range(60):
        statuses.append((await world.client.get(f"{ORIGINAL}/{ALICE_TOKEN}?limit=1")).status_code)
        if statuses[-1] == 429:
            break
    assert set(statuses[:-1]) == {200}
    assert statuses[-1] == 429
    assert (await world.client.get(f"{ORIGINAL}/{BOB_TOKEN}")).status_code == 200
    assert (await world.get(f"{ORIGINAL}/alice", limit=1))["period_days"] == 30


async def test_reports_do_not_wait_for_statistics_that_take_long(world, monkeypatch):
    collector = world.app.state.collector
    gate, started = threading.Event(), threading.Semaphore(0)

    def wait():
        started.release()
        assert gate.wait(60)

    waiting = [collector.statistics_readers.submit(wait) for _ in range(20)]
    try:
        assert started.acquire(timeout=120)
        collector.rules._rules = None
        assert (await world.send(wire("carol"))).status_code == 200
        assert (await world.client.get("/healthz")).status_code == 200
    finally:
        gate.set()
    for each in waiting:
        each.result(timeout=120)
