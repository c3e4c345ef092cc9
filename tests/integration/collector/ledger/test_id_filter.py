"""What tells new ids from stored ones without a look-up: never wrong about one that is stored."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.errors import NotStoredError
from collector.ledger.sqlite import key_filter, key_index
from collector.ledger.sqlite.key_filter import KeyFilter
from collector.ledger.sqlite.writer import SqliteLedger
from collector.reports.report import Report
from tests.support.collector.ledgers import NOON_MILLIS, batch

DEADLINE_SECONDS = 120


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


@pytest.fixture(autouse=True)
def is_used_at_once(monkeypatch):
    monkeypatch.setattr(key_filter, "FEWEST_KEYS", 1)
    monkeypatch.setattr(key_filter, "LEAST_KEYS", 1)
    monkeypatch.setattr(key_filter, "KEYS_PER_SLICE", 1)
    monkeypatch.setattr(key_filter, "SLICES", 16)
    monkeypatch.setattr(key_filter, "SHARE", 1)


def hashed(number: int) -> Report:
    key = hashlib.blake2b(number.to_bytes(8), digest_size=16).digest()
    return Report("alice", "de-1", 443, "vless", 1, 2, 1, NOON_MILLIS, key)


def store(ledger: SqliteLedger, *numbers: int, defers_sums: bool = False) -> int:
    """Store reports; return how many were known."""
    (receipt,) = ledger.record(
        [batch(*map(hashed, numbers))], received_at_millis=NOON_MILLIS, defers_sums=defers_sums
    )
    return receipt.duplicates


def complete(ledger: SqliteLedger) -> None:
    """Record nothing until the stored ids have been read."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not ledger._filter.is_complete:
        assert time.monotonic() < deadline
        store(ledger)
        time.sleep(0.001)


def looked_up(ledger: SqliteLedger, *numbers: int) -> int:
    return len(ledger._filter.may_have([hashed(number).report_key for number in numbers]))


def test_most_new_ids_are_not_looked_up_and_every_stored_one_is(path):
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(1000))
        store(ledger, *range(1000, 1100), defers_sums=True)
    with closing(SqliteLedger(path, is_at_once=True)) as ledger:
        assert looked_up(ledger, *range(5000, 5100)) == 100, "nothing has been read yet"
        complete(ledger)
        assert looked_up(ledger, *range(1100)) == 1100
        assert looked_up(ledger, *range(10_000, 20_000)) < 3000
        assert store(ledger, *range(1000, 1200)) == 100
        assert store(ledger, *range(1200)) == 1200


@settings(max_examples=40)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("store"), st.lists(st.integers(0, 80), max_size=20)),
            st.tuples(st.just("defer"), st.lists(st.integers(0, 80), max_size=20)),
            st.tuples(st.sampled_from(["fold", "fail", "reopen", "complete"]), st.just([])),
        ),
        max_size=20,
    ),
)
def test_an_id_is_known_from_its_commit_on_however_far_reading_is(steps):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_index, "KEYS_PER_ROUND", 8)
        path = Path(folder) / "ledger.sqlite3"
        ledger, known = SqliteLedger(path), set[int]()
        for step, numbers in steps:
            if step in {"store", "defer"}:
                repeated = len(numbers) - len(set(numbers) - known)
                assert store(ledger, *numbers, defers_sums=step == "defer") == repeated
                known.update(numbers)
            elif step == "fold":
                ledger.fold()
            elif step == "fail":
                with pytest.raises(NotStoredError):
                    ledger.record(
                        [
                            batch(
                                hashed(99),
                                Report("\ud800", "s", 1, "p", 1, 1, 1, NOON_MILLIS, None),
                            )
                        ],
                        received_at_millis=NOON_MILLIS,
                    )
            elif step == "complete" and known:
                complete(ledger)
            elif step == "reopen":
                ledger.close()
                ledger = SqliteLedger(path, is_at_once=True)
        with closing(ledger):
            assert store(ledger, *known) == len(known)


def test_ids_that_move_between_indexes_while_they_are_read_are_not_missed(path, monkeypatch):
    monkeypatch.setattr(key_index, "KEYS_PER_ROUND", 50)
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(500))
    monkeypatch.setattr(key_filter, "SLICES", 512)
    monkeypatch.setattr(key_filter, "SHARE", 0.5)
    with closing(SqliteLedger(path, is_at_once=True)) as ledger:
        new = iter(range(500, 1_000_000))
        stored = list(range(500))
        while not ledger._filter.is_complete:
            some = [next(new) for _ in range(20)]
            assert store(ledger, *some, defers_sums=len(stored) % 3 == 0) == 0
            stored += some
        assert looked_up(ledger, *stored) == len(stored)
        assert store(ledger, *stored) == len(stored)


def test_it_is_made_anew_when_it_is_too_full_or_many_ids_were_forgotten(path):
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(100))
        complete(ledger)
        first = ledger._filter._bits
        for start in range(100, 20_000, 500):
            store(ledger, *range(start, start + 500))
        deadline = time.monotonic() + DEADLINE_SECONDS
        while ledger._filter._bits is first:
            assert time.monotonic() < deadline
            store(ledger)
            time.sleep(0.001)
        assert looked_up(ledger, *range(20_000)) == 20_000
        larger = ledger._filter._bits
        assert len(larger.bytes) > len(first.bytes)
        ledger.forget_reports(before_millis=1, limit=1, keeps_unexported=False)
        while ledger._filter._bits is larger:
            assert time.monotonic() < deadline
            store(ledger)
            time.sleep(0.001)
        assert store(ledger, *range(20_000)) == 20_000


def test_what_cannot_be_read_leaves_every_id_to_be_looked_up(path, monkeypatch, caplog):
    def fails(*_):
        raise sqlite3.OperationalError("made up")

    monkeypatch.setattr(key_filter._Reading, "_read", fails)
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(100))
        store(ledger)
        ledger._filter._reading._thread.join(DEADLINE_SECONDS)
        assert store(ledger, *range(150)) == 100
        assert not ledger._filter.is_complete
    assert "could not be read: made up" in caplog.text


def test_few_ids_are_not_filtered(path, monkeypatch):
    monkeypatch.setattr(key_filter, "FEWEST_KEYS", 1000)
    ids = KeyFilter(path)
    ids.keep_up(999, [])
    ids.add([b"x" * 16])
    assert ids.may_have([b"y" * 16]) == [b"y" * 16]


def test_a_smaller_ledger_is_read_in_fewer_slices():
    assert [key_filter._slices_for(each) for each in (0, 1, 2, 2000)] == [1, 2, 4, 16]
