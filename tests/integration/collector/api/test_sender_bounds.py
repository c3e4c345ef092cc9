"""What one sender may bring, and that nobody else has less for it."""

from __future__ import annotations

from contextlib import closing

import pytest

from collector.ledger.sqlite.writer import SqliteLedger
from collector.reports.billing import Ratio
from tests.support.collector.collectors import (
    ALICE_TOKEN,
    AS_ADMIN,
    AS_REPORTER,
    BOB_TOKEN,
    CollectorWorld,
    running,
    wire,
)
from tests.support.collector.ledgers import NOON_MILLIS, beside

ALONE: dict[str, str] = {}
SMALL = {
    f"COLLECTOR_{kind}_{span}_BYTES": str(bound)
    for kind in ("USER", "KEY")
    for span, bound in (("REQUEST", 1000), ("HOUR", 3000), ("DAY", 6000))
} | {"COLLECTOR_USER_REQUESTS_PER_SECOND": "0"}
HOUR = 3_600_000
TEN_TIB = 10 * 2**40


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
async def world(path):
    async with running(CollectorWorld(path=path, environment=SMALL)) as world:
        yield world


def of(user_token, amount, **changes):
    return wire(
        user_token, bytes_uploaded=amount // 2, bytes_downloaded=amount - amount // 2, **changes
    )


async def test_one_token_cannot_fill_the_ledger_and_all_others_are_stored(path):
    async with running(CollectorWorld(path=path)) as world:
        huge = [wire(ALICE_TOKEN, bytes_uploaded=TEN_TIB, bytes_downloaded=TEN_TIB)] * 1000
        for _ in range(3):
            refused = await world.send(huge, headers=ALONE)
            assert refused.status_code == 422
        large = [wire(ALICE_TOKEN, bytes_uploaded=2**40, bytes_downloaded=2**40)]
        statuses = [(await world.send(large, headers=ALONE)).status_code for _ in range(6)]
        assert statuses == [200] * 4 + [429] * 2
        assert (await world.send(wire(BOB_TOKEN), headers=ALONE)).status_code == 200
        assert (await world.send([wire("carol"), wire("alice")])).status_code == 200
        assert await world.totals() == {"alice": 8 * 2**40 + 30, "bob": 30, "carol": 30}


@pytest.mark.parametrize(
    ("token", "headers", "kind"), [(ALICE_TOKEN, ALONE, "USER"), ("alice", None, "KEY")]
)
class TestBounds:
    async def send(self, world, headers, *reports):
        more = {} if headers is None else {"headers": headers}
        return await world.send(list(reports), **more)

    async def test_a_report_above_a_request_s_bound_is_refused_by_its_field(
        self, world, token, headers, kind
    ):
        answer = await self.send(world, headers, of(token, 1001), of(token, 1000))
        (refused,) = answer.json()["rejected"]
        assert (refused["index"], refused["field"]) == (0, "bytes_downloaded")
        assert f"COLLECTOR_{kind}_REQUEST_BYTES" in refused["reason"]

    async def test_a_request_of_too_much_is_413_and_taken_in_parts(
        self, world, token, headers, kind
    ):
        whole = await self.send(world, headers, of(token, 600), of(token, 600))
        assert whole.status_code == 413
        assert f"COLLECTOR_{kind}_REQUEST_BYTES" in whole.json()["detail"]
        for _ in range(2):
            assert (await self.send(world, headers, of(token, 600))).status_code == 200

    async def test_an_hour_s_and_a_day_s_bound_are_429_until_there_is_room_again(
        self, world, token, headers, kind
    ):
        world.now_millis = NOON_MILLIS + HOUR // 2
        for _ in range(3):
            assert (await self.send(world, headers, of(token, 1000))).status_code == 200
        late = await self.send(world, headers, of(token, 1))
        assert (late.status_code, late.headers["retry-after"]) == (429, "1800")
        assert f"3000 bytes (COLLECTOR_{kind}_HOUR_BYTES)" in late.json()["detail"]
        world.now_millis += HOUR
        for _ in range(3):
            assert (await self.send(world, headers, of(token, 1000))).status_code == 200
        world.now_millis += HOUR
        late = await self.send(world, headers, of(token, 1))
        assert (late.status_code, late.headers["retry-after"]) == (429, "3600")
        assert f"6000 bytes (COLLECTOR_{kind}_DAY_BYTES)" in late.json()["detail"]
        world.now_millis = NOON_MILLIS + 12 * HOUR
        assert (await self.send(world, headers, of(token, 1))).status_code == 200

    async def test_others_have_bounds_of_their_own(self, world, token, headers, kind):
        for _ in range(4):
            await self.send(world, headers, of(token, 1000))
        other = await world.send(of(BOB_TOKEN, 1000), headers=ALONE)
        assert other.status_code == 200

    async def test_what_was_sent_again_counts_once(self, world, token, headers, kind):
        again = of(token, 1000, report_id="one")
        statuses = [(await self.send(world, headers, again)).status_code for _ in range(9)]
        assert statuses == [200] * 9

    async def test_a_restart_does_not_begin_the_day_anew(self, path, token, headers, kind):
        for status in (200, 429):
            async with running(CollectorWorld(path=path, environment=SMALL)) as world:
                for _ in range(3):
                    answer = await self.send(world, headers, of(token, 1000))
                    assert answer.status_code == status

    async def test_it_is_logged_once_counted_and_a_warning(
        self, world, token, headers, kind, caplog
    ):
        for _ in range(5):
            await self.send(world, headers, of(token, 1000))
        lines = [line for line in caplog.messages if "sender_beyond_bound" in line]
        assert len(lines) == 1
        ready = await world.client.get("/readyz")
        assert ready.status_code == 200
        (warning,) = ready.json()["warnings"]
        assert f"COLLECTOR_{kind}_…_BYTES" in warning
        assert "alice" not in warning
        reporter = "r" if kind == "KEY" else ""
        counted = f'collector_requests_beyond_bounds_total{{reporter="{reporter}",span="hour"}} 2.0'
        assert counted in (await world.client.get("/metrics")).text


@pytest.mark.parametrize(
    ("token", "headers", "kind"), [(ALICE_TOKEN, ALONE, "USER"), ("alice", AS_REPORTER, "KEY")]
)
class TestServers:
    FEW = SMALL | {f"COLLECTOR_{kind}_SERVERS_PER_DAY": "20" for kind in ("USER", "KEY")}

    @pytest.fixture
    async def world(self, path):
        async with running(CollectorWorld(path=path, environment=self.FEW)) as world:
            yield world

    async def servers(self, world):
        return {each["server"]: each for each in await world.get("/v1/servers")}

    async def test_one_sender_makes_a_bounded_number_of_series_and_each_byte_counts(
        self, world, token, headers, kind
    ):
        for turn in range(3):
            names = [f"s{turn}-{n}" for n in range(16)]
            sent = [
                wire(token, server=name, bytes_uploaded=1, bytes_downloaded=1) for name in names
            ]
            assert (await world.send(sent, headers=headers)).json()["accepted"] == 16
        found = await self.servers(world)
        assert len(found) == 21
        assert (found["other"]["port"], found["other"]["protocol"]) == (0, "unknown")
        assert found["other"]["upload_bytes"] == 48 - 20
        assert await world.totals() == {"alice": 96}

    async def test_a_restart_does_not_begin_the_day_anew(self, path, token, headers, kind):
        for turn in range(3):
            async with running(CollectorWorld(path=path, environment=self.FEW)) as world:
                sent = [wire(token, server=f"s{turn}-{n}") for n in range(16)]
                await world.send(sent, headers=headers)
                found = await self.servers(world)
        assert len(found) == 21

    async def test_a_server_beyond_is_billed_by_its_own_ratio(self, path, token, headers, kind):
        with closing(SqliteLedger(path)):
            beside(path).set_ratio(Ratio("dear", 3000, 0))
        async with running(CollectorWorld(path=path, environment=self.FEW)) as world:
            await world.send([wire(token, server=f"s{n}") for n in range(20)], headers=headers)
            await world.send(wire(token, server="dear"), headers=headers)
            assert (await self.servers(world))["other"]["billed_bytes"] == 90

    async def test_it_is_logged_once_counted_and_a_warning(
        self, world, token, headers, kind, caplog
    ):
        for turn in range(3):
            sent = [wire(token, server=f"s{turn}-{n}") for n in range(20)]
            await world.send(sent, headers=headers)
        lines = [line for line in caplog.messages if "sender_names_too_many_servers" in line]
        assert len(lines) == 1
        (warning,) = (await world.client.get("/readyz")).json()["warnings"]
        assert f"COLLECTOR_{kind}_SERVERS_PER_DAY" in warning
        assert "alice" not in warning
        reporter = "r" if kind == "KEY" else ""
        counted = f'collector_reports_under_other_total{{reporter="{reporter}"}} 40.0'
        assert counted in (await world.client.get("/metrics")).text


async def test_a_cleanup_drops_what_was_invented_and_no_total(path):
    few = SMALL | {"COLLECTOR_USER_SERVERS_PER_DAY": "4"}
    async with running(CollectorWorld(path=path, environment=few)) as world:
        for turn in range(3):
            sent = [wire(ALICE_TOKEN, server=f"s{turn}-{n}") for n in range(4)]
            await world.send(sent, headers=ALONE)
            world.now_millis += 24 * HOUR
        before = await world.get("/v1/usage/alice")
        assert before["server_count"] == 12
        for days_later, removed in ((0, 0), (30, 8), (0, 0)):
            await world.let_days_pass(days_later)
            answer = await world.client.post("/v1/maintenance/cleanup?days=1", headers=AS_ADMIN)
            assert answer.json()["removed_series"] == removed
        after = await world.get("/v1/usage/alice")
        shown = {each["server"]: each["upload_bytes"] for each in after.pop("servers")}
        assert shown == {f"s2-{n}": 10 for n in range(4)} | {"other": 80}
        del before["servers"]
        assert after == before | {"server_count": 5}
        assert await world.totals() == {"alice": 360}
        await world.send([wire(ALICE_TOKEN, server="s0-1")], headers=ALONE)
        assert (await world.get("/v1/usage/alice"))["server_count"] == 6
