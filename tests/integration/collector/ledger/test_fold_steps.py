"""A fold in steps: commits come between them, readers see whole folds, and a crash counts once."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.errors import NotStoredError
from collector.ledger import Receipt
from collector.ledger.sqlite import key_index, unfolded, writer
from collector.ledger.sqlite.rows import MOST_ROWS, insert
from collector.ledger.sqlite.writer import SqliteLedger
from collector.reports.report import DAY_MILLIS, Report
from tests.support.collector.ledgers import NOON_MILLIS, SqlitePlace, batch, report

SLICE = 4


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch):
    monkeypatch.setattr(writer, "REPORTS_PER_SLICE", SLICE)


@pytest.fixture
def place(tmp_path):
    return SqlitePlace(path=tmp_path / "ledger.sqlite3")


def known(name: int, username: str = "alice", **changes) -> Report:
    """Return a report with an id as ids are: a hash."""
    key = hashlib.blake2b(str(name).encode(), digest_size=16).digest()
    made = report(username, **changes)
    return Report(*(getattr(made, each) for each in made.__struct_fields__[:8]), key)


def store(ledger: SqliteLedger, *reports: Report, defers_sums: bool = True) -> Receipt:
    (receipt,) = ledger.record(
        [batch(*reports)], received_at_millis=NOON_MILLIS, defers_sums=defers_sums
    )
    return receipt


def fail_to_store(ledger: SqliteLedger) -> None:
    """Have a commit fail after its reports were inserted."""

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("no such luck")

    with pytest.raises(NotStoredError, match="no such luck"):
        ledger.record([batch(known(999))], received_at_millis=0, defers_sums=True, alongside=fail)


def totals(place) -> dict[str, int]:
    with closing(place.reader()) as reader:
        page = reader.changes(after=0, limit=1000)
        assert reader.audit().problems == []
        return {each.username: each.upload_bytes + each.download_bytes for each in page.changes}


def test_only_the_last_step_changes_what_is_read(place):
    with closing(place.open()) as ledger:
        store(ledger, *(known(number) for number in range(3 * SLICE)))
        steps = 1
        while ledger.fold_some():
            assert totals(place) == {}
            steps += 1
        assert steps == 3 + 2
        assert totals(place) == {"alice": 3 * 3 * SLICE}
        assert ledger.fold_some() is False


def test_few_reports_are_added_up_in_one_step(place):
    with closing(place.open()) as ledger:
        store(ledger, *(known(number) for number in range(SLICE)))
        assert ledger.fold_some() is False
        assert totals(place) == {"alice": 3 * SLICE}


def test_an_id_is_known_between_any_two_steps(place):
    ids = range(3 * SLICE)
    with closing(place.open()) as ledger:
        store(ledger, *(known(number) for number in ids))
        goes_on = True
        while goes_on:
            goes_on = ledger.fold_some()
            assert store(ledger, *(known(number) for number in ids)) == Receipt(0, len(ids))
            assert store(ledger, known(0, up=77)) == Receipt(0, 1, 1)


def test_reports_between_steps_are_added_up_by_the_next_fold(place):
    with closing(place.open()) as ledger:
        store(ledger, *(known(number) for number in range(2 * SLICE)))
        more = 0
        while ledger.fold_some():
            more += 1
            store(ledger, known(100 + more, "bob"))
        assert totals(place) == {"alice": 6 * SLICE}
        ledger.fold()
        assert totals(place) == {"alice": 6 * SLICE, "bob": 3 * more}


@pytest.mark.parametrize("steps", range(6))
def test_a_commit_that_adds_up_at_once_includes_a_fold_under_way(place, steps):
    with closing(place.open()) as ledger:
        store(ledger, *(known(number) for number in range(2 * SLICE)))
        for _ in range(steps):
            ledger.fold_some()
        store(ledger, known(1000, "bob"), defers_sums=False)
        assert totals(place) == {"alice": 6 * SLICE, "bob": 3}
        assert store(ledger, known(0), known(1000)) == Receipt(0, 2, 1)


@pytest.mark.parametrize("steps", range(5))
@pytest.mark.parametrize("fails", ["index", "prepare", "add_prepared"])
def test_a_step_that_fails_begins_the_fold_again(place, monkeypatch, steps, fails):
    def fail(*_, **__):
        raise sqlite3.OperationalError("no such luck")

    target = key_index if fails == "index" else writer.sqlite_fold
    with closing(place.open()) as ledger:
        store(ledger, *(known(number) for number in range(2 * SLICE)))
        for _ in range(steps):
            ledger.fold_some()
        with monkeypatch.context() as patch:
            patch.setattr(target, fails, fail)
            try:
                ledger.fold()
            except NotStoredError:
                assert totals(place) == {}
        store(ledger, *(known(number) for number in range(2 * SLICE)))
        ledger.fold()
        assert totals(place) == {"alice": 6 * SLICE}


def test_a_commit_that_fails_leaves_a_fold_under_way_to_begin_again(place):
    with closing(place.open()) as ledger:
        store(ledger, *(known(number) for number in range(2 * SLICE)))
        ledger.fold_some()
        fail_to_store(ledger)
        store(ledger, known(501))
        ledger.fold()
        assert totals(place) == {"alice": 6 * SLICE + 3}


def test_what_senders_reported_is_the_same_however_it_was_added_up(place, tmp_path):
    found = []
    for number, most in enumerate((256, 0)):
        here = SqlitePlace(path=tmp_path / f"{number}.sqlite3")
        with closing(here.open()) as ledger, pytest.MonkeyPatch.context() as patch:
            patch.setattr(writer.sqlite_fold, "MOST_SENDERS", most)
            for at, sender in ((0, "reporter:a"), (3_600_000, "user:b"), (DAY_MILLIS, "user:b")):
                ledger.record(
                    [batch(report(), reporter=sender), batch(report("bob"), reporter="reporter:c")],
                    received_at_millis=NOON_MILLIS + at,
                    defers_sums=True,
                )
            ledger.fold()
            rows = [
                ledger._db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall()
                for table in ("sender_day", "heard", "usage_day", "user_total")
            ]
        found.append(rows)
    assert found[0] == found[1]
    assert all(found[0])


reports = st.builds(
    known,
    st.integers(0, 30),
    st.sampled_from(["alice", "bob", "eve"]),
    server=st.sampled_from(["s1", "s2"]),
    up=st.integers(0, 2**40),
    at=st.integers(NOON_MILLIS - 2 * DAY_MILLIS, NOON_MILLIS),
)
moves = st.lists(
    st.one_of(
        st.lists(reports, min_size=1, max_size=8),
        st.lists(reports, min_size=1, max_size=8).map(lambda found: (found,)),  # added up at once
        st.integers(1, 4),  # steps of a fold
        st.just("crash"),
        st.just("commit fails"),
    ),
    max_size=20,
)


@given(moves=moves)
@settings(max_examples=150)
def test_every_report_counts_once_through_steps_crashes_and_failures(moves):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "REPORTS_PER_SLICE", SLICE)
        place = SqlitePlace(path=Path(folder) / "ledger.sqlite3")
        first: dict[bytes, Report] = {}
        ledger = place.open()
        try:
            for move in moves:
                if move == "crash":
                    ledger.close()
                    ledger = SqliteLedger(place.path, is_at_once=True)
                elif move == "commit fails":
                    fail_to_store(ledger)
                elif isinstance(move, int):
                    for _ in range(move):
                        ledger.fold_some()
                else:
                    given_reports = move[0] if isinstance(move, tuple) else move
                    before = len(first)
                    for each in given_reports:
                        first.setdefault(each.report_key, each)
                    receipt = store(ledger, *given_reports, defers_sums=not isinstance(move, tuple))
                    assert receipt.accepted == len(first) - before
                    assert receipt.accepted + receipt.duplicates == len(given_reports)
                assert totals(place).keys() <= {each.username for each in first.values()}
            ledger.fold()
            wanted: Counter[str] = Counter()
            for each in first.values():
                wanted[each.username] += each.upload_bytes + each.download_bytes
            assert totals(place) == wanted
            assert store(ledger, *first.values()) == Receipt(0, len(first)) if first else True
        finally:
            ledger.close()


def test_sums_in_memory_are_those_that_the_reports_give(place):
    """By the same statement as a fold that reads them."""
    with closing(place.open()) as ledger:
        rows = [
            (seq, None, seq % 3, seq, 2 * seq, seq % 5, NOON_MILLIS - seq * 10**7, 0, "r", billed)
            for seq, billed in enumerate([None, 0, 7] * 9, start=1)
        ]
        for each in range(3):
            ledger._db.execute(
                "INSERT INTO series (id, username, server, port, protocol) VALUES (?, ?, '', 1, '')",
                (each, str(each)),
            )
        insert(ledger._db, writer._APPEND, rows)
        sums = unfolded.Sums()
        sums.add(rows[:10])
        sums.add(rows[10:])
        read = []
        for each in (None, sums):
            writer.sqlite_fold.prepare(ledger._db, each, after=0, through=len(rows))
            query = "SELECT * FROM temp.folding ORDER BY day, series_id"
            read.append(ledger._db.execute(query).fetchall())
        assert read[0] == read[1]
        assert len(read[0]) > 3


@pytest.mark.parametrize("count", [0, 1, 2, 3, 255, 256, 257, 1023])
def test_many_rows_are_inserted_in_their_order_by_few_statements(count):
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b)")
        statements: list[str] = []
        db.set_trace_callback(statements.append)
        rows = [(number, str(number)) for number in range(count)]
        insert(db, "INSERT INTO t (a, b)", rows)
        db.set_trace_callback(None)
        assert db.execute("SELECT a, b FROM t ORDER BY id").fetchall() == rows
        inserts = [each for each in statements if each.startswith("INSERT")]
        assert len(inserts) == count // MOST_ROWS + (count % MOST_ROWS).bit_count()
