"""A collector takes reports while its ledger is checked, and none once the check found damage."""

from __future__ import annotations

import asyncio
import threading
from contextlib import closing
from pathlib import Path

import pytest

from collector.errors import LedgerError
from collector.ledger.sqlite.reader import SqliteReader
from collector.ledger.sqlite.writer import SqliteLedger
from collector.runtime.sqlite import background_check
from collector.runtime.sqlite.background_check import note_of
from tests.support.collector.collectors import CollectorWorld, running, wire
from tests.support.collector.ledgers import NOON_MILLIS, batch, damage, report

DEADLINE_SECONDS = 120


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "ledger.sqlite3"
    with closing(SqliteLedger(path)) as ledger:
        reports = [report(f"user{number}", key=str(number)) for number in range(50)]
        ledger.record([batch(*reports)], received_at_millis=NOON_MILLIS)
    return path


@pytest.fixture
def gate(monkeypatch):
    """What holds up the check."""
    gate = threading.Event()
    check = background_check.damage_of

    def waits(db):
        assert gate.wait(DEADLINE_SECONDS)
        return check(db)

    monkeypatch.setattr(background_check, "damage_of", waits)
    yield gate
    gate.set()


async def test_reports_are_taken_while_a_whole_ledger_is_checked(path, gate):
    async with running(CollectorWorld(path=path)) as world:
        assert (await world.send(wire(report_id="1"))).status_code == 200
        gate.set()
        assert (await world.send(wire(report_id="2"))).status_code == 200
        assert (await world.client.get("/readyz")).status_code == 200
        assert (await world.totals())["alice"] == 60
    assert not note_of(path).exists()


async def test_nothing_is_acknowledged_or_changed_once_the_check_has_found_damage(path, gate):
    damage(path)
    found: asyncio.Queue[Exception] = asyncio.Queue()
    world = CollectorWorld(path=path, on_damage=found.put_nowait)
    async with running(world):
        assert (await world.send(wire(report_id="1"))).status_code == 200, "before it is found"
        totals = await world.totals()
        gate.set()
        async with asyncio.timeout(DEADLINE_SECONDS):
            error = await found.get()
        assert isinstance(error, LedgerError)
        for number in range(3):
            refused = await world.send(wire(report_id=f"after-{number}"))
            assert refused.status_code == 503
            assert str(error) in refused.text
        readiness = await world.client.get("/readyz")
        assert readiness.status_code == 503
        assert str(error) in readiness.json()["reasons"]
        assert await world.totals() == totals
    with pytest.raises(LedgerError) as at_the_next_start:
        SqliteLedger(path, is_at_once=True)
    assert str(at_the_next_start.value) == str(error)
    with closing(SqliteReader(path)) as reader:
        assert {each.username for each in reader.changes(after=0, limit=99).changes} >= {"alice"}


async def test_a_commit_during_which_damage_is_found_is_not_acknowledged(path, gate, monkeypatch):
    async with running(CollectorWorld(path=path)) as world:
        ingest = world.app.state.collector.ingest
        record = SqliteLedger.record

        def finds_damage_meanwhile(*arguments, **options):
            receipts = record(*arguments, **options)
            ingest.refuse("the ledger is damaged")
            return receipts

        monkeypatch.setattr(SqliteLedger, "record", finds_damage_meanwhile)
        refused = await world.send(wire())
        assert refused.status_code == 503
        assert "the ledger is damaged" in refused.text
        gate.set()


def test_a_ledger_opened_at_once_leaves_the_sums_of_a_crash_to_its_writer(path):
    with closing(SqliteLedger(path)) as ledger:
        stored = [batch(report("bob", key="b"), report("bob", key="c"))]
        ledger.record(stored, received_at_millis=NOON_MILLIS, defers_sums=True)
    with (
        closing(SqliteLedger(path, is_at_once=True)) as ledger,
        closing(SqliteReader(path)) as reader,
    ):
        assert ledger.unfolded_reports == 2
        again = ledger.record(stored, received_at_millis=NOON_MILLIS, defers_sums=True)
        assert [(each.accepted, each.duplicates) for each in again] == [(0, 2)]
        assert "bob" not in {each.username for each in reader.changes(after=0, limit=99).changes}
        ledger.fold()
        assert ledger.unfolded_reports == 0
        (bob,) = (e for e in reader.changes(after=0, limit=99).changes if e.username == "bob")
        assert (bob.upload_bytes, bob.download_bytes) == (2, 4)


async def test_what_a_crash_left_is_added_up_beside_what_comes_in(path):
    with closing(SqliteLedger(path)) as ledger:
        stored = [batch(*(report("bob", key=f"b{number}") for number in range(100)))]
        ledger.record(stored, received_at_millis=NOON_MILLIS, defers_sums=True)
    async with running(CollectorWorld(path=path)) as world:
        assert (await world.send(wire(report_id="1"))).status_code == 200
        await world.app.state.collector.catch_up()
        totals = await world.totals()
        assert (totals["alice"], totals["bob"]) == (30, 300)
