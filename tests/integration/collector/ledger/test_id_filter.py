"""What tells new ids from stored ones without a look-up: never wrong about one that is stored."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.errors import NotStoredError
from collector.ledger.sqlite import kept_filter, key_filter, key_index
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


def crash(ledger: SqliteLedger) -> None:
    """Close what the end of a process closes, and do nothing else."""
    if ledger._filter._reading is not None:
        ledger._filter._reading.stop()
    ledger._db.close()
    ledger._lock.close()


def put_back(copy: Path, path: Path) -> None:
    """Put a copy in the place of a ledger that is not open; what is kept beside it stays."""
    for each in ("-wal", "-shm"):
        path.with_name(path.name + each).unlink(missing_ok=True)
    shutil.copy(copy, path)


def refuse_to_read_indexes(monkeypatch) -> None:
    def fails(*_):
        raise AssertionError("the indexes were read")

    monkeypatch.setattr(key_filter._Reading, "_read", fails)


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
        assert looked_up(ledger, *range(10_000, 20_000)) < 1500
        assert store(ledger, *range(1000, 1200)) == 100
        assert store(ledger, *range(1200)) == 1200


@settings(max_examples=40)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("store"), st.lists(st.integers(0, 80), max_size=20)),
            st.tuples(st.just("defer"), st.lists(st.integers(0, 80), max_size=20)),
            st.tuples(
                st.sampled_from(
                    ["fold", "fail", "reopen", "complete", "crash", "back up", "restore"]
                ),
                st.just([]),
            ),
        ),
        max_size=25,
    ),
)
def test_an_id_is_known_from_its_commit_on_however_far_reading_is(steps):
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_index, "KEYS_PER_ROUND", 8)
        path = Path(folder) / "ledger.sqlite3"
        copy = Path(folder) / "copy.sqlite3"
        ledger, known, copied = SqliteLedger(path), set[int](), set[int]()
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
            elif step == "back up":
                ledger._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                shutil.copy(path, copy)
                copied = known.copy()
            elif step in {"reopen", "crash", "restore"}:
                (crash if step == "crash" else SqliteLedger.close)(ledger)
                if step == "restore" and copy.exists():
                    put_back(copy, path)
                    known = copied.copy()
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


def test_it_has_room_for_ids_that_are_kept_for_longer_than_their_reports(path):
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(5000))
    ids, read = KeyFilter(path), []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not ids.is_complete or ids._reading is not None or ids._bits.is_too_full:
        assert time.monotonic() < deadline
        ids.keep_up(100, [])
        read += [] if ids._reading in read else [ids._reading]
        time.sleep(0.001)
    assert len([each for each in read if each is not None]) == 2
    assert ids._bits.keys == 5000


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


def test_where_no_thread_can_be_started_ids_are_looked_up_and_it_is_tried_again(
    path, monkeypatch, caplog
):
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(100))
        with monkeypatch.context() as patch:
            patch.setattr(key_filter.threading.Thread, "start", fail)
            assert store(ledger, *range(150)) == 100
        assert "not read now: can't start new thread" in caplog.text
        complete(ledger)
        assert store(ledger, *range(200)) == 150


def test_few_ids_are_not_filtered(path, monkeypatch):
    monkeypatch.setattr(key_filter, "FEWEST_KEYS", 1000)
    ids = KeyFilter(path)
    ids.keep_up(999, [])
    assert ids.claim([b"x" * 16]) == [b"x" * 16]
    assert ids.may_have([b"y" * 16]) == [b"y" * 16]


@pytest.mark.parametrize("length", [16, 15, 17, 4])
def test_a_claimed_key_is_found_from_then_on_whatever_its_length(length):
    keys = [hashlib.blake2b(bytes([number]), digest_size=length).digest() for number in range(9)]
    bits = key_filter._Bits.for_keys(10_000)
    assert bits.claim([*keys[:3], b"a" * 16, keys[0]]) == [keys[0]]
    assert bits.found(keys) == keys[:3]
    assert bits.claim(keys) == keys[:3]
    assert bits.found(keys) == keys
    assert bits.claim([]) == []


def test_a_smaller_ledger_is_read_in_fewer_slices():
    assert [key_filter._slices_for(each) for each in (0, 1, 2, 2000)] == [1, 2, 4, 16]


def test_after_a_clean_end_it_is_read_from_its_file_in_place_of_the_indexes(path, monkeypatch):
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(1000))
        complete(ledger)
        store(ledger, *range(1000, 1100), defers_sums=True)
    assert kept_filter.place_of(path).stat().st_mode & 0o777 == 0o600
    refuse_to_read_indexes(monkeypatch)
    with closing(SqliteLedger(path, is_at_once=True)) as ledger:
        complete(ledger)
        assert looked_up(ledger, *range(1100)) == 1100
        assert looked_up(ledger, *range(10_000, 20_000)) < 1500
        assert store(ledger, *range(1200)) == 1100


def test_ids_stored_after_it_was_kept_and_before_a_crash_are_known(path, monkeypatch):
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(1000))
        complete(ledger)
    monkeypatch.setattr(key_filter, "REPORTS_PER_PIECE", 7)
    refuse_to_read_indexes(monkeypatch)
    for first in (1000, 1100):
        ledger = SqliteLedger(path, is_at_once=True)
        store(ledger, *range(first, first + 50))
        complete(ledger)
        store(ledger, *range(first + 50, first + 100), defers_sums=True)
        assert looked_up(ledger, *range(first + 100)) == first + 100
        crash(ledger)
    with closing(SqliteLedger(path, is_at_once=True)) as ledger:
        complete(ledger)
        assert store(ledger, *range(1300)) == 1200


def test_it_is_not_used_for_an_older_copy_of_the_ledger_though_that_has_grown_since(path, tmp_path):
    copy = tmp_path / "copy.sqlite3"
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(1000))
        ledger._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(path, copy)
        store(ledger, *range(1000, 1050))
        complete(ledger)
    put_back(copy, path)
    ledger = SqliteLedger(path, is_at_once=True)
    assert store(ledger, *range(2000, 2200)) == 0
    crash(ledger)
    with closing(SqliteLedger(path, is_at_once=True)) as ledger:
        complete(ledger)
        assert looked_up(ledger, *range(2000, 2200)) == 200
        assert store(ledger, *range(2000, 2200)) == 200
        assert store(ledger, *range(1000, 1050)) == 0


def test_it_is_not_used_where_reports_were_purged_whose_ids_are_kept(path):
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(1000))
        complete(ledger)
    ledger = SqliteLedger(path, is_at_once=True)
    store(ledger, *range(1000, 1100))
    ledger.forget_reports(before_millis=NOON_MILLIS + 1, limit=1050, keeps_unexported=False)
    crash(ledger)
    ids = KeyFilter(path)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not ids.is_complete:
        assert time.monotonic() < deadline
        ids.keep_up(10_000, [])  # with so many, reading the reports since would pay
        time.sleep(0.001)
    keys = [hashed(number).report_key for number in range(1100)]
    assert ids.may_have(keys) == keys


def _cut(content: bytes) -> bytes:
    return content[:-1]


def _flip_a_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def _be_of_another_ledger(content: bytes) -> bytes:
    return content.replace(b'"ledger_id":"', b'"ledger_id":"0', 1)


def _be_of_another_run(content: bytes) -> bytes:
    return content.replace(b'"run":"', b'"run":"0', 1)


def _be_of_fewer_reports(content: bytes) -> bytes:
    return content.replace(b'"last_seq":1000', b'"last_seq":999', 1)


def _be_newer(content: bytes) -> bytes:
    return content.replace(b'"format":3', b'"format":4', 1)


def _be_nothing(_: bytes) -> bytes:
    return b""


def _be_no_power_of_two(_: bytes) -> bytes:
    return (
        b'{"format":3,"ledger_id":"","last_seq":1,"run":"","keys":1,"size_bytes":3,"crc32":1}\nxyz'
    )


@pytest.mark.parametrize(
    "change",
    [
        _cut,
        _flip_a_bit,
        _be_of_another_ledger,
        _be_of_another_run,
        _be_of_fewer_reports,
        _be_newer,
        _be_nothing,
        _be_no_power_of_two,
    ],
)
def test_a_file_that_does_not_fit_is_not_used(path, change, monkeypatch):
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(1000))
        complete(ledger)
    place = kept_filter.place_of(path)
    kept = place.read_bytes()
    changed = change(kept)
    assert changed != kept
    place.write_bytes(changed)
    read: list[int] = []
    before = key_filter._Reading._read
    monkeypatch.setattr(
        key_filter._Reading, "_read", lambda *given: read.append(1) or before(*given)
    )
    with closing(SqliteLedger(path, is_at_once=True)) as ledger:
        complete(ledger)
        assert read
        assert store(ledger, *range(1100)) == 1000
    assert kept_filter.find(path).last_seq == 1100


def test_what_cannot_be_kept_is_logged_and_ends_well(path, caplog):
    place = kept_filter.place_of(path)
    place.with_name(place.name + ".new").mkdir()
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(1000))
        complete(ledger)
    assert "the filter of ids was not kept" in caplog.text
    assert not place.exists()


def test_it_is_not_kept_for_a_ledger_that_was_put_in_the_place_of_the_open_one(path, tmp_path):
    other = tmp_path / "other.sqlite3"
    with closing(SqliteLedger(other)) as ledger:
        store(ledger, *range(5000, 6500))
    with closing(SqliteLedger(path)) as ledger:
        store(ledger, *range(1000))
        complete(ledger)
        path.unlink()
        put_back(other, path)
    with closing(SqliteLedger(path, is_at_once=True)) as ledger:
        complete(ledger)
        assert store(ledger, *range(5000, 6500)) == 1500
