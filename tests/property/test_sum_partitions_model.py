"""Readers of the feed of a PostgreSQL ledger whose sums are added up in partitions.

Commits that take long, numbering by changing leaders, adding up that is under way, completed or
lost, collectors that disagree on the number of partitions, and readers: in any order. A reader that
has come to a number has been told of every report up to it, but of users with later ones, and what
it was told of a user is that user's reports up to the last one, and no more.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from contextlib import closing

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from collector.errors import NotStoredError
from collector.ledger import UserTotal
from collector.ledger.postgres import series as postgres_series
from collector.ledger.postgres.append import Group, new_group_id
from collector.ledger.postgres.link import SCHEMA
from collector.ledger.postgres.reader import PostgresReader
from collector.ledger.postgres.series import SeriesIds
from collector.ledger.postgres.sums import partitions, rounds
from collector.ledger.postgres.writer import PostgresLedger
from tests.support.collector.ledgers import NOON_MILLIS, batch, report
from tests.support.examples import examples

LOCK_SECONDS = 0.05
"""All is done by one thread: what waits for another transaction waits in vain."""
USERS = [f"user{n}" for n in range(6)]
users = st.lists(st.sampled_from(USERS), min_size=1, max_size=5)
parts = st.integers(0, 3)
_NUMBERED = """
    SELECT g.first_seq + r.position, s.username, r.upload_bytes
    FROM report_group AS g JOIN report AS r ON r.group_id = g.id
    JOIN series AS s ON s.id = r.series_id WHERE g.first_seq IS NOT NULL
"""
_EMPTY = """
    TRUNCATE report, report_group, series, usage_day, user_total, run, heard, sender_day, adder;
    UPDATE numbering SET seq = 0;
    DELETE FROM sum_partition;
    UPDATE lease SET token = '', expires_at = '2000-01-01'
"""


class Reader:
    """One that follows the feed by a number, as a bridge does."""

    def __init__(self) -> None:
        self.cursor = self.head = 0
        self.seen: dict[str, UserTotal] = {}


class Machine(RuleBasedStateMachine):
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.db = self.connect()
        self.db.execute(_EMPTY)
        self.ledgers = [
            PostgresLedger(self.url, partitions=count, lease_seconds=600) for count in (3, 4)
        ]
        self.reader = PostgresReader(self.url)
        self.readers = [Reader(), Reader()]
        self.stored: Counter[str] = Counter()
        self.numbers: dict[int, tuple[str, int]] = {}
        self.slow: list[tuple[psycopg.Connection, list[str]]] = []
        self.adding: dict[int, psycopg.Connection] = {}
        self.amount = 0

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.url, autocommit=True, options=f"-c search_path={SCHEMA}")

    def reports(self, names):
        """Make reports whose sums tell which of them are in it."""
        made = []
        for name in names:
            self.amount += 1
            made.append(report(name, up=self.amount, down=0))
        return made

    def teardown(self) -> None:
        try:
            self.end()
        finally:
            for db in (self.db, *self.adding.values(), *(db for db, _ in self.slow)):
                db.close()
            self.reader.close()
            for ledger in self.ledgers:
                ledger.close()

    # --- storing -----------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), names=users)
    def a_collector_stores(self, which, names):
        made = self.reports(names)
        self.ledgers[which].record([batch(*made)], received_at_millis=NOON_MILLIS, defers_sums=True)
        self.note(made)

    def note(self, made):
        for each in made:
            self.stored[each.username] += each.upload_bytes

    @precondition(lambda self: len(self.slow) < 2)
    @rule(names=users, count=st.integers(1, 4))
    def a_commit_takes_long(self, names, count):
        db, ids, made = self.connect(), SeriesIds(), self.reports(names)
        ids.make(db, ids.missing(made))
        epoch = postgres_series.epoch(db)
        db.execute("BEGIN")
        group = Group({}, partitions=count)
        group.take(batch(*made))
        group.store(db, new_group_id(), ids.get, epoch=epoch, received_at_millis=NOON_MILLIS)
        self.slow.append((db, made))

    @precondition(lambda self: self.slow)
    @rule(is_kept=st.booleans())
    def a_long_commit_ends(self, is_kept):
        db, made = self.slow.pop(0)
        db.execute("COMMIT" if is_kept else "ROLLBACK")
        db.close()
        if is_kept:
            self.note(made)

    # --- numbering ---------------------------------------------------------------------------

    @rule(which=st.integers(0, 1))
    def a_collector_polls(self, which):
        self.ledgers[which].lead(defers_sums=True)

    @rule()
    def the_lease_is_let_go(self):
        self.db.execute("UPDATE lease SET token = 'gone', expires_at = '2000-01-01'")
        for ledger in self.ledgers:
            ledger.lease.lose()

    # --- adding up ---------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), part=parts)
    def a_partition_is_added_up(self, which, part):
        with contextlib.suppress(NotStoredError):  # a user's row is locked by adding up elsewhere
            self.ledgers[which].add_up(part)

    @rule(part=parts, limit=st.integers(1, 3))
    def adding_up_begins(self, part, limit):
        if part not in self.adding:
            db = self.adding[part] = self.connect()
            db.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
            db.execute("BEGIN")
            try:
                partitions.add_up(db, part, waits=False, limit=limit)
            except psycopg.errors.LockNotAvailable:  # another number of partitions: a user's row
                self.adding.pop(part).close()

    @precondition(lambda self: self.adding)
    @rule(part=parts, is_kept=st.booleans())
    def adding_up_ends(self, part, is_kept):
        if part in self.adding:
            db = self.adding.pop(part)
            db.execute("COMMIT" if is_kept else "ROLLBACK")
            db.close()

    # --- reading -----------------------------------------------------------------------------

    @rule(which=st.integers(0, 1), limit=st.integers(1, 4))
    def a_page_is_read(self, which, limit):
        self.read(self.readers[which], limit)

    def read(self, reader: Reader, limit: int) -> bool:
        page = self.reader.changes(after=reader.cursor, limit=limit)
        self.check_numbers()
        assert page.head >= reader.head
        reader.head = page.head
        for each in page.changes:
            assert reader.cursor < each.change_seq <= page.head
            of_user = {
                seq: amount for seq, (name, amount) in self.numbers.items() if name == each.username
            }
            within = [seq for seq in of_user if seq <= page.head]
            assert each.change_seq == max(within)
            assert each.upload_bytes == sum(of_user[seq] for seq in within)
            assert each.reports == len(within)
            reader.cursor = each.change_seq
            reader.seen[each.username] = each
        last = {name: seq for seq, (name, _) in sorted(self.numbers.items())}
        for seq, (name, _) in self.numbers.items():
            if seq <= reader.cursor and last[name] <= reader.cursor:  # else it is yet to come
                assert reader.seen[name].change_seq >= seq, "a smaller number was missed"
        return bool(page.changes)

    def check_numbers(self) -> None:
        """A number is one report's for ever, and there is none missing between them."""
        found = {seq: (name, amount) for seq, name, amount in self.db.execute(_NUMBERED)}
        assert found.items() >= self.numbers.items()
        assert sorted(found) == list(range(1, len(found) + 1))
        self.numbers = found

    def end(self) -> None:
        """Once all is quiet, readers have been told of everything."""
        while self.slow:
            self.a_long_commit_ends(True)
        for part in list(self.adding):
            self.adding_up_ends(part, True)
        self.the_lease_is_let_go()
        self.ledgers[0].lead()
        for reader in self.readers:
            while self.read(reader, 3):
                pass
            assert Counter({n: it.upload_bytes for n, it in reader.seen.items()}) == self.stored
        assert self.reader.audit().problems == []


@pytest.fixture
def url(postgres, monkeypatch):
    monkeypatch.setattr(rounds, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(rounds, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr("collector.ledger.postgres.link.LOCK_SECONDS", LOCK_SECONDS)
    url = postgres.url(postgres.new_database())
    with closing(PostgresLedger(url)):
        return url


def test_a_reader_that_has_come_to_a_number_was_told_of_all_up_to_it(url):
    machine = type("Machine", (Machine,), {"url": url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(20),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        ),
    )
