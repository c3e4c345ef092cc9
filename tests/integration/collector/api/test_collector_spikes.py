"""A sender that reports far more than ever lately is counted, and named to the operator."""

from __future__ import annotations

import pytest

from collector.ledger_gauges import refresh
from tests.support.collector.collectors import ALICE_TOKEN, AS_OTHER, CollectorWorld, running, wire

GIB = 2**30
HOUR = 3_600_000


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite3"


def of(user, gib):
    return wire(user, bytes_uploaded=0, bytes_downloaded=gib * GIB)


async def looks(world):
    """Look as the collector does every 15 s; return warnings, and the metric's lines."""
    await world.get("/v1/usage")
    await refresh(world.app.state.collector)
    metrics = (await world.client.get("/metrics")).text.splitlines()
    shown = [line for line in metrics if line.startswith("collector_sender_spike_bytes{")]
    return (await world.client.get("/readyz")).json()["warnings"], shown


async def test_a_spike_is_counted_logged_once_and_shown_until_the_next_day_is_over(path, caplog):
    async with running(CollectorWorld(path=path)) as world:
        await world.send([of("alice", 1000), of("bob", 1000)])
        await world.send(of("carol", 2), headers=AS_OTHER)
        await world.send(of(ALICE_TOKEN, 1), headers={})
        assert len((await looks(world))[1]) == 1, "a sender without a past has spikes"
        caplog.clear()
        world.now_millis += 48 * HOUR
        assert await looks(world) == ([], [])
        await world.send([of("alice", 1500), of("bob", 1500)])
        await world.send(of("carol", 103), headers=AS_OTHER)
        await world.send(of(ALICE_TOKEN, 60), headers={})
        for days_later in (0, 0, 1):
            world.now_millis += days_later * 24 * HOUR
            warnings, shown = await looks(world)
            reporters, users = warnings
            assert reporters.startswith("reporter other had a spike: 103.0 GiB in an hour, 2.0 GiB")
            assert users == "1 users without a key had a spike; GET /v1/spikes names them"
            assert {line.split()[0]: float(line.split()[1]) for line in shown} == {
                'collector_sender_spike_bytes{reporter="other"}': 103 * GIB,
                'collector_sender_spike_bytes{reporter=""}': 60 * GIB,
            }
        named = {each["sender"]: each for each in await world.get("/v1/spikes")}
        assert list(named) == ["reporter:other", "user:alice"]
        found = named["user:alice"]
        assert (found["hour_bytes"], found["past_hour_bytes"]) == (60 * GIB, GIB)
        lines = [line for line in caplog.messages if line.startswith("traffic_spike")]
        assert len(lines) == 2
        assert "collector_spikes_total 3.0" in (await world.client.get("/metrics")).text
        assert (await world.totals())["carol"] == 105 * GIB
        world.now_millis += 24 * HOUR
        assert await looks(world) == ([], [])


async def test_a_restart_shows_the_same(path):
    shown = []
    for _ in range(2):
        async with running(CollectorWorld(path=path)) as world:
            if not shown:
                await world.send(of("carol", 103))
            shown.append(await looks(world))
    assert shown[0] == shown[1]
    assert len(shown[0][1]) == 1
