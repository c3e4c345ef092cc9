"""Where ids of reports are kept: small index, large indexes, and the hand between them."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.ledger.sqlite import key_index
from collector.ledger.sqlite.file import connect
from collector.ledger.sqlite.writer import SqliteLedger
from collector.reports.report import Report
from tests.support.collector.ledgers import NOON_MILLIS, batch


def hashed(number: int) -> Report:
    key = hashlib.blake2b(number.to_bytes(8), digest_size=16).digest()
    return Report("alice", "de-1", 443, "vless", 1, 2, 1, NOON_MILLIS, key)


def store(ledger: SqliteLedger, *numbers: int) -> int:
    """Store reports; return how many were known."""
    reports = batch(*map(hashed, numbers))
    (receipt,) = ledger.record([reports], received_at_millis=NOON_MILLIS)
    return receipt.duplicates


def counts(db: sqlite3.Connection) -> dict[str, int]:
    found = {each: f"SELECT count(*) FROM {each}" for each in key_index.INDEXES}
    return {each: db.execute(query).fetchone()[0] for each, query in found.items()}


ALL_LARGE = {
    "report_key_recent": 0,
    "report_key_middle": 0,
    "report_key_0": 200,
    "report_key_1": 0,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


@settings(max_examples=60)
@given(
    round_size=st.integers(1, 40),
    middle_rounds=st.sampled_from([1, 2, 1000]),
    groups=st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=12),
    reopens=st.booleans(),
)
def test_an_id_that_was_stored_is_known_wherever_the_cursors_are(
    round_size, middle_rounds, groups, reopens
):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_index, "KEYS_PER_ROUND", round_size)
        patch.setattr(key_index, "MIDDLE_ROUNDS", middle_rounds)
        path = Path(folder) / "ledger.sqlite3"
        ledger = SqliteLedger(path)
        known: set[int] = set()
        for group in groups:
            repeated = len(group) - len(set(group) - known)
            assert store(ledger, *group) == repeated
            known.update(group)
            if reopens:
                ledger.close()
                ledger = SqliteLedger(path)
        with closing(ledger), closing(connect(path)) as beside:
            assert sum(counts(beside).values()) == len(known), "each is in one index alone"


def test_the_small_index_stays_small_and_the_hand_goes_round(path, monkeypatch):
    monkeypatch.setattr(key_index, "KEYS_PER_ROUND", 1000)
    largest = 0
    with closing(SqliteLedger(path)) as ledger, closing(connect(path)) as beside:
        for start in range(0, 5000, 100):
            assert store(ledger, *range(start, start + 100)) == 0
            largest = max(largest, counts(beside)[key_index.RECENT])
        assert 300 < largest < 900, "about half a round's ids"
        assert store(ledger, *range(5000)) == 5000


def test_many_ids_go_through_the_middle_index_and_none_stays_there_for_ever(path, monkeypatch):
    monkeypatch.setattr(key_index, "KEYS_PER_ROUND", 100)
    most = 0
    with closing(SqliteLedger(path)) as ledger, closing(connect(path)) as beside:
        for start in range(0, 8000, 50):
            assert store(ledger, *range(start, start + 50)) == 0
            most = max(most, counts(beside)[key_index.MIDDLE])
        assert 300 < most < 1.2 * key_index.keys_per_middle_round(8000)
        assert counts(beside)["report_key_0"] > 6000
        assert store(ledger, *range(8000)) == 8000
        for _ in range(256):
            ledger.forget_reports(before_millis=0, limit=1, keeps_unexported=False)
        found = counts(beside)
        assert (found["report_key_0"], sum(found.values())) == (8000, 8000)


def test_ids_in_the_middle_index_outlive_the_change_of_the_large_ones(path, monkeypatch):
    monkeypatch.setattr(key_index, "KEYS_PER_ROUND", 10)
    monkeypatch.setattr(key_index, "QUIET_SHARE", 0)
    forget = {"limit": 1, "keeps_unexported": False}
    with closing(SqliteLedger(path)) as ledger, closing(connect(path)) as beside:
        for start in range(0, 400, 5):
            store(ledger, *range(start, start + 5))
        in_middle = beside.execute(f"SELECT key FROM {key_index.MIDDLE}").fetchall()
        assert len(in_middle) > 5
        for _ in range(2):  # the first empties what is empty, the second what was current
            ledger.forget_reports(before_millis=NOON_MILLIS + 1, **forget)
        stored = {hashed(number).report_key: number for number in range(400)}
        again = [stored[key] for (key,) in in_middle]
        assert store(ledger, *again) == len(again)


def test_without_new_ids_the_old_ones_move_on_at_each_purge(path, monkeypatch):
    forget = {"before_millis": 0, "limit": 1, "keeps_unexported": False}
    monkeypatch.setattr(key_index, "QUIET_SHARE", 1 / 8)
    monkeypatch.setattr(key_index, "KEYS_PER_ROUND", 100)
    with closing(SqliteLedger(path)) as ledger, closing(connect(path)) as beside:
        store(ledger, *range(150))
        store(ledger, *range(150, 200))
        assert counts(beside)[key_index.RECENT] > 10
        for _ in range(8):
            ledger.forget_reports(**forget)
        assert counts(beside) == ALL_LARGE


def test_while_there_are_few_ids_they_go_where_they_stay(path):
    with closing(SqliteLedger(path)) as ledger, closing(connect(path)) as beside:
        store(ledger, *range(200))
        assert counts(beside) == ALL_LARGE


def test_ids_that_were_still_in_the_small_index_outlive_the_change_of_the_large_ones(path):
    forget = {"limit": 100, "keeps_unexported": False}
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(50))
        ledger.forget_reports(before_millis=1, **forget)
        store(ledger, *range(50, 60))
        assert store(ledger, *range(60)) == 60


def test_a_large_index_takes_many_ids_for_each_page_that_is_written(path, monkeypatch):
    """The point of it all: written one group at a time, each id would write a page."""
    written: dict[int, int] = {}
    for round_size in (1, 20_000):
        monkeypatch.setattr(key_index, "KEYS_PER_ROUND", round_size)
        place = path.with_name(f"{round_size}.sqlite3")
        journal = place.with_name(place.name + "-wal")
        with closing(SqliteLedger(place)) as ledger, closing(connect(place)) as beside:
            ledger._db.execute("PRAGMA wal_autocheckpoint = 0")
            store(ledger, *range(60_000))
            beside.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for start in range(60_000, 80_000, 500):
                store(ledger, *range(start, start + 500))
            written[round_size] = journal.stat().st_size
    assert written[20_000] < 0.75 * written[1], written


def test_with_many_ids_a_middle_index_saves_more_of_the_pages(path, monkeypatch):
    monkeypatch.setattr(key_index, "KEYS_PER_ROUND", 2000)
    written: dict[int, int] = {}
    for middle_rounds in (4, 1000):
        monkeypatch.setattr(key_index, "MIDDLE_ROUNDS", middle_rounds)
        place = path.with_name(f"{middle_rounds}.sqlite3")
        journal = place.with_name(place.name + "-wal")
        with closing(SqliteLedger(place)) as ledger, closing(connect(place)) as beside:
            store(ledger, *range(60_000))
            ledger._db.execute("PRAGMA wal_autocheckpoint = 0")
            beside.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for start in range(60_000, 75_000, 500):
                store(ledger, *range(start, start + 500))
            written[middle_rounds] = journal.stat().st_size
    assert written[4] < 0.75 * written[1000], written
