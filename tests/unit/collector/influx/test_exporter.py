"""The export: everything arrives, in any order of failures, and nothing is waited for by others."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.influx.exporter import (
    HALT_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    PAGES_UNDER_WAY,
    REQUESTS_UNDER_WAY,
    Exporter,
    Step,
)
from collector.influx.kinds import TargetKind
from collector.influx.outcome import Retry
from collector.influx.storage_watch import BucketStorage
from collector.intake.embedded import EmbeddedIngest
from collector.intake.ingest import IngestOptions
from collector.ledger.corrections import Kind, Wanted
from collector.metrics import Metrics
from collector.reports.report import DAY_MILLIS, Limits
from collector.schema import Policy
from tests.support.collector.fake_influx import FakeBuckets, FakeInflux
from tests.support.collector.ledgers import NOON_MILLIS, SqlitePlace, batch, beside, report

RAW, DAILY = Policy.RAW, Policy.DAILY
VOID = Wanted(
    kind=Kind.VOID,
    reason="stolen key",
    actor="root",
    scope="reporter:r",
    since_millis=0,
    until_millis=10 * NOON_MILLIS,
)
KEPT = {RAW: 30 * 86_400, DAILY: 0}


class World:
    """A real ledger, its export, and an InfluxDB to be arranged."""

    def __init__(self, folder, *, page_rows=3) -> None:
        self.place = SqlitePlace(path=folder / "ledger.sqlite3")
        self.influx, self.buckets = FakeInflux(), FakeBuckets()
        self.metrics = Metrics()
        self.metrics.expose_export()
        self.now_millis = NOON_MILLIS
        self.page_rows = page_rows

    @asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        self.ledger, self.reader = self.place.open(), self.place.reader()
        self.ingest = EmbeddedIngest(
            self.ledger,
            IngestOptions(
                now_millis=lambda: self.now_millis,
                metrics=self.metrics,
                limits=Limits(),
                keeps_unexported=True,
            ),
        )
        self.ingest.start()
        self.exporter = Exporter(
            reader=self.reader,
            ingest=self.ingest,
            influx=self.influx,
            storage=BucketStorage(self.buckets, retention_seconds=KEPT),
            retention_seconds=KEPT,
            now_millis=lambda: self.now_millis,
            metrics=self.metrics,
            page_rows=self.page_rows,
        )
        try:
            yield self
        finally:
            await self.ingest.stop()
            await self.exporter.close()
            self.reader.close()
            self.ledger.close()

    async def store(self, *reports) -> None:
        await self.ingest.submit(batch(*reports))
        await self.ingest.catch_up()

    async def drain(self, policy: Policy) -> int:
        steps = 0
        while (await self.exporter.step(policy)).has_more:
            steps += 1
        return steps

    async def drain_all(self) -> None:
        for policy in Policy:
            await self.drain(policy)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
async def world(tmp_path):
    async with World(tmp_path).running() as opened:
        yield opened


async def test_every_report_becomes_a_point_and_every_day_a_sum(world):
    await world.store(*[report(up=n, down=2 * n) for n in range(1, 8)])
    await world.store(report(up=100, at=NOON_MILLIS - DAY_MILLIS), report("bob", up=1000))
    await world.drain_all()
    assert world.influx.sums(RAW) == (9, 28 + 1100, 56 + 4)
    assert world.influx.sums(DAILY) == (3, 28 + 1100, 56 + 4)
    assert world.sample("collector_export_points_total", stream="raw") == 9


async def test_to_victoriametrics_go_reports_alone_and_none_is_overwritten(tmp_path):
    world = World(tmp_path)
    world.influx.kind = TargetKind.VICTORIAMETRICS
    async with world.running():
        await world.store(*[report(up=n) for n in range(1, 8)])
        beside(world.place.path).ask_correction(VOID, asked_at_millis=0)
        await world.ingest.run(_correct)
        await world.store(report(up=100))
        running = asyncio.create_task(world.exporter.run())
        async with asyncio.timeout(60):
            while world.reader.backlog(RAW).reports:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
        assert world.influx.sums(RAW)[:2] == (15, 100), "seven were taken back"
        assert world.influx.sums(RAW, measurement="server_traffic")[0] == 0
        assert world.influx.sums(DAILY)[0] == 0


async def test_pages_are_bounded_and_follow_each_other_at_once(world):
    await world.store(*[report() for _ in range(7)])
    assert await world.drain(RAW) == 3
    assert world.influx.requests == 3
    assert await world.exporter.step(RAW) == Step()


async def test_the_next_page_of_a_backlog_is_read_while_this_one_is_written(world):
    """So that a backlog drains as fast as InfluxDB stores it."""
    await world.store(*[report(up=n) for n in range(1, 8)])
    read, write = world.reader.reports_after, world.influx.write
    read_after, is_read = [], threading.Semaphore(0)

    def note_read(seq, *, limit):
        rows = read(seq, limit=limit)
        read_after.append(seq)
        is_read.release()
        return rows

    def write_once_read(bucket, lines):
        for _ in range(2 if world.influx.requests == 0 else 0):
            assert is_read.acquire(timeout=60), "the next page is not read meanwhile"
        return write(bucket, lines)

    world.exporter._reader.reports_after = note_read
    world.influx.write = write_once_read
    assert await world.drain(RAW) == 3
    assert world.influx.sums(RAW)[:2] == (7, 28)
    assert read_after.count(3) == 1, "a full page is not read again"


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of sums as long as the pages, so that pages share no point."""
    monkeypatch.setattr("collector.influx.server_sums.BLOCK_ROWS", 3)


class Order:
    """Notes the pages that are written, by their first report, and holds some of them back."""

    def __init__(self, world: World, *, until_others: int = 0) -> None:
        self._write = world.influx.write
        self._until_others = until_others
        self.begun = threading.Semaphore(0)
        self.firsts: list[int] = []
        self.fails: set[int] = set()
        """First reports of pages whose writing fails, once."""
        world.influx.write = self.write

    def write(self, bucket, lines):
        first = int(lines[0].partition("upload_bytes=")[2].partition("i")[0])
        self.firsts.append(first)
        self.begun.release()
        if first == 1:
            while self._until_others:
                assert self.begun.acquire(timeout=60), "the other pages are not written meanwhile"
                self._until_others -= 1
        if first in self.fails:
            self.fails.remove(first)
            return Retry("away")
        return self._write(bucket, lines)


@pytest.mark.usefixtures("small_blocks")
async def test_further_pages_of_a_backlog_are_written_while_the_first_one_is(world):
    await world.store(*[report(up=n) for n in range(1, 11)])
    order = Order(world, until_others=3)  # itself, and two more
    assert await world.drain(RAW) == 4
    assert sorted(order.firsts) == [1, 4, 7, 10]
    assert world.influx.sums(RAW)[:2] == (10, 55)
    assert world.influx.sums(RAW, measurement="server_traffic")[1] == 55


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("failing", [1, 4, 7])
async def test_nothing_is_skipped_when_one_of_several_writes_fails(world, failing):
    await world.store(*[report(up=n) for n in range(1, 11)])
    order = Order(world, until_others=3)
    order.fails = {failing}
    for _ in range(failing // 3):
        assert (await world.exporter.step(RAW)).has_more
    assert (await world.exporter.step(RAW)).pause_seconds > 0
    assert world.reader.export_state(RAW).seq == failing - 1
    await world.drain(RAW)
    assert world.reader.export_state(RAW).seq == 10
    assert world.influx.sums(RAW)[:2] == (10, 55)
    assert world.influx.sums(RAW, measurement="server_traffic")[1] == 55


@pytest.mark.usefixtures("small_blocks")
async def test_a_crash_with_later_pages_stored_and_the_first_one_not_skips_nothing(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.store(*[report(up=n) for n in range(1, 11)])
        order = Order(world, until_others=3)
        order.fails = {1}
        world.ledger.note_export_problem = lambda *_: None  # nothing more reaches the disk
        await world.exporter.step(RAW)
        async with asyncio.timeout(60):
            while world.influx.sums(RAW)[0] < 6:
                await asyncio.sleep(0.01)
    async with world.running():
        assert world.reader.export_state(RAW).seq == 0
        await world.drain(RAW)
    assert world.influx.sums(RAW)[:2] == (10, 55)
    assert world.influx.sums(RAW, measurement="server_traffic")[1] == 55


@pytest.fixture
def small_requests(monkeypatch):
    """Large pages of several requests each."""
    monkeypatch.setattr("collector.influx.pages.REQUEST_LINES", 3)


@pytest.mark.usefixtures("small_blocks", "small_requests")
async def test_pages_of_a_long_backlog_grow_and_have_several_requests(world):
    await world.store(*[report(f"u{n % 5}", up=n) for n in range(1, 100)])
    steps = 0
    while (await world.exporter.step(RAW)).has_more:
        steps += 1
    assert steps < 12 < world.influx.requests
    assert world.influx.sums(RAW)[:2] == (99, 99 * 50)
    assert world.influx.sums(RAW, measurement="server_traffic")[1] == 99 * 50
    assert world.reader.export_state(RAW).seq == 99
    assert world.reader.export_state(RAW).points == 99
    assert world.sample("collector_export_points_total", stream="raw") == 99


@pytest.mark.usefixtures("small_blocks", "small_requests")
async def test_a_refused_point_of_a_large_page_is_set_aside(world):
    await world.store(*[report(f"u{n % 5}", up=n) for n in range(1, 100)])
    world.influx.is_bad = lambda line: "upload_bytes=70i" in line
    await world.drain(RAW)
    (letter,) = world.reader.dead_letters(limit=10)
    assert letter.line.startswith("traffic,port=443,protocol=vless,server=de-1,user=u0 ")
    assert "upload_bytes=70i" in letter.line
    assert world.influx.sums(RAW)[:2] == (98, 99 * 50 - 70)
    assert world.reader.export_state(RAW).points == 98


@pytest.mark.usefixtures("small_blocks", "small_requests")
async def test_after_a_fault_no_more_of_a_large_page_is_sent_and_the_next_one_is_small(world):
    await world.store(*[report(f"u{n % 5}", up=n) for n in range(1, 200)])
    while world.exporter._sizes[RAW].rows < 40:
        assert (await world.exporter.step(RAW)).has_more
    world.influx.is_down = True
    while not (await world.exporter.step(RAW)).pause_seconds:
        pass
    seq, before = world.reader.export_state(RAW).seq, world.influx.requests
    assert world.exporter._sizes[RAW].rows == 3
    assert (await world.exporter.step(RAW)).pause_seconds
    asked = world.influx.requests - before
    assert asked <= PAGES_UNDER_WAY * REQUESTS_UNDER_WAY + 1, "what was under way, and one try"
    world.influx.is_down = False
    assert (await world.exporter.step(RAW)).has_more
    assert world.reader.export_state(RAW).seq == seq + 3
    await world.drain(RAW)
    assert world.influx.sums(RAW)[:2] == (199, 199 * 100)


@pytest.mark.usefixtures("small_blocks", "small_requests")
async def test_an_influxdb_that_refuses_every_few_requests_gets_all_nevertheless(world):
    """As one that takes so much in a minute."""
    await world.store(*[report(f"u{n % 5}", up=n) for n in range(1, 100)])
    write = world.influx.write

    def write_or_refuse(bucket, lines):
        return (
            Retry("too many requests") if world.influx.requests % 4 == 3 else write(bucket, lines)
        )

    def refuse_some(bucket, lines):
        outcome = write_or_refuse(bucket, lines)
        world.influx.requests += isinstance(outcome, Retry)
        return outcome

    world.influx.write = refuse_some
    for _ in range(200):
        if not (await world.exporter.step(RAW)).has_more and not world.reader.backlog(RAW).reports:
            break
    assert world.influx.sums(RAW)[:2] == (99, 99 * 50)
    assert world.reader.export_state(RAW).seq == 99


@pytest.mark.usefixtures("small_blocks")
async def test_while_influxdb_is_away_one_page_is_tried(world):
    await world.store(*[report(up=n) for n in range(1, 11)])
    world.influx.is_down = True
    await world.exporter.step(RAW)
    async with asyncio.timeout(60):
        while world.influx.requests < PAGES_UNDER_WAY:
            await asyncio.sleep(0.01)
    await world.exporter.step(RAW)
    assert world.influx.requests == PAGES_UNDER_WAY + 1


async def test_a_page_that_was_read_ahead_is_not_written_where_the_cursor_went_elsewhere(world):
    await world.store(*[report(up=n) for n in range(1, 8)])
    assert (await world.exporter.step(RAW)).has_more
    beside(world.place.path).rewind_exports()
    assert await world.drain(RAW) == 3
    assert world.influx.sums(RAW)[:2] == (7, 28)
    assert world.reader.export_state(RAW).seq == 7


async def test_only_what_is_new_is_written(world):
    await world.store(report(), report("bob"))
    await world.drain_all()
    before = world.influx.written
    await world.store(report(up=5))
    await world.drain_all()
    assert world.influx.written == before + 2, "a raw point, and alice's day again"
    assert world.influx.sums(RAW)[1] == world.influx.sums(DAILY)[1] == 7


async def test_while_influxdb_is_away_the_cursor_stands_still_and_pauses_grow_to_a_bound(world):
    await world.store(report())
    world.influx.is_down = True
    pauses = [(await world.exporter.step(RAW)).pause_seconds for _ in range(12)]
    assert pauses[0] <= 1.0
    assert max(pauses) <= LONGEST_PAUSE_SECONDS
    assert min(pauses[6:]) > LONGEST_PAUSE_SECONDS / 3
    assert world.reader.export_state(RAW).seq == 0
    assert world.reader.export_state(RAW).problem == "away"
    assert world.exporter.warnings == ["export to traffic/raw: away"]
    assert world.metrics.influx_up._value.get() == 0
    world.influx.is_down = False
    await world.drain_all()
    assert world.influx.sums(RAW) == (1, 1, 2)
    assert world.exporter.warnings == []
    assert world.metrics.influx_up._value.get() == 1
    assert world.reader.export_state(RAW).problem is None


async def test_a_busy_influxdb_is_left_alone_for_as_long_as_it_asks(world):
    await world.store(report())
    world.influx.is_down, world.influx.retry_after_seconds = True, 120.0
    assert 120.0 <= (await world.exporter.step(RAW)).pause_seconds <= 132.0


async def test_an_influxdb_that_asks_for_no_pause_gets_one_that_grows(world):
    await world.store(report())
    world.influx.is_down, world.influx.retry_after_seconds = True, 0.0
    pauses = [(await world.exporter.step(RAW)).pause_seconds for _ in range(12)]
    assert min(pauses[6:]) > LONGEST_PAUSE_SECONDS / 3


async def test_an_outage_is_logged_when_it_begins_and_when_it_ends(world, caplog):
    await world.store(report())
    world.influx.is_down = True
    with caplog.at_level(logging.WARNING, "collector.influx.exporter"):
        for _ in range(5):
            await world.exporter.step(RAW)
        world.influx.is_down = False
        await world.drain(RAW)
    assert [record.getMessage() for record in caplog.records] == [
        "export to traffic/raw: away; will keep trying",
        "export to traffic/raw goes on",
    ]


async def test_a_refused_token_waits_for_the_operator_and_reads_the_token_anew(world):
    await world.store(report())
    world.influx.is_forbidden = True
    assert (await world.exporter.step(RAW)).pause_seconds == HALT_PAUSE_SECONDS
    assert world.influx.closes == 1
    world.influx.is_forbidden = False
    assert (await world.exporter.step(RAW)).has_more


async def test_a_refused_point_is_set_aside_with_the_reason_and_the_rest_goes_on(world):
    world.influx.is_bad = lambda line: "server=bad" in line
    await world.store(report(up=1), report(up=2, server="bad"), report(up=4))
    await world.drain_all()
    assert world.influx.sums(RAW)[:2] == (2, 5)
    letters = world.reader.dead_letters(limit=10)
    assert {each.stream for each in letters} == {"raw", "daily"}
    assert all("server=bad" in each.line and each.reason == "400 bad line" for each in letters)
    assert world.sample("collector_export_dead_letters_total", stream="raw") == 1
    assert world.reader.export_state(RAW).seq == 3


async def test_a_point_without_a_spelling_is_set_aside_too(world):
    await world.store(report(server="ends\\"), report())
    await world.drain(RAW)
    (letter,) = world.reader.dead_letters(limit=10)
    assert "backslash" in letter.reason
    assert world.influx.sums(RAW)[0] == 1


async def test_points_older_than_the_policy_are_not_sent(world):
    await world.store(report(up=1))
    world.now_millis += 31 * DAY_MILLIS
    await world.store(report(up=2, at=world.now_millis))
    await world.drain_all()
    assert world.influx.sums(RAW)[:2] == (1, 2)
    assert world.influx.sums(DAILY)[:2] == (2, 3)
    assert world.sample("collector_export_expired_points_total", stream="raw") == 1


async def test_a_crash_between_write_and_cursor_writes_the_same_points_again(tmp_path):
    world = World(tmp_path)
    async with world.running():
        await world.store(report(up=1), report(up=2))
        world.ledger.note_progress = lambda progress, at_millis: False  # never reaches the disk
        await world.exporter.step(RAW)
        assert world.influx.sums(RAW)[:2] == (2, 3)
    async with world.running():
        assert world.reader.export_state(RAW).seq == 0
        await world.drain(RAW)
    assert world.influx.sums(RAW)[:2] == (2, 3)
    assert world.influx.written == 4


async def test_a_bucket_that_is_missing_stops_its_own_stream_only(world, monkeypatch, caplog):
    """Without a right to create it: a token of least privilege, which every service has."""
    monkeypatch.setattr("collector.influx.exporter.HALT_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("collector.influx.exporter.IDLE_SECONDS", 0.01)
    monkeypatch.setattr("collector.influx.exporter.GATHER_SECONDS", dict.fromkeys(Policy, 0.01))
    world.influx.missing = {DAILY.bucket}
    world.buckets.is_forbidden = True
    world.buckets.kept_seconds = {RAW.bucket: KEPT[RAW]}
    await world.store(report(up=1))
    running = asyncio.create_task(world.exporter.run())
    async with asyncio.timeout(60):
        while not world.influx.sums(RAW)[0] or world.influx.requests < 8:
            await asyncio.sleep(0.01)
        (warning,) = world.exporter.warnings
        assert "traffic/daily" in warning
        assert "traffic-collector bootstrap" in warning
        (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert (record.getMessage(), record.exc_info) == (f"{warning}; will keep trying", None)
        assert world.sample("collector_export_up", stream="raw") == 1
        assert world.sample("collector_export_up", stream="daily") == 0
        assert world.sample("collector_influx_up") == 0
        world.influx.missing = set()
        while not world.influx.sums(DAILY)[0] or world.exporter.warnings:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert caplog.records[-1].getMessage() == "export to traffic/daily goes on"
    assert world.sample("collector_influx_up") == 1


async def test_another_reason_for_a_stop_is_logged_too(world, caplog):
    await world.store(report())
    world.influx.missing = {RAW.bucket}
    await world.exporter.step(RAW)
    world.influx.is_forbidden = True
    for _ in range(3):
        await world.exporter.step(RAW)
    first, second = [record.getMessage() for record in caplog.records]
    assert "404" in first
    assert "403" in second
    assert world.reader.export_state(RAW).problem == "403 forbidden"


async def test_a_defect_in_the_check_of_the_buckets_does_not_stop_the_export(world, caplog):
    world.buckets.defect = ZeroDivisionError("a defect")
    await world.store(report(up=1))
    running = asyncio.create_task(world.exporter.run())
    async with asyncio.timeout(60):
        while not (world.influx.sums(RAW)[0] and world.influx.sums(DAILY)[0]):
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    (warning,) = world.exporter.warnings
    assert "ZeroDivisionError" in warning
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.exc_info


async def test_points_that_the_bucket_would_not_keep_are_no_dead_letters(world):
    """As when somebody shortened the bucket's retention, but not `INFLUXDB_RAW_DAYS`."""
    world.buckets.is_forbidden = True
    world.buckets.kept_seconds = {RAW.bucket: 86_400, DAILY.bucket: 0}
    world.influx.is_expired = lambda line: "upload_bytes=1i" in line
    await world.store(report(up=1), report(up=2))
    await world.drain(RAW)
    assert world.reader.dead_letters(limit=10) == []
    assert world.sample("collector_export_expired_points_total", stream="raw") == 1
    await world.exporter.prepare()
    await world.store(report(up=3, at=NOON_MILLIS - 2 * DAY_MILLIS), report(up=4))
    await world.drain(RAW)
    assert world.influx.sums(RAW)[:2] == (2, 6), "what it would refuse is not sent any more"


async def test_a_page_of_which_the_bucket_keeps_nothing_is_passed_over(world):
    """The sums of its servers are dropped as well, and are no points of reports."""
    world.influx.is_expired = lambda _: True
    await world.store(report(up=1))
    assert await world.drain(RAW) == 1
    assert world.reader.export_state(RAW).seq == 1
    assert world.sample("collector_export_points_total", stream="raw") == 0


async def test_buckets_are_seen_to_once_influxdb_is_there(world):
    world.buckets.is_down = True
    await world.exporter.prepare()
    assert world.buckets.kept_seconds == {}
    world.buckets.is_down = False
    running = asyncio.create_task(world.exporter.run())
    await world.store(report())
    async with asyncio.timeout(120):
        while not world.influx.sums(DAILY)[0] or not world.influx.sums(RAW)[0]:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert set(world.buckets.kept_seconds) == {RAW.bucket, DAILY.bucket}


def _is_problem(world: World) -> bool:
    return bool(world.exporter.warnings)


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param({"is_unreadable": True}, id="the token's file is not there yet"),
        pytest.param(
            {"is_forbidden": True, "kept_seconds": {RAW.bucket: 86_400, DAILY.bucket: 0}},
            id="bootstrap has not applied a changed INFLUXDB_RAW_DAYS yet",
        ),
    ],
)
async def test_a_warning_about_buckets_ends_by_itself_once_the_cause_is_gone(
    world, monkeypatch, problem
):
    monkeypatch.setattr("collector.influx.storage_watch.CHECK_AGAIN_SECONDS", 0.0)
    monkeypatch.setattr("collector.influx.exporter.IDLE_SECONDS", 0.01)
    monkeypatch.setattr("collector.influx.exporter.GATHER_SECONDS", dict.fromkeys(Policy, 0.01))
    for name, value in problem.items():
        setattr(world.buckets, name, value)
    running = asyncio.create_task(world.exporter.run())
    async with asyncio.timeout(60):
        while not _is_problem(world):
            await asyncio.sleep(0.01)
        world.buckets.is_unreadable = False
        world.buckets.kept_seconds = {each.bucket: KEPT[each] for each in Policy}  # as init does
        while _is_problem(world):
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])


async def test_buckets_with_a_problem_are_checked_again_after_a_while_and_not_at_every_page(world):
    world.buckets.is_unreadable = True
    running = asyncio.create_task(world.exporter.run())
    await world.store(*(report(up=each) for each in range(1, 40)))
    async with asyncio.timeout(60):
        while world.influx.sums(RAW)[0] < 39:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    assert world.buckets.looks == 1


def _correct(ledger) -> None:
    while ledger.correct(now_millis=NOON_MILLIS):
        pass


class TestAnyCourseOfEvents:
    """Whatever fails and restarts meanwhile, after a quiet drain the sums agree."""

    @settings(max_examples=40)
    @given(
        events=st.lists(
            st.one_of(
                st.tuples(st.just("report"), st.integers(1, 2**40), st.integers(0, 3)),
                st.tuples(st.just("fail"), st.integers(1, 4)),
                st.sampled_from(
                    ["down", "up", "step raw", "step daily", "crash", "rewind", "void"]
                ),
            ),
            max_size=40,
        ),
        block_rows=st.sampled_from([2, 1000]),
    )
    def test_raw_and_daily_sum_to_the_ledger(self, tmp_path_factory, events, block_rows):
        with pytest.MonkeyPatch.context() as patch:  # pages share no point, or most of them do
            patch.setattr("collector.influx.server_sums.BLOCK_ROWS", block_rows)
            asyncio.run(self._play(tmp_path_factory.mktemp("export"), events))

    async def _play(self, folder, events) -> None:
        world = World(folder, page_rows=2)
        queue = list(events)
        is_over = is_voided = False
        while not is_over:
            async with world.running():
                while queue:
                    event = queue.pop(0)
                    if event == "crash":
                        break
                    match event:
                        case ("report", amount, user):
                            await world.store(report(f"u{user}", up=amount))
                        case "down" | "up":
                            world.influx.is_down = event == "down"
                        case "step raw" | "step daily":
                            await world.exporter.step(Policy(event.split()[1]))
                        case ("fail", number):
                            world.influx.failing_request = world.influx.requests + number
                        case "rewind":
                            beside(world.place.path).rewind_exports()
                        case "void":
                            is_voided = True
                            beside(world.place.path).ask_correction(VOID, asked_at_millis=0)
                            await world.ingest.run(_correct)
                else:
                    is_over = True
                    world.influx.is_down, world.influx.failing_request = False, None
                    await world.drain_all()
                    facts = world.reader.facts()
                    expected = (facts.upload_bytes, facts.download_bytes)
                    assert world.influx.sums(RAW)[1:] == expected
                    assert world.influx.sums(DAILY)[1:] == expected
                    assert world.influx.sums(RAW, measurement="server_traffic")[1:] == expected
                    assert is_voided or world.influx.sums(RAW)[0] == facts.records


async def test_who_does_not_lead_writes_nothing_and_begins_once_it_does(world):
    world.ingest.leads = False
    await world.store(report())
    exporting = asyncio.create_task(world.exporter.run())
    await asyncio.sleep(0.2)
    assert (world.influx.requests, world.exporter.warnings) == (0, [])
    world.ingest.leads = True
    world.ingest.commits.notify()
    async with asyncio.timeout(120):
        while world.influx.sums(RAW)[0] < 1:
            await asyncio.sleep(0.02)
    exporting.cancel()
    await asyncio.wait([exporting])


async def test_who_lost_the_lead_on_the_way_writes_nothing_and_leaves_the_cursor(world, caplog):
    """As after having been frozen between reading a page and writing it."""
    await world.store(report())
    read = world.reader.reports_after

    def read_and_lose(*args, **kwargs):
        world.ingest.leads = False
        return read(*args, **kwargs)

    world.exporter._reader.reports_after = read_and_lose
    assert await world.exporter.step(RAW) == Step()
    assert world.influx.requests == 0
    assert world.reader.export_state(RAW).seq == 0
    assert world.exporter.warnings == []
    assert "export" not in caplog.text
