"""What a ledger in PostgreSQL promises beyond the contract: several collectors, one of them leads."""

from __future__ import annotations

import math
import re
import secrets
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager

import psycopg
import pytest
from psycopg import errors as pg

from collector.errors import (
    DiskFullError,
    LedgerError,
    LedgerUnavailableError,
    NotStoredError,
)
from collector.ledger import Batch, Progress, Receipt
from collector.ledger.postgres import series as postgres_series
from collector.ledger.postgres.append import Group
from collector.ledger.postgres.lease import NotLeadingError
from collector.ledger.postgres.link import SCHEMA, Link, translate
from collector.ledger.postgres.reader import PostgresReader
from collector.ledger.postgres.schema import MIGRATIONS
from collector.ledger.postgres.sums import partitions
from collector.ledger.postgres.writer import PostgresLedger
from collector.runtime.postgres.connection import BoundedConnection
from tests.support.collector.ledgers import NOON_MILLIS, PostgresPlace, batch, report
from tests.support.engines.postgres_server import PASSWORD

DEADLINE_SECONDS = 120
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


@pytest.fixture
def reader(url, leader):
    with closing(PostgresReader(url)) as reader:
        yield reader


@pytest.fixture
def leader(url):
    with closing(PostgresLedger(url)) as ledger:
        yield ledger


@pytest.fixture
def other(url, leader):
    with closing(PostgresLedger(url)) as ledger:
        yield ledger


def store(ledger, *batches, defers_sums=True):
    return ledger.record(batches, received_at_millis=NOON_MILLIS, defers_sums=defers_sums)


def until(what, holds, seconds=DEADLINE_SECONDS):
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.01)
    return found


def has_lease_for(ledger, *, seconds):
    """Have a ledger extend its lease by so much, from now on."""
    ledger.lease.seconds, ledger.lease._until_seconds = seconds, 0.0
    ledger._as_leader(lambda _: None)


def execute(url, statement, parameters=None):
    with psycopg.connect(url, autocommit=True, options=f"-c search_path={SCHEMA}") as db:
        cursor = db.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else None


@contextmanager
def unfinished_commit(url, *reports):
    """Store reports in a transaction that is committed at the end of the context."""
    with closing(Link(url)) as link:
        link.ask(lambda db: db.execute("BEGIN"))
        group = Group({})
        group.take(batch(*reports))
        link.ask(
            lambda db: group.store(
                db, 1, lambda _: 1, epoch=postgres_series.epoch(db), received_at_millis=NOON_MILLIS
            )
        )
        yield
        link.ask(lambda db: db.execute("COMMIT"))


class TestSeveralCollectors:
    def test_what_one_stored_the_leader_adds_up_and_all_read(self, leader, other, reader):
        assert leader.leads
        assert not other.leads
        assert store(other, batch(report(key="a")), defers_sums=False) == [Receipt(1, 0)]
        assert reader.changes(after=0, limit=9).changes == []
        leader.lead()
        assert [each.reports for each in reader.changes(after=0, limit=9).changes] == [1]

    def test_an_id_that_one_took_is_known_to_the_other_before_it_is_added_up(self, leader, other):
        store(leader, batch(report(key="a")))
        assert store(other, batch(report(key="a"), report(key="a", up=7))) == [Receipt(0, 2, 1)]

    def test_an_id_that_two_take_at_once_counts_once_and_each_is_told_the_truth(self, url, reader):
        """The second one waits for the first one's commit, whatever its order of ids."""
        reports = [report(f"user{n % 7}", key=f"key{n}") for n in range(200)]
        ledgers = [PostgresLedger(url) for _ in range(4)]
        gate = threading.Barrier(4)
        receipts = []

        def take(ledger, number):
            mine = reports if number % 2 else reports[::-1]
            gate.wait()
            for start in range(0, 200, 50):
                receipts.extend(store(ledger, batch(*mine[start : start + 50])))

        threads = [
            threading.Thread(target=take, args=(ledger, number))
            for number, ledger in enumerate(ledgers)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join(DEADLINE_SECONDS)
        for each in ledgers:
            each.close()
        assert sum(each.accepted for each in receipts) == 200
        assert sum(each.duplicates for each in receipts) == 600
        assert sum(each.conflicts for each in receipts) == 0
        assert execute(url, DEADLOCKS) == [(0,)]

    def test_a_commit_that_lost_a_race_is_tried_again_with_what_is_known_by_then(
        self, url, leader, other, monkeypatch
    ):
        """Between the look for known ids and the commit, another collector stores one of them."""
        stored = Group.store
        is_first = [True]

        def store_late(self, *args, **kwargs):
            if is_first.pop() if is_first else False:
                store(leader, batch(report(key="b")))
            return stored(self, *args, **kwargs)

        monkeypatch.setattr(Group, "store", store_late)
        receipts = store(other, batch(report(key="a"), report(key="b", up=9)), batch(report("x")))
        assert receipts == [Receipt(1, 1, 1), Receipt(1, 0)]
        leader.lead()
        with closing(PostgresReader(url)) as reader:
            assert [row.seq for row in reader.reports_after(0, limit=9)] == [1, 2, 3]
            assert reader.audit().problems == []


class TestStatements:
    """What storing costs where nothing special happens."""

    @pytest.fixture
    def statements(self, monkeypatch):
        noted = []
        execute = BoundedConnection.execute

        def note(self, query, *args, **kwargs):
            noted.append(" ".join(query.split()[:2]))
            return execute(self, query, *args, **kwargs)

        monkeypatch.setattr(BoundedConnection, "execute", note)
        return noted

    def test_new_reports_take_one_and_known_ones_are_looked_up(self, leader, statements):
        store(leader, batch(report("a", key="1"), report("b", key="2")))
        statements.clear()
        assert store(leader, batch(report("a", key="3")), batch(report("b", key="4"))) == [
            Receipt(1, 0),
            Receipt(1, 0),
        ]
        assert statements == ["WITH kept"]
        statements.clear()
        assert store(leader, batch(report("a", key="3"), report("a", key="5"))) == [Receipt(1, 1)]
        look = "SELECT report_key,"
        assert statements == ["WITH kept", look, "WITH kept"]
        statements.clear()
        for key in "67":  # the first one expects more that are known
            assert store(leader, batch(report("a", key=key))) == [Receipt(1, 0)]
        assert statements == [look, "WITH kept", "WITH kept"]

    def test_the_scopes_of_senders_are_stored_as_they_are(self, url, leader):
        scopes = ['"', "\\", '\\"', "{,}", "NULL", "", " a ", "юзер", "it's"]
        batches = [Batch(scope, [report(f"{n}")]) for n, scope in enumerate(scopes)]
        store(leader, *batches)
        found = execute(
            url,
            "SELECT s.username, r.reporter FROM report AS r JOIN series AS s ON s.id = r.series_id",
        )
        assert {int(name): scope for name, scope in found} == dict(enumerate(scopes))

    def test_a_look_of_one_that_follows_takes_one_and_no_transaction(
        self, leader, other, statements
    ):
        store(leader, batch(report("a", key="1")))
        other.lead()
        statements.clear()
        other.lead()
        assert not other.leads
        assert statements == ["SELECT p.part,"]

    def test_no_table_is_read_whole_though_plans_are_made_while_it_is_empty(self, nodes, leader):
        """The plan of a statement that runs often is kept until the server's statistics change."""
        for number in range(30):
            reports = (report(f"user{number}", key=f"{number}-{each}") for each in range(10))
            store(leader, batch(*reports))
            leader._writer._capacity_until_seconds = math.inf  # all users are read for that
            leader.lead(defers_sums=True, is_awaited=True)
            leader.add_up(0)
        leader.close()  # then the server counts what its sessions did
        counted = "SELECT relname, n_tup_ins, seq_tup_read FROM pg_stat_user_tables"

        def counts():
            stored, read = Counter(), Counter()
            for url in nodes:
                for name, rows, rows_read in execute(url, counted):
                    table = re.sub("_[0-9]+$", "", name)  # of a part of a table
                    stored[table] += rows
                    read[table] += rows_read
            return stored, read

        until("the server has counted", lambda: counts()[0]["report"] == 300)
        _, read = counts()
        assert {read[name] for name in ("report", "report_group", "series", "user_total")} == {0}

    def test_an_id_whose_commit_is_under_way_is_waited_for(self, url, nodes, leader, other):
        receipts = []
        mine = batch(report(key="new"), report(key="a", up=9))
        with unfinished_commit(url, report(key="a")):
            thread = threading.Thread(target=lambda: receipts.extend(store(other, mine)))
            thread.start()
            until("it waits", lambda: is_waiting(nodes, "INSERT INTO%report"))
        thread.join(DEADLINE_SECONDS)
        assert receipts == [Receipt(1, 1, 1)]
        leader.lead()
        with closing(PostgresReader(url)) as reader:
            assert reader.audit().problems == []


def poll(ledger):
    """Poll as a running collector does, and add up what is to be added up here then."""
    ledger.lead(defers_sums=True, is_awaited=True)
    for part in ledger.behind:
        while ledger.add_up(part):
            pass


class TestPartitions:
    """Sums of users in parts, each added up by another collector, or by several."""

    USERS = tuple(f"user{n}" for n in range(40))

    @pytest.fixture
    def collectors(self, url):
        ledgers = [PostgresLedger(url, partitions=4) for _ in range(2)]
        yield ledgers
        for ledger in ledgers:
            ledger.close()

    def shared_out(self, collectors):
        """Have both know of each other and of all partitions; store 120 reports."""
        for _ in range(3):
            store(collectors[1], batch(*(report(name) for name in self.USERS)))
            for ledger in (*collectors, *collectors):
                poll(ledger)

        def shares():
            for ledger in collectors:
                poll(ledger)
            return [
                sorted(
                    ledger._keeper.ask(
                        lambda db, it=ledger: it._adders._members.share(db, range(4))
                    )
                )
                for ledger in collectors
            ]

        until("each has its half", lambda: sorted(shares()) == [[0, 2], [1, 3]])

    def test_each_collector_adds_up_its_half(self, url, collectors):
        self.shared_out(collectors)
        store(collectors[1], batch(*(report(name) for name in self.USERS)))
        for ledger in collectors:
            ledger.lead(defers_sums=True, is_awaited=True)
        halves = [list(ledger.behind) for ledger in collectors]
        assert sorted(map(len, halves)) == [2, 2]
        assert sorted(halves[0] + halves[1]) == [0, 1, 2, 3]
        with closing(PostgresReader(url)) as reader:
            assert reader.changes(after=120, limit=99).changes == []
            for part in halves[0]:
                collectors[0].add_up(part)
            page = reader.changes(after=120, limit=99)
            assert page.head < 160
            for part in halves[1]:
                collectors[1].add_up(part)
            page = reader.changes(after=120, limit=99)
            assert page.head == 160
            assert sorted(each.username for each in page.changes) == sorted(self.USERS)
            assert {each.reports for each in page.changes} == {4}
            assert reader.audit().problems == []

    def test_the_partitions_of_one_that_is_killed_are_taken_over(self, url, collectors):
        first, second = collectors
        self.shared_out(collectors)
        store(second, batch(*(report(name) for name in self.USERS)))
        second._drop()  # as by kill -9
        with closing(PostgresReader(url)) as reader:
            until(
                "all is added up",
                lambda: (poll(first), reader.changes(after=0, limit=1))[1].head == 160,
            )
            assert reader.audit().problems == []

    def test_numbering_does_not_wait_for_adding_up(self, url, leader):
        store(leader, batch(report()), defers_sums=False)
        store(leader, batch(report()))
        leader._number()
        with closing(Link(url)) as link:
            link.ask(lambda db: db.execute("BEGIN"))
            assert link.ask(lambda db: partitions.add_up(db, 0, waits=False)) == 1
            store(leader, batch(report()))
            assert leader._number() == 1
            link.ask(lambda db: db.execute("COMMIT"))
        leader.lead()
        with closing(PostgresReader(url)) as reader:
            assert reader.audit().problems == []
            assert reader.changes(after=0, limit=9).head == 3

    def test_several_that_add_up_the_same_count_each_report_once(self, url, collectors):
        self.shared_out(collectors)
        is_over = threading.Event()
        failures = []

        def add_up(ledger, part):
            try:
                while not is_over.is_set():
                    ledger.add_up(part)
            except NotStoredError as error:
                failures.append(error)

        threads = [
            threading.Thread(target=add_up, args=(ledger, part))
            for ledger in collectors
            for part in range(4)
        ]
        for each in threads:
            each.start()
        with closing(PostgresReader(url)) as reader:
            for turn in range(20):
                store(collectors[turn % 2], batch(*(report(name) for name in self.USERS)))
                collectors[0].lead(defers_sums=True, is_awaited=True)
            until(
                "all is added up",
                lambda: (
                    collectors[0].lead(defers_sums=True, is_awaited=True),
                    reader.changes(after=0, limit=1).head == 23 * 40,
                )[1],
            )
            is_over.set()
            for each in threads:
                each.join(DEADLINE_SECONDS)
            assert failures == []
            assert {it.reports for it in reader.changes(after=0, limit=99).changes} == {23}
            assert reader.audit().problems == []

    def test_another_number_of_partitions_is_taken_up_beside_running_collectors(
        self, url, collectors
    ):
        self.shared_out(collectors)
        with closing(PostgresLedger(url, partitions=7)) as third:
            for turn in range(3):
                store(third, batch(*(report(name) for name in self.USERS)))
                store(collectors[turn % 2], batch(*(report(name) for name in self.USERS)))
            collectors[0].fold()
            with closing(PostgresReader(url)) as reader:
                page = reader.changes(after=120, limit=99)
                assert (page.head, len(page.changes)) == (360, 40)
                assert {each.reports for each in page.changes} == {9}
                assert reader.audit().problems == []
        assert len(execute(url, "SELECT part FROM sum_partition")) == 7


class TestTheFeed:
    def test_a_commit_that_took_long_comes_behind_what_was_read_meanwhile(
        self, url, leader, reader
    ):
        store(leader, batch(report("first")), defers_sums=False)
        with unfinished_commit(url, report("first", up=100, key="slow")):
            store(leader, batch(report("second")), defers_sums=False)
            page = reader.changes(after=0, limit=9)
            assert [each.username for each in page.changes] == ["first", "second"]
            assert page.head == 2
        leader.lead()
        (late,) = reader.changes(after=page.head, limit=9).changes
        assert (late.username, late.upload_bytes, late.change_seq) == ("first", 101, 3)
        assert [row.seq for row in reader.reports_after(0, limit=9)] == [1, 2, 3]

    def test_a_reader_that_follows_misses_nothing_of_many_writers_however_slow_their_commits(
        self, url, leader, reader, monkeypatch
    ):
        """Readers that keep the last number they saw end with the sums there are."""
        stored = Group.store

        def store_slowly(self, db, *args, **kwargs):
            stored(self, db, *args, **kwargs)
            time.sleep(0.03 * (hash(threading.current_thread().name) % 4) / 3)

        monkeypatch.setattr(Group, "store", store_slowly)
        expected: Counter[str] = Counter()
        guard = threading.Lock()
        is_over = threading.Event()

        def write(number):
            with closing(PostgresLedger(url)) as ledger:
                for turn in range(25):
                    name = f"user{(number + turn) % 5}"
                    store(ledger, batch(report(name, up=turn, down=0), report(f"own{number}")))
                    with guard:
                        expected[name] += turn
                        expected[f"own{number}"] += 1

        seen: dict[str, int] = {}
        heads: list[int] = []

        def follow():
            cursor = 0
            while True:
                was_over = is_over.is_set()
                page = reader.changes(after=cursor, limit=3)
                heads.append(page.head)
                for each in page.changes:
                    assert each.change_seq > cursor
                    seen[each.username] = each.upload_bytes
                    cursor = each.change_seq
                if was_over and not page.changes:
                    return

        writers = [threading.Thread(target=write, args=(n,), name=f"w{n}") for n in range(6)]
        follower = threading.Thread(target=follow)
        for each in (*writers, follower):
            each.start()
        while any(each.is_alive() for each in writers):
            leader.lead()
            time.sleep(0.002)
        leader.lead()
        is_over.set()
        follower.join(DEADLINE_SECONDS)
        assert seen == dict(expected)
        assert heads == sorted(heads)
        seqs = [row.seq for row in reader.reports_after(0, limit=10_000)]
        assert seqs == list(range(1, 301))
        assert reader.audit().problems == []


class TestTheLease:
    def test_it_goes_on_at_once_when_the_leader_ends_in_good_order(self, url):
        first, second = PostgresLedger(url), PostgresLedger(url)
        assert (first.leads, second.leads) == (True, False)
        first.close()
        second.lead()
        assert second.leads
        second.close()

    def test_it_goes_on_by_itself_when_the_leader_is_gone(self, url):
        first, second = PostgresLedger(url), PostgresLedger(url)
        started_at = time.monotonic()
        has_lease_for(first, seconds=1)
        first._drop()  # as by kill -9
        until("another leader", lambda: (second.lead(), second.leads)[1])
        assert time.monotonic() - started_at > 0.9
        second.close()

    def test_it_is_kept_for_as_long_as_the_leader_looks(self, url, monkeypatch):
        monkeypatch.setattr("collector.ledger.postgres.lease.RENEW_SECONDS", 0.1)
        first, second = PostgresLedger(url, lease_seconds=4), PostgresLedger(url, lease_seconds=4)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            first.lead()
            second.lead()
            time.sleep(0.1)
            assert (first.leads, second.leads) == (True, False)
        first.close()
        second.close()

    def test_a_leader_that_was_frozen_writes_nothing_as_leader_any_more(self, url):
        frozen, second = PostgresLedger(url), PostgresLedger(url, lease_seconds=9)
        has_lease_for(frozen, seconds=0.5)
        assert frozen.note_progress(Progress("raw", 0, 1, 1), at_millis=1)
        until("another leader", lambda: (second.lead(), second.leads)[1])
        frozen.lease._until_seconds = time.monotonic() + 60  # it has not noticed
        assert frozen.leads
        store(frozen, batch(report()))  # to append needs no lead
        with pytest.raises(NotLeadingError):
            frozen.fold()
        assert not frozen.leads
        frozen.lease._until_seconds = time.monotonic() + 60
        assert not frozen.note_progress(Progress("raw", 1, 2, 1), at_millis=2)
        frozen.note_export_problem("raw", "a problem of yesterday")
        with closing(PostgresReader(url)) as reader:
            state = reader.export_state("raw")
            assert (state.seq, state.problem) == (1, None)
            assert reader.changes(after=0, limit=9).head == 0
            second.lead()
            assert reader.changes(after=0, limit=9).head == 1
        frozen.close()
        second.close()

    def test_a_leader_that_freezes_in_a_commit_holds_it_up_for_seconds_and_loses_it(
        self, url, monkeypatch
    ):
        monkeypatch.setattr("collector.ledger.postgres.link.FROZEN_SECONDS", 1.0)
        monkeypatch.setattr("collector.ledger.postgres.link.LOCK_SECONDS", 0.5)
        frozen, second = PostgresLedger(url), PostgresLedger(url, lease_seconds=9)
        store(frozen, batch(report()))
        has_lease_for(frozen, seconds=0.3)
        began_at = time.monotonic()
        taken_after: list[float] = []

        def freeze(db):
            def take_over():
                try:
                    second.lead()
                except LedgerUnavailableError:
                    return False
                return second.leads

            until("another leader", take_over)
            taken_after.append(time.monotonic() - began_at)

        with pytest.raises(NotStoredError):
            frozen._as_leader(freeze)
        assert taken_after[0] < 25  # a transaction under way lasts for 40 s at most
        frozen.lead()
        assert not frozen.leads
        frozen.close()
        second.close()

    def test_a_clock_of_the_database_that_was_set_back_keeps_nobody_from_leading(self, url):
        first, second = PostgresLedger(url, lease_seconds=9), PostgresLedger(url, lease_seconds=0.2)
        execute(url, "UPDATE lease SET expires_at = statement_timestamp() + interval '1 day'")
        # Whose lease is over before the answer is here, on a slow engine, has led all the same.
        until("another leader", lambda: (second.lead(), second.lease.token)[1])
        with pytest.raises(NotLeadingError):
            first.fold()
        first.close()
        second.close()

    def test_a_cleanup_may_come_to_any_collector(self, leader, other):
        store(leader, batch(report()), defers_sums=False)
        old = {"before_millis": NOON_MILLIS + 1, "limit": 9, "keeps_unexported": False}
        assert other.forget_reports(**old) == 1
        assert other.forget_days(before_day=99_999, limit=9) == 1


class TestRuns:
    def runs(self, reader):
        return reader.changes(after=0, limit=1).runs

    def test_each_time_of_leading_that_stored_something_is_one(self, url, reader, leader, other):
        store(leader, batch(report()), defers_sums=False)
        leader.lead()
        store(other, batch(report()), defers_sums=False)
        leader.lead()
        assert [each.after_seq for each in self.runs(reader)] == [0]
        leader.close()
        other.lead()
        store(other, batch(report()), defers_sums=False)
        assert [each.after_seq for each in self.runs(reader)] == [0, 2]

    def test_a_database_that_was_restored_beneath_its_collectors_goes_on_as_another_run(
        self, postgres, database, url
    ):
        """They run on all the time and find another, older database under the same name."""
        with (
            closing(PostgresLedger(url, lease_seconds=1)) as ledger,
            closing(PostgresReader(url)) as reader,
        ):
            store(ledger, batch(report("a", key="1"), report("b")), defers_sums=False)
            until("added up", lambda: added_up(ledger, reader, 2))
            until("nobody but us", copying(postgres, database, f"{database}_copy"))
            until("connected again", lambda: looks(ledger))
            store(ledger, batch(report("c", server="made-after-the-copy")), defers_sums=False)
            before = until("added up", lambda: added_up(ledger, reader, 3))
            assert len(before.runs) == 2
            until("restored", swapping(postgres, database, f"{database}_copy"))
            until("connected again", lambda: looks(ledger))
            receipts = store(
                ledger,
                batch(report("a", key="1"), report("d"), report("c", server="made-after-the-copy")),
                defers_sums=False,
            )
            assert receipts == [Receipt(2, 1)]
            after = until("read again", lambda: added_up(ledger, reader, 4))
            assert [each.username for each in after.changes] == ["a", "b", "d", "c"]
            assert after.runs[0] == before.runs[0]
            assert after.runs[-1].after_seq == 2
            assert after.runs[-1] not in before.runs
            assert reader.audit().problems == []

    def test_tables_that_were_restored_within_their_database_are_noticed_without_a_broken_line(
        self, url, leader, reader
    ):
        store(leader, batch(report("a", key="1")), defers_sums=False)
        tables = ("numbering", "sum_partition", "run", "report_group", "report", "series")
        tables = (*tables, "usage_day", "user_total")
        for table in tables:
            execute(url, f"CREATE TABLE public.{table} AS SELECT * FROM {table}")
        store(leader, batch(report("b", key="2")), defers_sums=False)
        before = reader.changes(after=0, limit=9)
        for table in tables:
            execute(url, f"DELETE FROM {table}")
            execute(url, f"INSERT INTO {table} SELECT * FROM public.{table}")
        leader.lead()
        receipts = store(leader, batch(report("b", key="2"), report("c")), defers_sums=False)
        assert receipts == [Receipt(2, 0)]
        after = reader.changes(after=0, limit=9)
        assert [each.username for each in after.changes] == ["a", "b", "c"]
        assert [each.after_seq for each in after.runs] == [0, 1]
        assert len({each.token for each in (*before.runs, *after.runs)}) == 2
        assert reader.audit().problems == []


def added_up(ledger, reader, seq):
    """Return what is read once sums go up to a seq: the lease may have to be taken again for it."""
    page = changes(reader) if looks(ledger) else None
    return page if page and page.head == seq else None


def changes(reader):
    try:
        return reader.changes(after=0, limit=9)
    except LedgerUnavailableError:
        return None


def looks(ledger):
    try:
        ledger.lead()
        ledger._capacity_until_seconds = 0.0
        ledger.record([], received_at_millis=NOON_MILLIS)
    except NotStoredError:
        return False
    return ledger.leads


def copying(postgres, database, name):
    return in_postgres(postgres, database, f"CREATE DATABASE {name} TEMPLATE {database}")


def swapping(postgres, database, name):
    return in_postgres(
        postgres,
        database,
        f"ALTER DATABASE {database} RENAME TO {database}_lost",
        f"ALTER DATABASE {name} RENAME TO {database}",
    )


def in_postgres(postgres, database, *statements):
    """Return what does something to a database, on each node, once nobody is connected to it."""
    left = [(url, each) for url in postgres.nodes("postgres") for each in statements]

    def attempt():
        while left:
            url, statement = left[0]
            with psycopg.connect(url, autocommit=True) as db:
                db.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                    (database,),
                )
                try:
                    db.execute(statement)
                except psycopg.OperationalError:  # somebody was faster
                    return False
            del left[0]
        return True

    return attempt


class TestFaults:
    def test_a_server_that_is_gone_is_told_from_a_report_at_fault(
        self, proxy, postgres, database, monkeypatch
    ):
        monkeypatch.setattr("collector.ledger.postgres.recording.AGAIN_SECONDS", 0.3)
        monkeypatch.setattr("collector.ledger.postgres.reader.AGAIN_SECONDS", 0.3)
        through = postgres.url(database, port=proxy.port)
        with closing(PostgresLedger(through)) as ledger, closing(PostgresReader(through)) as reader:
            store(ledger, batch(report(key="a")), defers_sums=False)
            with pytest.raises(NotStoredError) as raised:
                store(ledger, batch(report("broken \ud800")))
            assert not isinstance(raised.value, LedgerUnavailableError)
            proxy.close()
            for _ in range(2):
                with pytest.raises(LedgerUnavailableError, match="cannot be used now"):
                    store(ledger, batch(report(key="b")))
            with pytest.raises(LedgerUnavailableError):
                ledger.lead()
            assert not ledger.leads
            with pytest.raises(LedgerUnavailableError):
                reader.changes(after=0, limit=1)

    @pytest.mark.parametrize("key", ["b", None], ids=["an id", "no id"])
    def test_a_server_that_does_not_answer_is_given_up_in_time_and_found_again(
        self, proxy, postgres, database, monkeypatch, key
    ):
        """What the network held back may be stored late: with an id it counts once all the same."""
        monkeypatch.setattr("collector.ledger.postgres.link.ANSWER_SECONDS", 2.0)
        monkeypatch.setattr("collector.ledger.postgres.recording.AGAIN_SECONDS", 0.3)
        url = postgres.url(database)
        with closing(PostgresLedger(postgres.url(database, port=proxy.port))) as ledger:
            store(ledger, batch(report(key="a")))
            proxy.freeze()
            with pytest.raises(LedgerUnavailableError, match=r"not answered for 2 s"):
                store(ledger, batch(report(key=key)))
            proxy.thaw()
            (receipt,) = store(ledger, batch(report(key=key)))
            assert receipt.accepted + receipt.duplicates == 1
            assert key or receipt.accepted
            assert execute(url, "SELECT count(*) FROM report") == [(2,)]

    @pytest.mark.parametrize(
        ("keys", "last_sent"),
        [("bc", b"report_group"), ((None, None), b"COMMIT")],
        ids=["ids", "no ids"],
    )
    def test_a_commit_whose_answer_was_lost_is_looked_for_on_a_new_connection(
        self, proxy, postgres, database, keys, last_sent
    ):
        """With ids it is one statement, which nothing follows."""
        wanted = batch(*(report(key=key) for key in keys))
        with (
            closing(PostgresLedger(postgres.url(database))) as leader,
            closing(PostgresLedger(postgres.url(database, port=proxy.port))) as ledger,
            closing(PostgresReader(postgres.url(database))) as reader,
        ):
            store(ledger, batch(report(key="a")))
            proxy.cut_after = last_sent
            assert store(ledger, wanted) == [Receipt(2, 0)]
            assert proxy.cuts == 1
            again = Receipt(0, 2) if keys == "bc" else Receipt(2, 0)
            assert store(ledger, wanted) == [again]
            leader.lead()
            assert reader.audit().reports == 3 + again.accepted

    def test_a_fold_whose_answer_was_lost_adds_nothing_twice(self, proxy, postgres, database):
        with (
            closing(PostgresLedger(postgres.url(database, port=proxy.port))) as leader,
            closing(PostgresReader(postgres.url(database))) as reader,
        ):
            store(leader, batch(report(), report("b")))
            proxy.cut_after = b"COMMIT"
            with pytest.raises(LedgerUnavailableError):
                leader.fold()
            assert proxy.cuts == 1
            until("leading again", lambda: (leader.lead(), leader.leads)[1])
            store(leader, batch(report()), defers_sums=False)
            audit = reader.audit()
            assert (audit.reports, audit.problems) == (3, [])
            runs = reader.changes(after=0, limit=9).runs
            assert len({each.token for each in runs}) == 2

    @pytest.mark.parametrize(
        ("code", "kind"),
        [("53100", DiskFullError), ("57P03", LedgerUnavailableError), ("25006", LedgerUnavailableError),
         ("53300", LedgerUnavailableError), ("57014", LedgerUnavailableError), ("23514", NotStoredError)],
    )  # fmt: skip
    def test_what_the_server_says_tells_a_sender_what_to_do(self, leader, code, kind):
        with pytest.raises(NotStoredError) as raised:
            leader._writer.link.run(
                lambda db: db.execute(
                    f"DO $$ BEGIN RAISE 'so it is' USING ERRCODE = '{code}'; END $$"
                )
            )
        assert type(raised.value) is kind
        assert "so it is" in str(raised.value)
        assert store(leader, batch(report(key="a"))) == [Receipt(1, 0)]

    def test_a_transaction_that_met_another_is_begun_anew_and_not_for_ever(self, leader):
        for kind in (pg.SerializationFailure, pg.DeadlockDetected):
            failures = [kind("40001")] * 3

            def work(db, failures=failures):
                if failures:
                    raise failures.pop()
                return db.execute("SELECT 7").fetchone()

            assert leader._writer.link.run(work) == (7,)
        with pytest.raises(NotStoredError):
            leader._writer.link.run(lambda _: fail(pg.SerializationFailure("40001")))

    def test_neither_an_error_nor_a_name_shows_the_password(self, postgres):
        url = postgres.url("no_such_database")
        with pytest.raises(LedgerError) as raised:
            PostgresLedger(url)
        assert "no_such_database" in str(raised.value)
        wrong = postgres.url("no_such_database", login="owner:hunter2")
        with pytest.raises(LedgerError, match="password authentication failed") as denied:
            PostgresLedger(wrong)
        for text in (str(raised.value), str(denied.value), translate(raised.value, "x").args[0]):
            assert PASSWORD not in text
            assert "hunter2" not in text


def fail(error):
    raise error


class TestTables:
    def test_collectors_that_start_at_once_make_them_together(self, url):
        problems, opened = [], []
        gate = threading.Barrier(5)

        def start():
            gate.wait()
            try:
                opened.append(PostgresLedger(url))
            except LedgerError as error:
                problems.append(error)

        threads = [threading.Thread(target=start) for _ in range(5)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(DEADLINE_SECONDS)
        assert problems == []
        assert sum(each.leads for each in opened) == 1
        assert len(execute(url, "SELECT value FROM meta WHERE key = 'ledger_id'")) == 1
        for each in opened:
            each.close()

    def test_a_ledger_of_a_newer_version_is_refused(self, url):
        PostgresPlace(url=url).open().close()
        execute(url, "UPDATE meta SET value = '99' WHERE key = 'version'")
        with pytest.raises(LedgerError, match="newer version"):
            PostgresLedger(url)

    def test_a_user_who_may_not_make_tables_is_told_what_it_needs(self, postgres, database):
        guest = f"guest_{secrets.token_hex(4)}"
        execute(postgres.url(database), f"CREATE ROLE {guest} LOGIN PASSWORD '{PASSWORD}'")
        url = postgres.url(database, login=f"{guest}:{PASSWORD}")
        with pytest.raises(LedgerError, match="must own the database or a schema named traffic"):
            PostgresLedger(url)
        execute(postgres.url(database), f"CREATE SCHEMA traffic AUTHORIZATION {guest}")
        PostgresLedger(url).close()

    def test_sums_that_do_not_agree_are_found(self, url, leader, reader):
        store(leader, batch(report(), report("b")), defers_sums=False)
        assert reader.audit().problems == []
        for statement, text in (
            (
                "UPDATE user_total SET upload_bytes = upload_bytes + 1 WHERE username = 'b'",
                "users sum",
            ),
            ("DELETE FROM report WHERE position = 0", "reports too many or too few"),
            ("DELETE FROM series WHERE username = 'b'", "without a series"),
        ):
            execute(url, statement)
            assert any(text in each for each in reader.audit().problems)


class TestDroppedSeries:
    """Another collector remembers the ids of series."""

    @pytest.fixture
    def idle(self, leader, other, reader):
        store(leader, batch(report(server="gone", key="first")))
        store(other, batch(report(server="gone", up=10)))
        leader.lead()
        leader.forget_reports(before_millis=NOON_MILLIS + 1, limit=10, keeps_unexported=False)
        leader.forget_days(before_day=NOON_MILLIS, limit=10)
        found = reader.idle_series(kept_per_user=0, limit=10)
        assert len(found) == 1
        return found

    def uploads(self, reader):
        return {it.server: it.upload_bytes for it in reader.servers_of(None, since_day=None)}

    def test_who_remembers_one_that_was_dropped_makes_it_anew(self, leader, other, reader, idle):
        assert leader.forget_series(idle) == 1
        assert store(other, batch(report(server="gone", up=100))) == [Receipt(1, 0)]
        leader.lead()
        assert self.uploads(reader) == {"other": 11, "gone": 100}
        assert reader.audit().problems == []

    def test_one_whose_report_is_being_committed_is_waited_for_and_stays(
        self, url, nodes, leader, reader, idle
    ):
        series_id = idle[0].id
        with closing(Link(url)) as link, closing(PostgresLedger(url)) as third:
            link.ask(lambda db: db.execute("BEGIN"))
            group = Group({})
            group.take(batch(report(server="gone", up=100)))
            link.ask(
                lambda db: group.store(
                    db,
                    7,
                    lambda _: series_id,
                    epoch=postgres_series.epoch(db),
                    received_at_millis=NOON_MILLIS,
                )
            )
            dropped = []
            thread = threading.Thread(target=lambda: dropped.append(third.forget_series(idle)))
            thread.start()
            until("it waits", lambda: is_waiting(nodes, "series_epoch"))
            link.ask(lambda db: db.execute("COMMIT"))
            thread.join(DEADLINE_SECONDS)
        assert dropped == [0]
        leader.lead()
        assert self.uploads(reader) == {"gone": 111}
        assert reader.audit().problems == []


def is_waiting(nodes, words):
    """Tell whether a statement with these words in it waits for a lock, on any node."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        "AND datname = current_database() AND query LIKE %s"
    )
    return any(execute(url, query, (f"%{words}%",))[0][0] for url in nodes)


def make_schema_5(url):
    """Take a ledger back to one sequence of sums, as the version before partitions left it."""
    execute(
        url,
        "INSERT INTO folded (id, seq, raw_bytes, billed_bytes) "
        "SELECT 1, n.seq, p.raw_bytes, p.billed_bytes FROM numbering AS n, sum_partition AS p "
        "WHERE p.part = 0",
    )
    for table in ("numbering", "sum_partition", "adder"):
        execute(url, f"DROP TABLE {table}")
    execute(url, "ALTER TABLE report_group DROP COLUMN part")
    execute(url, "UPDATE meta SET value = '5' WHERE key = 'version'")


class OldLeader:
    """A leader of the version before partitions, a statement at a time."""

    def __init__(self, db):
        self.db = db

    def begin(self):
        """Begin to add up, as its fence and its first statements do; return how far it is."""
        self.db.execute("UPDATE lease SET expires_at = expires_at WHERE name = 'leader'")
        (seq,) = self.db.execute("SELECT seq FROM folded WHERE id = 1").fetchone()
        return seq

    def end(self, seq):
        self.db.execute(
            "UPDATE report_group SET first_seq = %s WHERE first_seq IS NULL", (seq + 1,)
        )
        self.db.execute(
            "UPDATE user_total SET upload_bytes = upload_bytes + 1, reports = reports + 1, "
            "change_seq = %s WHERE username = 'a'",
            (seq + 1,),
        )
        self.db.execute("UPDATE folded SET seq = %s WHERE id = 1", (seq + 1,))
        self.db.commit()


class TestAnOlderVersion:
    def test_one_sequence_of_sums_becomes_the_first_partition_and_is_continued(self, url):
        with closing(PostgresLedger(url)) as ledger:
            store(ledger, batch(report("a"), report("b")), defers_sums=False)
            store(ledger, batch(report("c")))
        make_schema_5(url)
        before = execute(url, "SELECT seq FROM folded")
        with closing(PostgresLedger(url, partitions=3)) as ledger:
            assert before == [(2,)]
            store(ledger, batch(*(report(f"user{n}") for n in range(20))), defers_sums=False)
            with closing(PostgresReader(url)) as reader:
                page = reader.changes(after=2, limit=99)
                assert page.head == 23
                assert [each.change_seq for each in page.changes] == list(range(3, 24))
                assert reader.audit().problems == []
        assert len(execute(url, "SELECT part FROM sum_partition")) == 3

    @pytest.mark.parametrize("done", range(6))
    def test_a_migration_that_was_interrupted_is_completed_by_the_next_start(self, url, done):
        with closing(PostgresLedger(url)) as ledger:
            store(ledger, batch(report("a"), report("b")), defers_sums=False)
        make_schema_5(url)
        for statement in MIGRATIONS[5][:done]:
            execute(url, statement)
        with closing(PostgresLedger(url)) as ledger, closing(PostgresReader(url)) as reader:
            store(ledger, batch(report("a")), defers_sums=False)
            assert reader.changes(after=2, limit=9).head == 3
            assert reader.audit().problems == []

    def test_a_leader_of_it_that_is_adding_up_is_waited_for_and_nothing_is_counted_twice(
        self, url, nodes
    ):
        with closing(PostgresLedger(url)) as ledger:
            store(ledger, batch(report("a")), defers_sums=False)
            store(ledger, batch(report("a", up=1, down=0)))
        make_schema_5(url)
        opened = []
        with psycopg.connect(url, options=f"-c search_path={SCHEMA}") as db:
            old = OldLeader(db)
            seq = old.begin()
            thread = threading.Thread(target=lambda: opened.append(PostgresLedger(url)))
            thread.start()
            until("it waits for the lease", lambda: is_waiting(nodes, "UPDATE%lease"))
            old.end(seq)
            thread.join(DEADLINE_SECONDS)
            # It polls: there is nothing any more that it could add up.
            assert db.execute("SELECT seq FROM folded WHERE id = 1").fetchone() is None
        (ledger,) = opened
        with closing(ledger), closing(PostgresReader(url)) as reader:
            (user,) = reader.changes(after=0, limit=9).changes
            assert (user.upload_bytes, user.reports, user.change_seq) == (2, 2, 2)

    def test_what_a_collector_of_it_still_stores_is_added_up(self, url):
        with closing(PostgresLedger(url, partitions=3)) as ledger:
            store(ledger, batch(report("a"), report("b")), defers_sums=False)
            (series_id,) = execute(url, "SELECT id FROM series WHERE username = 'b'")[0]
            execute(
                url,
                "INSERT INTO report_group (id, reports, raw_bytes, billed_bytes, received_at) "
                "VALUES (7, 1, 3, 3, %s)",
                (NOON_MILLIS,),
            )
            execute(
                url,
                "INSERT INTO report VALUES (7, 0, NULL, %s, 1, 2, NULL, 1, %s, 'reporter:r')",
                (series_id, NOON_MILLIS),
            )
            ledger.lead()
            with closing(PostgresReader(url)) as reader:
                totals = {
                    each.username: each.reports for each in reader.changes(after=0, limit=9).changes
                }
                assert totals == {"a": 1, "b": 2}
                assert reader.audit().problems == []

    def test_its_tables_are_brought_forward_with_what_is_in_them(self, url):
        hour = NOON_MILLIS // 3_600_000
        with closing(PostgresLedger(url)) as ledger:
            for at in (NOON_MILLIS - 7_200_000, NOON_MILLIS - 3_600_000):
                ledger.record([batch(report("d"))], received_at_millis=at)
            first = batch(report("a", up=1, down=0), report("a", up=2**40, down=2**40))
            store(ledger, first, defers_sums=False)
            store(ledger, batch(report("b", up=3)))
        make_schema_5(url)
        for table in ("folded", "report_group"):
            for column in ("raw_bytes", "billed_bytes"):
                execute(url, f"ALTER TABLE {table} ALTER COLUMN {column} TYPE bigint")
        for table in ("sender_day", "series_epoch"):
            execute(url, f"DROP TABLE {table}")
        execute(url, "UPDATE meta SET value = '1' WHERE key = 'version'")
        with closing(PostgresLedger(url)) as ledger, closing(PostgresReader(url)) as reader:
            found = reader.sender_bytes("reporter:r", hour=hour)
            assert found == (2**41 + 6, 2**41 + 12)
            more = batch(*(report(name, up=2**61, down=2**61 - 9) for name in "bc"))
            assert store(ledger, more, defers_sums=False) == [Receipt(2, 0)]
            assert reader.audit().problems == []
            assert reader.facts().billed_bytes == 2 * (2**62 - 9) + 2**41 + 12 > 2**63
