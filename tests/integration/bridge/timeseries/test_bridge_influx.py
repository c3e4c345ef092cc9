"""What the bridge writes is in a real InfluxDB, as its InfluxQL reads it back."""

from __future__ import annotations

import asyncio

import pytest

from marzban_bridge.sizes import human_value
from marzban_bridge.timeseries import writer as snapshots
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.bridge_world import BridgeWorld, until

TOKEN = "the-token-that-grafana-adds"
HOSTILE_OWNERS = ['sh"op', "a b", "a,b=c", "мария 🚀", "back\\slash", "'; DROP DATABASE traffic --"]


@pytest.fixture
async def world(tmp_path, influx, monkeypatch):
    """A bridge that writes to a real InfluxDB, without waiting for more to come."""
    monkeypatch.setattr(snapshots, "GATHER_SECONDS", 0.05)
    settings = {
        "influxdb_url": influx.url,
        "influxdb_org": influx.org,
        "influxdb_token": influx.token,
        "action_token": TOKEN,
        "action_logins": ("*",),
    }
    async with BridgeWorld(tmp_path, **settings).serving() as served:
        yield served


class Reader:
    """Reads the points back, as a dashboard does."""

    def __init__(self, influx) -> None:
        self._influx = influx

    async def rows(self, statement):
        return await asyncio.to_thread(self._influx.query, statement)

    async def last_point(self, user):
        """Return the last point of a user; InfluxQL gives each field its last value."""
        statement = (
            'SELECT * FROM "raw"."user_usage" '
            f'WHERE "user" =~ /^{user}$/ ORDER BY time DESC LIMIT 1'
        )
        found = await self.rows(statement)
        return found[0] if found else {}

    async def until_point(self, user, **fields):
        """Wait until the last point of a user has these fields, and return it."""
        deadline = asyncio.get_running_loop().time() + 20
        while True:
            found = await self.last_point(user)
            if found and all(found.get(name) == value for name, value in fields.items()):
                return found
            assert asyncio.get_running_loop().time() < deadline, found
            await asyncio.sleep(0.05)


@pytest.fixture
def reader(influx):
    return Reader(influx)


async def test_a_report_and_a_reset_are_to_be_seen(world, reader):
    await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))
    found = await reader.until_point(
        "alice", external_bytes=gib(7), status="active", published_limit_bytes=gib(3)
    )
    assert found["admin"] == "shop"
    assert found["username"] == "alice"
    assert found["quota_bytes"] == gib(10)
    assert (found["marzban_bytes"], found["used_bytes"]) == (gib(1), gib(8))
    assert found["used_ratio"] == pytest.approx(0.8)
    assert (found["is_unenforced"], found["is_held"], found["is_disabled_by_bridge"]) == (0, 0, 0)

    world.clock.advance(seconds=60)
    headers = {"x-bridge-token": TOKEN, "x-grafana-user": "olga"}
    answer = await world.client.post("/actions/users/alice/reset", headers=headers)
    assert answer.status_code == 200
    found = await reader.until_point("alice", external_bytes=0, published_limit_bytes=gib(10))
    assert (found["used_bytes"], found["used_ratio"]) == (0, 0)
    assert found["period_started_at_millis"] == int(world.clock().timestamp() * 1000)


async def test_a_user_beyond_its_quota_is_enforced_or_said_not_to_be(world, reader):
    await world.use("alice", external_bytes=gib(11))
    found = await reader.until_point("alice", status="disabled")
    assert (found["is_disabled_by_bridge"], found["is_unenforced"]) == (1, 0)
    assert found["used_ratio"] == pytest.approx(1.1)


LAST_OF_EACH = (
    'SELECT "quota", "ratio", "gone" FROM (SELECT last("quota_bytes") AS "quota", '
    'last("used_ratio") AS "ratio", last("is_gone") AS "gone" FROM "raw"."user_usage" '
    'GROUP BY "user")'
)


async def test_a_user_made_unlimited_or_deleted_keeps_no_quota(world, reader):
    """As dashboards and alerts ask: the last value of each field within an hour."""
    await world.use("alice", external_bytes=gib(9))
    await reader.until_point("alice", quota_bytes=gib(10))
    world.panel.modify_user("alice", {"data_limit": 0})
    await world.use("alice", external_bytes=1)
    await reader.until_point("alice", external_bytes=gib(9) + 1, quota_bytes=0)
    (found,) = await reader.rows(LAST_OF_EACH)
    assert (found["quota"], found["ratio"], found["gone"]) == (0, 0.0, 0)
    world.panel.delete_user("alice")
    await world.use("alice", external_bytes=1)
    await reader.until_point("alice", status="deleted")
    (found,) = await reader.rows(LAST_OF_EACH)
    assert (found["quota"], found["ratio"], found["gone"]) == (0, 0.0, 1)


async def test_events_are_there_each_once_with_who_and_what(world, reader):
    await world.use("alice", external_bytes=gib(11))
    headers = {"x-bridge-token": TOKEN, "x-grafana-user": 'eve"\\, =x'}
    await world.client.post("/actions/users/alice/reset", headers=headers)
    await world.client.post("/actions/users/no%20such%20user/reset", headers=headers)
    newest = world.bridge.store.events.newest(limit=1)[0].seq
    await until(
        "the cursor", lambda: world.bridge.store.meta("influx_events_cursor") == str(newest)
    )
    found = await reader.rows('SELECT * FROM "raw"."events"')
    recorded = world.bridge.store.events.newest(limit=1000)
    assert len(found) == len(recorded)

    def told(each):
        return (each["user"], each["kind"], each["actor"], each["text"], each.get("before"))

    assert sorted(map(told, found), key=str) == sorted(
        (
            (
                each.username or "-",
                each.event.kind,
                each.event.actor,
                each.event.text,
                human_value(each.event.before, kind=each.event.kind),
            )
            for each in recorded
        ),
        key=str,
    )
    assert {each["title"] for each in found} >= {"reset alice", "limited alice", "action -"}
    assert 'grafana:eve"\\, =x' in {each["actor"] for each in found}


async def test_owners_keep_their_names_and_one_that_cannot_be_written_stops_nobody(world, reader):
    for number, owner in enumerate([*HOSTILE_OWNERS, "ends in \\"]):
        world.panel.add_admin(owner, password="a-password-of-an-owner")
        world.panel.create_user(f"user{number}", by=owner, data_limit=gib(10))
    for number in range(len(HOSTILE_OWNERS) + 1):
        await world.use(f"user{number}", external_bytes=gib(1))
    for number, owner in enumerate(HOSTILE_OWNERS):
        found = await reader.until_point(f"user{number}", external_bytes=gib(1))
        assert found["admin"] == owner
    registry = world.bridge.metrics.registry
    counted = ("bridge_snapshot_refused_points_total", {"measurement": "user_usage"})
    await until("the one refused", lambda: registry.get_sample_value(*counted))
    assert await reader.last_point(f"user{len(HOSTILE_OWNERS)}") == {}
    assert registry.get_sample_value("bridge_influx_up") == 1


async def test_what_happened_while_it_was_down_is_there_afterwards(world, reader, influx):
    await world.use("alice", external_bytes=gib(1))
    await reader.until_point("alice", external_bytes=gib(1))
    await asyncio.to_thread(influx.stop)
    await world.use("alice", external_bytes=gib(6), panel_bytes=gib(1))
    assert world.panel.get_user("alice")["data_limit"] == gib(3)
    outage = world.bridges.time_series.outage
    await until("InfluxDB missed", lambda: not outage.is_up)
    await asyncio.to_thread(influx.start)
    found = await reader.until_point("alice", external_bytes=gib(7))
    assert found["used_bytes"] == gib(8)
    newest = world.bridge.store.events.newest(limit=1)[0].seq
    await until(
        "the cursor", lambda: world.bridge.store.meta("influx_events_cursor") == str(newest)
    )
    await until("no warning", lambda: outage.is_up)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"influxdb_token": "a-wrong-token"}, "INFLUXDB_TOKEN"), ({"influxdb_org": "nobody"}, "404")],
)
async def test_a_mistake_in_the_settings_is_a_warning_that_says_which(
    tmp_path, influx, changes, words
):
    settings = {
        "influxdb_url": influx.url,
        "influxdb_org": influx.org,
        "influxdb_token": influx.token,
    }
    async with BridgeWorld(tmp_path, **(settings | changes)).serving() as world:
        await world.use("alice", external_bytes=gib(1))
        outage = world.bridges.time_series.outage
        await until("a warning", lambda: not outage.is_up)
        assert words in outage.reason
        assert "a-wrong-token" not in outage.reason
