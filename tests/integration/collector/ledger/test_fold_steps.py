"""A fold in steps: commits come between them, readers see whole users, and a crash counts once."""

from __future__ import annotations

import functools
import hashlib
import itertools
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.errors import NotStoredError
from collector.ledger import Receipt
from collector.ledger.sql import capacity as sql_capacity
from collector.ledger.sqlite import fold, key_index, unfolded, writer
from collector.ledger.sqlite.rows import MOST_ROWS, ReportColumns, append, insert_columns
from collector.ledger.sqlite.writer import SqliteLedger
from collector.reports.report import DAY_MILLIS, Report
from tests.support.collector.ledgers import NOON_MILLIS, SqlitePlace, batch, report

SLICE = 4
SMALL_STEPS = {
    "KEYS_PER_STEP": SLICE,
    "REPORTS_AT_ONCE": SLICE,
    "REPORTS_PER_STEP": SLICE,
    "SUMS_PER_STEP": 1,
    "PARTS_PER_REPORT": 1e9,
}


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    for name, most in SMALL_STEPS.items():
        monkeypatch.setattr(writer, name, most)


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


NAMES = ["alice", "bob", "eve", "\u00e4gir", "\U0001f600"]
"""In the order of their bytes."""


def store_for_all(ledger: SqliteLedger, *, names: Sequence[str] = NAMES) -> None:
    """Store two reports of each user on two servers, so many that a fold of them has steps."""
    many = enumerate((name, server) for name in names for server in ("s1", "s2"))
    store(ledger, *(known(number, name, server=server) for number, (name, server) in many))


GATHERING_STEPS = 3
"""Of a fold of these reports."""


def count_of_users(ledger: SqliteLedger) -> int:
    return int(ledger._db.execute("SELECT count(*) FROM user_total").fetchone()[0])


def test_each_step_adds_up_some_users_and_the_feed_has_all_after_the_last(place):
    with closing(place.open()) as ledger:
        store_for_all(ledger)
        steps: list[int] = []
        while ledger.fold_some():
            assert totals(place) == {}
            steps.append(count_of_users(ledger))
        assert steps == [0, 0, 0, 1, 2, 3, 4, 4, 4], "the ids are indexed before the last users"
        assert totals(place) == dict.fromkeys(NAMES, 6)
        assert ledger.fold_some() is False


def test_no_memory_is_kept_for_what_was_gathered(place, monkeypatch):
    for name in ("KEYS_PER_STEP", "REPORTS_PER_STEP", "SUMS_PER_STEP"):
        monkeypatch.setattr(writer, name, 1000)

    def pages() -> int:
        return int(ledger._db.execute("PRAGMA temp.page_count").fetchone()[0])

    with closing(place.open()) as ledger:
        before = pages()
        store(ledger, *(known(number, f"user{number}") for number in range(900)))
        most = before
        while ledger.fold_some():
            most = max(most, pages())
        assert most > before + 5
        assert pages() == before


def test_a_users_total_with_what_is_not_added_up_is_the_same_between_any_two_steps(place):
    """By it a report is refused that does not fit."""
    with closing(place.open()) as ledger:
        store_for_all(ledger)
        goes_on = True
        while goes_on:
            goes_on = ledger.fold_some()
            for name in NAMES:
                assert sql_capacity.total_of(ledger._database, name) == (6, 6)


@pytest.mark.parametrize("steps", range(10))
def test_a_crash_between_steps_leaves_a_fold_that_goes_on(place, steps):
    with closing(place.open()) as ledger:
        store_for_all(ledger)
        for _ in range(steps):
            ledger.fold_some()
        store(ledger, known(900, "bob"))
    with closing(SqliteLedger(place.path, is_at_once=True)) as ledger:
        store(ledger, known(901, "alice"))
        more = 1
        while ledger.fold_some():
            more += 1
            store(ledger, known(1000 + more, "eve"))
        ledger.fold()
        assert totals(place) == {
            **dict.fromkeys(NAMES, 6),
            "alice": 9,
            "bob": 9,
            "eve": 6 + 3 * (more - 1),
        }
        assert store(ledger, known(0), known(900), known(901)) == Receipt(0, 3, 2)


@pytest.mark.parametrize("steps", range(9))
def test_days_are_dropped_of_users_that_are_added_up_and_no_part_of_them_later(place, steps):
    with closing(place.open()) as ledger:
        store_for_all(ledger)
        for _ in range(steps):
            ledger.fold_some()
        day = NOON_MILLIS // DAY_MILLIS
        ledger.forget_days(before_day=day + 1, limit=1000)
        ledger.fold()
        assert totals(place) == dict.fromkeys(NAMES, 6)
        (kept,) = ledger._db.execute("SELECT count(*) FROM usage_day").fetchone()
        assert kept == (0 if steps > GATHERING_STEPS else 2 * len(NAMES))


@pytest.mark.parametrize(("parts_per_report", "steps"), [(0.0, 1), (1.5, 2), (1e9, 5)])
def test_a_fold_has_as_many_parts_as_cost_little_for_each_report(
    place, monkeypatch, parts_per_report, steps
):
    """Each part may write pages of all series again: ten here, of ten reports."""
    monkeypatch.setattr(writer, "PARTS_PER_REPORT", parts_per_report)
    monkeypatch.setattr(writer, "KEYS_PER_STEP", 100)
    monkeypatch.setattr(writer, "REPORTS_PER_STEP", 100)
    with closing(place.open()) as ledger:
        store_for_all(ledger)
        found = 0
        while ledger.fold_some():
            found += 1
        assert found == 1 + steps, "one gathers the reports"
        assert totals(place) == dict.fromkeys(NAMES, 6)


def test_ids_are_indexed_when_there_are_many_and_apart_from_sums(place):
    with closing(place.open()) as ledger:
        store(ledger, *(known(number) for number in range(SLICE - 1)))
        assert not ledger.needs_indexing
        store(ledger, known(SLICE - 1), report())
        assert ledger.needs_indexing
        ledger.index_some()
        assert not ledger._unfolded.ids
        assert totals(place) == {}
        store(ledger, known(100))
    with closing(SqliteLedger(place.path, is_at_once=True)) as ledger:
        assert ledger._unfolded.ids == 1, "no more are read again"
        assert store(ledger, *(known(number) for number in [*range(SLICE), 100])).duplicates == 5
        ledger.fold()
        assert totals(place) == {"alice": 3 * (SLICE + 2)}


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


@pytest.mark.parametrize("steps", range(7))
def test_a_commit_that_adds_up_at_once_includes_a_fold_under_way(place, steps):
    with closing(place.open()) as ledger:
        store(ledger, *(known(number) for number in range(2 * SLICE)))
        for _ in range(steps):
            ledger.fold_some()
        store(ledger, known(1000, "bob"), defers_sums=False)
        assert totals(place) == {"alice": 6 * SLICE, "bob": 3}
        assert store(ledger, known(0), known(1000)) == Receipt(0, 2, 1)


@pytest.mark.parametrize("steps", range(8))
@pytest.mark.parametrize(
    "fails", ["index", "gather", "ends_of_parts", "add", "note_position", "finish"]
)
def test_a_step_that_fails_is_tried_again(place, monkeypatch, steps, fails):
    def fail(*_, **__):
        raise sqlite3.OperationalError("no such luck")

    target = key_index if fails == "index" else fold
    with closing(place.open()) as ledger:
        store_for_all(ledger)
        for _ in range(steps):
            ledger.fold_some()
        with monkeypatch.context() as patch:
            patch.setattr(target, fails, fail)
            try:
                ledger.fold()
            except NotStoredError:
                assert totals(place) == {}
        store_for_all(ledger)
        ledger.fold()
        assert totals(place) == dict.fromkeys(NAMES, 6)


@pytest.mark.parametrize("fails", ["Unfolded", "SenderHours"])
def test_reports_that_are_stored_and_not_in_memory_count_once(place, monkeypatch, fails):
    def fail(*_, **__):
        raise MemoryError

    with closing(place.open()) as ledger:
        store_for_all(ledger)
        ledger.fold_some()
        with monkeypatch.context() as patch:
            patch.setattr(getattr(unfolded, fails), "add", fail)
            with pytest.raises(MemoryError):
                store(ledger, known(900, "bob"))
        assert store(ledger, known(900, "bob")) == Receipt(0, 1)
        ledger.fold()
        assert totals(place) == {**dict.fromkeys(NAMES, 6), "bob": 9}


@pytest.mark.parametrize("fails", ["Unfolded", "SenderHours"])
def test_reports_count_once_though_what_is_stored_cannot_be_read_again(place, monkeypatch, fails):
    def fail(*_, **__):
        raise MemoryError

    with closing(place.open()) as ledger:
        store_for_all(ledger)
        ledger.fold_some()
        with monkeypatch.context() as patch:
            patch.setattr(getattr(unfolded, fails), "add", fail)
            patch.setattr(key_index, "indexed_seq", fail)
            with pytest.raises(MemoryError):
                store(ledger, known(900, "bob"))
        ledger.fold_some()
        for _ in range(3):
            with suppress(NotStoredError):
                assert store(ledger, known(900, "bob")) == Receipt(0, 1)
        ledger.fold()
        assert totals(place) == {**dict.fromkeys(NAMES, 6), "bob": 9}
        (sent,) = ledger._db.execute("SELECT sum(raw_bytes) FROM sender_day").fetchone()
        assert sent == 6 * len(NAMES) + 3


@pytest.mark.parametrize("steps", range(12))
def test_what_fails_after_a_commit_counts_nothing_twice(place, monkeypatch, steps):
    left = steps

    def fail(*_, **__):
        nonlocal left
        left -= 1
        if left == -1:
            raise MemoryError

    with closing(place.open()) as ledger:
        monkeypatch.setattr(ledger._checkpoints, "note_commit", fail)
        for at, name in enumerate(NAMES):
            with suppress(MemoryError):
                store(ledger, known(at, name))
        for _ in range(2):
            with suppress(MemoryError):
                store(ledger, *(known(at, name) for at, name in enumerate(NAMES)))
            with suppress(MemoryError):
                ledger.fold()
        ledger.fold()
        assert left < 0
        assert totals(place) == dict.fromkeys(NAMES, 3)


@pytest.mark.parametrize(
    ("reports", "where", "fails"),
    [
        (2 * SLICE, unfolded.Folding, "note_added"),
        (2 * SLICE, SqliteLedger, "_note_indexed"),
        (SLICE, SqliteLedger, "_note_indexed"),
    ],
)
def test_a_part_that_is_stored_and_not_noted_is_not_added_up_again(
    place, monkeypatch, reports, where, fails
):
    names = list(itertools.islice(itertools.cycle(NAMES), reports))

    def fail(*_, **__):
        raise MemoryError

    with closing(place.open()) as ledger:
        store(ledger, *(known(at, name) for at, name in enumerate(names)))
        with monkeypatch.context() as patch:
            patch.setattr(where, fails, fail)
            with pytest.raises(MemoryError):
                ledger.fold()
        with suppress(NotStoredError):
            ledger.fold()
        ledger.fold()
        assert totals(place) == {name: 3 * each for name, each in Counter(names).items()}
        (sent,) = ledger._db.execute("SELECT sum(raw_bytes) FROM sender_day").fetchone()
        assert sent == 3 * reports


class FailsOnce:
    """A connection of which one statement fails, before or after it is carried out."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.left = 0
        """How many statements are left until the one that fails; it has failed with less."""
        self.is_after = False

    def __getattr__(self, name: str) -> Any:
        work = getattr(self.db, name)
        return functools.partial(self._do, work) if name.startswith("execute") else work

    def _do(self, work: Callable[..., Any], text: str, *values: object) -> Any:
        self.left -= 1
        if self.left == 0:
            if self.is_after and text != "COMMIT":
                work(text, *values)
            raise sqlite3.OperationalError("no such luck")
        return work(text, *values)


@pytest.mark.parametrize("is_after", [False, True])
def test_a_fold_adds_up_once_whichever_of_its_statements_fails(place, is_after):
    """Nor is any later commit left without a sync."""
    synced: list[int] = []

    def note_sync(database: Any, _: object) -> None:
        synced.extend(database.rows("PRAGMA synchronous")[0])

    with closing(place.open()) as ledger:
        ledger._db = db = FailsOnce(ledger._db)
        db.is_after, has_failed, rounds = is_after, True, 0
        while has_failed:
            rounds += 1
            store(ledger, *(known(10 * rounds + at, name) for at, name in enumerate(NAMES)))
            db.left = rounds
            with suppress(NotStoredError, sqlite3.OperationalError):
                ledger.fold()
            has_failed, db.left = db.left < 1, 0
            ledger.record(
                [batch(known(10 * rounds + 9, "bob"))],
                received_at_millis=NOON_MILLIS,
                defers_sums=True,
                alongside=note_sync,
            )
            ledger.fold()
            assert totals(place) == {name: 3 * rounds * (1 + (name == "bob")) for name in NAMES}
        (sent,) = ledger._db.execute("SELECT sum(raw_bytes) FROM sender_day").fetchone()
        assert sent == 3 * rounds * (len(NAMES) + 1)
        assert rounds > 20 * (len(NAMES) - 1) / 2, "each part has many statements"
    assert set(synced) == {2}


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
            patch.setattr(fold, "MOST_SENDERS", most)
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


@pytest.mark.parametrize("crashes", [False, True])
def test_a_large_fold_orders_the_changes_of_days_as_it_stores_them(place, monkeypatch, crashes):
    monkeypatch.setattr(writer, "SUMS_PER_STEP", 7)
    ledger = place.open()
    store_for_all(ledger)
    days = ((2, "s1"), (1, "s2"), (2, "s1"))  # two reports of one day and series
    store(
        ledger,
        *(
            known(100 + number, name, server=server, at=NOON_MILLIS - back * DAY_MILLIS)
            for number, (name, (back, server)) in enumerate((n, d) for n in NAMES for d in days)
        ),
    )
    while ledger._position is None:
        assert ledger.fold_some()
    if crashes:
        ledger.close()
        ledger = SqliteLedger(place.path, is_at_once=True)
    with closing(ledger):
        ledger.fold()
        query = "SELECT username, change_seq FROM usage_day JOIN series ON id = series_id ORDER BY "
        stored = ledger._db.execute(query + "day, series_id").fetchall()
        in_parts = sorted(stored, key=lambda row: NAMES.index(row[0]) // 2)
        last_seq = 5 * len(NAMES)
        assert [seq for _, seq in in_parts] == list(range(last_seq - len(stored) + 1, last_seq + 1))
        assert totals(place) == dict.fromkeys(NAMES, 3 * 5)


def test_days_of_a_fold_over_midnight_have_the_seqs_of_their_last_reports(place):
    with closing(place.open()) as ledger:
        store(ledger, *(known(number, server=f"s{number % 3}") for number in range(3)))
        ledger.record(
            [batch(*(known(9 + number, server=f"s{(1 - number) % 3}") for number in range(3)))],
            received_at_millis=NOON_MILLIS + DAY_MILLIS,
            defers_sums=True,
        )
        ledger.fold()
        rows = ledger._db.execute("SELECT change_seq FROM usage_day ORDER BY series_id").fetchall()
        assert rows == [(5,), (4,), (6,)]


@pytest.mark.parametrize("steps", range(GATHERING_STEPS + 1, GATHERING_STEPS + 6))
def test_no_two_days_have_one_seq_where_a_fold_did_not_order_them_when_it_began(
    place, monkeypatch, steps
):
    """As one that a former version began."""
    with closing(place.open()) as ledger, monkeypatch.context() as patch:
        patch.setattr(fold, "came_on_one_day", lambda *_: False)
        store_for_all(ledger, names=NAMES[::-1])
        for _ in range(steps):
            assert ledger.fold_some()
    with closing(SqliteLedger(place.path, is_at_once=True)) as ledger:
        ledger.fold()
        rows = ledger._db.execute("SELECT change_seq FROM usage_day ORDER BY 1").fetchall()
        assert rows == [(seq,) for seq in range(1, 2 * len(NAMES) + 1)]
        assert totals(place) == dict.fromkeys(NAMES, 6)


class Followers:
    """Readers of the feed and of days that are shown each change once, a few at a time."""

    def __init__(self, place: SqlitePlace) -> None:
        self.place = place
        self.users: dict[str, int] = {}
        self.days: dict[tuple[int, str, str], int] = {}
        self.user_seq = self.day_seq = 0

    def read(self) -> bool:
        """Read on; return whether there was a change."""
        with closing(self.place.reader()) as reader:
            page = reader.changes(after=self.user_seq, limit=2)
            days = reader.days_after(self.day_seq, limit=2)
        for user in page.changes:
            assert self.user_seq < user.change_seq <= page.head
            self.user_seq = user.change_seq
            self.users[user.username] = user.upload_bytes + user.download_bytes
        for day in days:
            assert self.day_seq < day.change_seq
            self.day_seq = day.change_seq
            self.days[day.day, day.username, day.server] = day.upload_bytes + day.download_bytes
        return bool(page.changes or days)

    def read_to_the_end(self) -> None:
        while self.read():
            pass


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
        st.integers(1, 8),  # steps of a fold
        st.just("index"),
        st.just("crash"),
        st.just("commit fails"),
    ),
    max_size=20,
)


@given(moves=moves)
@settings(max_examples=100)
def test_every_report_counts_once_through_steps_crashes_and_failures(moves):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name, most in SMALL_STEPS.items():
            patch.setattr(writer, name, most)
        place = SqlitePlace(path=Path(folder) / "ledger.sqlite3")
        first: dict[bytes, Report] = {}
        ledger, followers = place.open(), Followers(place)
        try:
            for move in moves:
                if move == "crash":
                    ledger.close()
                    ledger = SqliteLedger(place.path, is_at_once=True)
                elif move == "commit fails":
                    fail_to_store(ledger)
                elif move == "index":
                    ledger.index_some()
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
                followers.read()
            ledger.fold()
            followers.read_to_the_end()
            wanted: Counter[str] = Counter()
            for each in first.values():
                wanted[each.username] += each.upload_bytes + each.download_bytes
            assert totals(place) == followers.users == wanted
            assert sum(followers.days.values()) == wanted.total()
            assert store(ledger, *first.values()) == Receipt(0, len(first)) if first else True
        finally:
            ledger.close()


def test_what_is_gathered_is_the_same_however_many_reports_at_once(place):
    with closing(place.open()) as ledger:
        for each in range(3):
            ledger._db.execute(
                "INSERT INTO series (id, username, server, port, protocol) VALUES (?, ?, ?, 1, '')",
                (each, NAMES[each // 2], str(each)),
            )
        ledger._db.execute("INSERT INTO sqlite_sequence VALUES ('report', 0)")
        wanted: dict[tuple[int, int], list[int]] = {}
        for after, billed, change in (
            *((0, (None,), 7), (40, (None, 0, 7), -(10**7)), (70, (None,), -(10**7))),
            *((100, (None,), -1), (130, (None, 900), 1), (160, (None,), 7)),
        ):
            seqs = range(after + 1, after + 30)
            columns = ReportColumns(
                keys=[None for _ in seqs],
                series_ids=[seq % 3 for seq in seqs],
                upload_bytes=seqs,
                download_bytes=[2 * seq for seq in seqs],
                connections=[seq % 5 if after else 1 for seq in seqs],
                reported_at=[NOON_MILLIS + seq * change for seq in seqs],
                billed_bytes=[billed[seq % len(billed)] for seq in seqs],
                reporters=["r" if seq < 60 else "s" for seq in seqs],
            )
            ledger._db.execute("UPDATE sqlite_sequence SET seq = ?", (after,))
            append(ledger._db, columns, after_seq=after, received_at_millis=5)
            for _, series_id, up, down, connections, at, amount, _, seq in zip(
                *columns, seqs, strict=True
            ):
                row = wanted.setdefault((at // DAY_MILLIS, series_id), [0, 0, 0, 0, 0, 0, 0])
                more = (up, down, up + down if amount is None else amount, connections, 1)
                row[:5] = [sum(pair) for pair in zip(row, more, strict=False)]
                row[5:] = [max(at, row[5]), seq]
        assert len(wanted) > 6
        for step in (1, 7, 200):
            fold.begin(ledger._db)
            for after in range(0, 200, step):
                fold.gather(ledger._db, after=after, through=after + step)
            found = ledger._db.execute("SELECT * FROM temp.gathered").fetchall()
            assert {row[:2]: list(row[2:]) for row in found} == wanted
            assert fold.rows_left(ledger._db, None) == len(found) == len(wanted)


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    parts=st.integers(1, 15),
    sampled=st.sampled_from([1, 4, 1000]),
    done=st.integers(0, 12),
)
@settings(max_examples=60)
def test_parts_have_each_user_once(sizes, parts, sampled, done):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fold, "SAMPLED_ROWS", sampled)
        place = SqlitePlace(path=Path(folder) / "ledger.sqlite3")
        with closing(place.open()) as ledger:
            names = [f"user{number:02}" for number in range(len(sizes))]
            many = [
                (name, at) for name, size in zip(names, sizes, strict=True) for at in range(size)
            ]
            store(ledger, *(report(name, server=f"s{at}") for name, at in reversed(many)))
            fold.begin(ledger._db)
            fold.gather(ledger._db, after=0, through=len(many))
            after_user = names[done - 1] if 0 < done <= len(names) else None
            left = [(name, at) for name, at in many if name > (after_user or "")]
            ends = fold.ends_of_parts(
                ledger._db, parts=parts, rows=len(left), after_user=after_user
            )
            assert len(ends) < parts
            bounds = [after_user, *ends, None]
            rows = [
                fold.add(ledger._db, after_user=first, through_user=last)
                for first, last in itertools.pairwise(bounds)
            ]
            assert sum(rows) == len(left) == fold.rows_left(ledger._db, after_user)
            assert all(rows) or not left
            if sampled == 1000 and left:
                assert max(rows) <= len(left) / parts + max(sizes)
            found = ledger._db.execute("SELECT username, reports FROM user_total").fetchall()
            assert dict(found) == Counter(name for name, _ in left)


@pytest.mark.parametrize("count", [0, 1, 2, 3, MOST_ROWS - 1, MOST_ROWS, MOST_ROWS + 1, 2047])
def test_many_rows_are_inserted_in_their_order_by_few_statements(count):
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, c)")
        statements: list[str] = []
        db.set_trace_callback(statements.append)
        rows = [(number, str(number), "same") for number in range(count)]
        columns = [[row[place] for row in rows] for place in (0, 1)]
        insert_columns(db, "INSERT INTO t (a, b, c)", columns, same=["same"])
        db.set_trace_callback(None)
        assert db.execute("SELECT a, b, c FROM t ORDER BY id").fetchall() == rows
        inserts = [each for each in statements if each.startswith("INSERT")]
        assert len(inserts) == count // MOST_ROWS + (count % MOST_ROWS).bit_count()


def test_reports_that_do_not_get_their_seqs_are_not_stored(place):
    with closing(place.open()) as ledger:
        store(ledger, report())
        ledger._db.execute("UPDATE sqlite_sequence SET seq = 7")
        with pytest.raises(NotStoredError, match="has seq 8, not 2"):
            store(ledger, report())
        assert store(ledger, report()).accepted == 1, "numbering is read again"
