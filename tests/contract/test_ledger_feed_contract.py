"""The bridge's client reads the same from the real collector and from the stand-in of its tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from collector.ledger.corrections import Kind, Wanted
from collector.ledger.postgres.writer import PostgresLedger
from collector.reports.billing import Ratio
from marzban_bridge.errors import CollectorRefusedError
from marzban_bridge.feed.client import CollectorFeed, ReaderPosition, ReportedPosition
from marzban_bridge.quota.corrections import Question
from marzban_bridge.quota.usage import UsageChange
from tests.support.bridge import fake_ledger
from tests.support.bridge.fake_ledger import FakeLedger
from tests.support.collector.collectors import ADMIN_KEY, CollectorWorld, running, wire
from tests.support.collector.ledgers import NOON_MILLIS


class Fake:
    """The stand-in."""

    def __init__(self) -> None:
        self.ledger = FakeLedger()
        self.admin_key = fake_ledger.ADMIN_KEY
        self.transport = self.ledger.transport()

    async def report(self, username: str, amount_bytes: int) -> None:
        self.ledger.report(username, amount_bytes)

    def set_ratio(self, ratio_millis: int) -> None:
        self.ledger.ratio_millis = ratio_millis

    async def restart(self) -> None:
        self.ledger.restart()

    async def void(self, *seqs: int) -> None:
        self.ledger.void(*seqs)

    async def adjust(self, username: str, amount_bytes: int, *, day: datetime | None) -> None:
        self.ledger.adjust(username, amount_bytes, day=day)


class Real:
    """A collector with a ledger."""

    def __init__(self, world: CollectorWorld) -> None:
        self.world = world
        self.admin_key = ADMIN_KEY
        self.transport = httpx.ASGITransport(app=world.app)

    async def report(self, username: str, amount_bytes: int) -> None:
        answer = await self.world.send(
            wire(username, bytes_uploaded=0, bytes_downloaded=amount_bytes)
        )
        assert answer.status_code == 200
        self.world.now_millis += 60_000

    def set_ratio(self, ratio_millis: int) -> None:
        self.world.app.state.collector.backend.set_ratio(Ratio("de-1", ratio_millis, 0))
        self.world.app.state.collector.rules._rules = None

    async def void(self, *seqs: int) -> None:
        """Void reports by their numbers: each of them came a minute after the one before."""
        for seq in seqs:
            await self._correct(
                kind=Kind.VOID,
                scope="reporter:r",
                since_millis=NOON_MILLIS + (seq - 1) * 60_000,
                until_millis=NOON_MILLIS + seq * 60_000,
            )

    async def adjust(self, username: str, amount_bytes: int, *, day: datetime | None) -> None:
        await self._correct(
            kind=Kind.ADJUST,
            username=username,
            raw_bytes=amount_bytes,
            billed_bytes=amount_bytes,
            since_millis=None if day is None else int(day.timestamp() * 1000),
        )

    async def _correct(self, **fields: Any) -> None:
        wanted = Wanted(reason="stolen key", actor="root", **fields)
        collector = self.world.app.state.collector
        await asyncio.to_thread(
            collector.backend.ask_correction, wanted, asked_at_millis=self.world.now_millis
        )
        await collector.corrections.carry_out_open()

    async def restart(self) -> None:
        """Have the next report stored as after a restart, without a second server here."""
        ledger = self.world.app.state.collector.ingest._ledger
        if isinstance(ledger, PostgresLedger):
            ledger.fold()
            ledger.lease.lose()
            ledger.lead()
        else:
            ledger._is_run_noted = False


@asynccontextmanager
async def opened(folder: Path, environment: dict[str, str]) -> AsyncIterator[Real]:
    world = CollectorWorld(path=folder / "ledger.sqlite3", environment=environment)
    async with running(world):
        yield Real(world)


@pytest.fixture(params=["fake", "sqlite", "postgres"])
def kind(request):
    return request.param


@pytest.fixture
def environment(request, kind):
    if kind != "postgres":
        return {}
    server = request.getfixturevalue("postgres")
    return {"LEDGER_URL": server.url(server.new_database())}


@pytest.fixture
async def source(kind, environment, tmp_path):
    if kind == "fake":
        yield Fake()
        return
    async with opened(tmp_path, environment) as source:
        yield source


@pytest.fixture
async def feed(source):
    feed = CollectorFeed(
        "http://collector.test", admin_key=source.admin_key, transport=source.transport
    )
    yield feed
    await feed.close()


async def test_an_empty_ledger_has_a_name_and_no_changes(feed):
    page = await feed.read(after=0)
    assert page.ledger_id
    assert (page.head, page.cursor, page.changes) == (0, 0, ())


async def test_each_user_comes_once_with_its_total_in_the_order_of_the_last_change(source, feed):
    for username, amount_bytes in (("a", 1), ("b", 10), ("a", 2), ("c", 100)):
        await source.report(username, amount_bytes)
    page = await feed.read(after=0)
    assert page.changes == (
        UsageChange(username="b", total_bytes=10, raw_bytes=10, change_seq=2),
        UsageChange(username="a", total_bytes=3, raw_bytes=3, change_seq=3),
        UsageChange(username="c", total_bytes=100, raw_bytes=100, change_seq=4),
    )
    assert (page.head, page.cursor) == (4, 4)


async def test_what_traffic_counts_for_comes_beside_its_bytes_and_is_never_worked_out_again(
    source, feed
):
    await source.report("a", 5)
    for ratio_millis in (2000, 1500, 0):
        source.set_ratio(ratio_millis)
        await source.report("a", 5)
    expected = UsageChange(username="a", total_bytes=5 + 10 + 7 + 0, raw_bytes=20, change_seq=4)
    for _ in range(2):
        assert (await feed.read(after=0)).changes == (expected,)


async def test_a_collector_from_before_ratios_is_read_as_it_counts():
    ledger = FakeLedger()
    ledger.knows_ratios = False
    ledger.report("a", 5)
    feed = CollectorFeed(
        "http://collector.test", admin_key=fake_ledger.ADMIN_KEY, transport=ledger.transport()
    )
    (change,) = (await feed.read(after=0)).changes
    assert change == UsageChange(username="a", total_bytes=5, raw_bytes=5, change_seq=1)
    await feed.close()


async def test_a_reader_goes_on_where_it_was(source, feed):
    await source.report("a", 1)
    await source.report("b", 1)
    page = await feed.read(after=1)
    assert [each.username for each in page.changes] == ["b"]
    after = await feed.read(after=page.cursor)
    assert (after.changes, after.cursor) == ((), page.cursor)


async def test_a_full_page_says_where_the_next_begins(source, feed, monkeypatch):
    monkeypatch.setattr("marzban_bridge.feed.client.PAGE_SIZE", 2)
    for username in "abc":
        await source.report(username, 1)
    first = await feed.read(after=0)
    second = await feed.read(after=first.cursor)
    assert [each.username for each in (*first.changes, *second.changes)] == ["a", "b", "c"]
    assert (first.head, first.cursor, second.cursor) == (3, 2, 3)


async def test_a_reader_ahead_of_a_restored_ledger_sees_its_head_at_once(source, feed):
    await source.report("a", 1)
    await feed.read(after=0)  # it is in the sums by then, whoever adds up
    page = await feed.read(after=50, wait_seconds=30)
    assert (page.head, page.cursor, page.changes) == (1, 50, ())


async def test_a_page_says_who_stored_what_it_begins_after_and_who_came_since(source, feed):
    assert (await feed.read(after=0)).runs == ()
    for _ in range(3):
        await source.report("a", 1)
        await source.report("b", 1)
        await source.restart()
    first, second, third = (await feed.read(after=0)).runs
    assert [each.after_seq for each in (first, second, third)] == [0, 2, 4]
    assert len({each.token for each in (first, second, third)}) == 3
    assert (await feed.read(after=2)).runs == (first, second, third)
    assert (await feed.read(after=3)).runs == (second, third)
    assert (await feed.read(after=6)).runs == (third,)


async def test_a_reader_is_remembered_by_its_newest_word_and_listed_for_who_comes_anew(feed):
    assert await feed.reported_positions() == ()
    one, other = "1" * 32, "2" * 32
    assert await feed.position_of(one) is None
    await feed.report_position(one, position=7, mark="aa", panel="cc")
    await feed.report_position(one, position=5, mark="bb", panel="dd")
    await feed.report_position(one, position=7, mark="bb", panel="dd")
    assert await feed.position_of(one) == ReaderPosition(position=7, mark="aa")
    assert await feed.reported_positions() == (ReportedPosition(name=one, position=7, panel="cc"),)
    await feed.report_position(one, position=7, mark="aa", panel="ee")
    await feed.report_position(other, position=0, mark="", panel="ff")
    assert sorted(await feed.reported_positions(), key=lambda each: each.name) == [
        ReportedPosition(name=one, position=7, panel="ee"),
        ReportedPosition(name=other, position=0, panel="ff"),
    ]


async def test_a_wrong_key_is_refused(source):
    feed = CollectorFeed(
        "http://collector.test", admin_key="a-wrong-admin-key", transport=source.transport
    )
    with pytest.raises(CollectorRefusedError, match="COLLECTOR_ADMIN_KEY"):
        await feed.read(after=0)
    await feed.close()


NOON = datetime.fromtimestamp(NOON_MILLIS / 1000, tz=UTC)


def asking(username: str = "a", **changes: Any) -> Question:
    return Question(
        **{
            "username": username,
            "after_seq": 0,
            "through_seq": 100,
            "period_seq": 0,
            "period_since": NOON - timedelta(days=9),
        }
        | changes
    )


async def test_corrections_leave_totals_and_stand_beside_them(source, feed):
    for amount_bytes in (1, 10, 100):
        await source.report("a", amount_bytes)
    await source.report("b", 1000)
    await source.void(2)
    await source.adjust("a", -5, day=None)
    page = await feed.read(after=4)
    assert page.changes == (
        UsageChange(
            username="a",
            total_bytes=111,
            raw_bytes=111,
            change_seq=6,
            corrected_bytes=-15,
            corrected_raw_bytes=-15,
            corrected_seq=6,
        ),
    )
    assert page.head == 6


async def test_what_corrections_took_back_is_told_by_number_and_period(source, feed):
    for amount_bytes in (1, 10, 100):
        await source.report("a", amount_bytes)
    await source.void(1, 3)  # lines 4 and 5
    await source.adjust("a", -5, day=None)  # line 6
    await source.adjust("a", -2, day=NOON - timedelta(days=3))  # line 7
    for changes, expected in (
        ({}, -108),
        ({"period_seq": 1}, -107),
        ({"period_seq": 3}, -7),
        ({"period_seq": 6}, -2),
        ({"period_seq": 6, "period_since": NOON - timedelta(days=2)}, 0),
        ({"period_seq": None}, -108),
        ({"after_seq": 4}, -107),
        ({"through_seq": 4}, -1),
        ({"after_seq": 5, "through_seq": 6}, -5),
        ({"username": "b"}, 0),
    ):
        answer = await feed.corrected(asking(**changes))
        assert (answer.billed_bytes, answer.raw_bytes) == (expected, expected), changes
    answer = await feed.corrected(asking(period_seq=9))
    assert answer.all_billed_bytes == -108
    assert {(it.kind, it.reason, it.actor) for it in answer.sources} <= {
        ("void", "stolen key", "root"),
        ("adjust", "stolen key", "root"),
        ("adjust", "spike", "root"),
    }
