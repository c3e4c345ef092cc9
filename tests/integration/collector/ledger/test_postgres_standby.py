"""A PostgreSQL whose commits wait for a synchronous standby: what is acknowledged is on both."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from contextlib import ExitStack, closing, contextmanager

import psycopg
import pytest

from collector.errors import CollectorError, LedgerError, LedgerUnavailableError
from collector.ledger import Receipt
from collector.ledger.postgres.backend import PostgresBackend
from collector.ledger.postgres.reader import PostgresReader
from collector.ledger.postgres.writer import PostgresLedger
from marzban_bridge.errors import NotLeadingError, StoreAwayError
from marzban_bridge.store.postgres import schema as shared_schema
from marzban_bridge.store.postgres.leadership import Leadership
from marzban_bridge.store.postgres.lease import Lease
from marzban_bridge.store.postgres.replica import PostgresReplica, ReplicaReader
from marzban_bridge.store.store import Store
from tests.support.bridge.shared_stores import lead
from tests.support.collector.collectors import CollectorWorld, running, wire
from tests.support.collector.ledgers import NOON_MILLIS, batch, report
from tests.support.engines import pgbouncer, postgres_server
from tests.support.engines.pgbouncer import PgBouncer
from tests.support.engines.postgres_pair import PostgresPair

DEADLINE_SECONDS = 120
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"


@pytest.fixture(scope="module")
def servers():
    if postgres_server.describe() is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    pair = PostgresPair()
    ask(pair.primary.url("postgres"), "ALTER SYSTEM SET synchronous_standby_names = '*'")
    ask(pair.primary.url("postgres"), "SELECT pg_reload_conf()")
    yield pair
    pair.close()


@pytest.fixture
def pair(servers, monkeypatch):
    """Both run, and whatever stands still is given up soon."""
    monkeypatch.setattr("collector.ledger.postgres.link.ANSWER_SECONDS", 1.0)
    monkeypatch.setattr("collector.ledger.postgres.link.PATIENT_ANSWER_SECONDS", 1.5)
    monkeypatch.setattr("collector.ledger.postgres.recording.AGAIN_SECONDS", 0.5)
    monkeypatch.setattr("collector.runtime.postgres.session.STANDBY_SECONDS", 0.5)
    servers.primary.start()
    servers.standby.start()
    until("the standby", lambda: ask(servers.primary.url("postgres"), "TABLE pg_stat_replication"))
    return servers


@pytest.fixture
def url(pair):
    return pair.primary.url(pair.primary.new_database())


@pytest.fixture
def both(pair, url):
    """Return how to reach a database at the standby, or else at the primary."""
    pair.until_followed()
    hosts = f"127.0.0.1:{pair.standby.port},127.0.0.1:{pair.primary.port}"
    return re.sub(r"@[^/]*/", f"@{hosts}/", url)


def ask(url, query):
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SET synchronous_commit = local")
        cursor = db.execute(query)
        return cursor.fetchall() if cursor.description else []


def until(what, holds):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.02)
    return found


def store(ledger, *reports):
    return ledger.record([batch(*reports)], received_at_millis=NOON_MILLIS, defers_sums=True)


CANCEL = f"SELECT pg_cancel_backend(pid) FROM ({WAITING}) AS waiting"
"""Of all sessions that wait: another one than that of the commit may be the first."""


@contextmanager
def canceling(url):
    """Cancel waits for the standby, as an administrator may, until one was canceled."""
    thread = threading.Thread(target=lambda: until("a commit that waits", lambda: ask(url, CANCEL)))
    thread.start()
    try:
        yield
    finally:
        thread.join()


def is_stored(ledger, *reports):
    try:
        return store(ledger, *reports)
    except LedgerUnavailableError:
        return None


class TestDuplicates:
    def test_a_report_that_is_known_is_acknowledged_once_it_is_on_the_standby(self, pair, url):
        """Sent again after a restart it is there to read, on the primary alone."""
        with closing(PostgresLedger(url)) as ledger:
            assert store(ledger, report(key="a")) == [Receipt(1, 0)]
            pair.standby.stop()
            with pytest.raises(LedgerUnavailableError):
                store(ledger, report(key="b"))
            pair.primary.crash()
            pair.primary.start()
            assert ask(url, "SELECT count(*) FROM traffic.report") == [(2,)]
            for _ in range(2):
                with pytest.raises(LedgerUnavailableError):
                    store(ledger, report(key="b"))
            pair.standby.start()
            known = until("acknowledged", lambda: is_stored(ledger, report(key="b")))
            assert known == [Receipt(0, 1)]
            on_standby = pair.standby.url(url.rpartition("/")[2])
            rows = ask(on_standby, "SELECT count(*) FROM traffic.report")
            assert rows == [(2,)]

    @pytest.mark.parametrize("has_pooler", [False, True])
    def test_a_wait_for_the_standby_that_is_canceled_acknowledges_nothing(
        self, pair, url, has_pooler
    ):
        """The server answers such a commit as any other, with a warning beside it.

        That is so for reports and for a bridge's store, and a pooler passes the warning on.
        """
        with ExitStack() as stack:
            if has_pooler:
                if pgbouncer.BINARY is None:
                    pytest.skip("no PgBouncer here: apt-get install pgbouncer")
                pooler = stack.enter_context(closing(PgBouncer(pair.primary, "session")))
                used = pair.primary.url(url.rpartition("/")[2], port=pooler.port)
            else:
                used = url
            ledger = stack.enter_context(closing(PostgresLedger(used)))
            books = stack.enter_context(closing(Store(PostgresReplica(used, lead(used)))))
            store(ledger, report(key="a"))
            books.set_meta("a", "1")
            pair.standby.stop()
            with canceling(url), pytest.raises(LedgerUnavailableError):
                store(ledger, report(key="b"))
            assert ask(url, "SELECT count(*) FROM traffic.report") == [(2,)]
            with canceling(url), pytest.raises(NotLeadingError):
                books.set_meta("a", "2")
            stored = "SELECT value FROM bridge.meta WHERE key = 'a'"
            until("it is stored", lambda: (ask(url, CANCEL), ask(url, stored) == [("2",)])[1])


class TestSessions:
    def test_they_do_not_pile_up_while_the_standby_is_away(self, pair, url):
        with closing(PostgresLedger(url)) as ledger:
            store(ledger, report(key="a"))
            pair.standby.stop()
            for number in range(4):
                with pytest.raises(LedgerUnavailableError):
                    store(ledger, report(key=f"b{number}"))
                with pytest.raises(LedgerUnavailableError):
                    ledger.lead()
            with pytest.raises(
                LedgerUnavailableError, match="synchronous standby does not confirm"
            ):
                store(ledger, report(key="c"))
            assert len(ask(url, WAITING)) <= 2, "one that appends, one that leads"
            with pytest.raises(LedgerError, match="synchronous standby does not confirm"):
                PostgresLedger(url)
            with pytest.raises(LedgerUnavailableError, match="synchronous standby"):
                PostgresBackend(url).add_reporter("node", now_millis=1)
            assert len(ask(url, WAITING)) <= 2, "a process that begins meanwhile adds none"
            with closing(PostgresBackend(url).reader()) as reader:
                assert reader.facts().records == 1
            pair.standby.start()
            until("stored", lambda: is_stored(ledger, report(key="c")))
            assert ask(url, WAITING) == []

    async def test_that_they_wait_is_said_by_readyz_and_metrics(self, pair, url, tmp_path):
        world = CollectorWorld(path=tmp_path / "unused", environment={"LEDGER_URL": url})
        async with running(world):
            assert (await world.send(wire(report_id="a"))).status_code == 200
            pair.standby.stop()
            assert (await world.send(wire(report_id="b"))).status_code == 503
            standby = world.app.state.collector.standby
            async with asyncio.timeout(DEADLINE_SECONDS):
                while standby.problem is None:
                    await standby.poll()
            unready = await world.client.get("/readyz")
            assert unready.status_code == 503
            assert standby.problem in unready.json()["reasons"]
            assert "synchronous_standby_names" in standby.problem
            text = (await world.client.get("/metrics")).text
            assert "collector_ledger_standby_waiting 0.0" not in text
            await asyncio.to_thread(pair.standby.start)
            async with asyncio.timeout(DEADLINE_SECONDS):
                while (await world.send(wire(report_id="b"))).status_code != 200:
                    pass
                while standby.problem is not None:
                    await standby.poll()
            text = (await world.client.get("/metrics")).text
            assert "collector_ledger_standby_waiting 0.0" in text

    async def test_those_of_bridges_do_not_pile_up_either(self, pair, url):
        lease = lead(url, seconds=1)
        books = Store(PostgresReplica(url, lease))
        books.set_meta("a", "1")
        pair.standby.stop()
        with pytest.raises(NotLeadingError):
            books.set_meta("a", "2")
        books.close()
        follower = Leadership(url, lease=Lease(1))

        async def is_refused():
            assert not await follower.try_to_take()
            return "synchronous standby does not confirm" in (follower.problem or "")

        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await is_refused():
                pass
        for _ in range(5):
            assert await is_refused()
        assert len(ask(url, WAITING)) <= 2, "one that stores, one that takes the lease"
        with closing(Store(ReplicaReader(url))) as read:
            assert read.meta("a") == "1", "what reads goes on, and sees what is confirmed"
        pair.standby.start()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await follower.try_to_take():
                pass
        await follower.close()


class TestStandbys:
    def test_one_that_is_named_alone_is_refused_before_anything_is_answered(self, pair, url):
        with closing(PostgresLedger(url)) as ledger:
            store(ledger, report(key="a"))
        shared_schema.prepare(url)
        pair.until_followed()
        standby = pair.standby.url(url.rpartition("/")[2])
        place = PostgresBackend(standby)
        for each in (place.prepare, place.open, place.reader):
            with pytest.raises(CollectorError, match="is a standby and takes no writes"):
                each()
        with (
            closing(PostgresReader(standby)) as reader,
            pytest.raises(LedgerUnavailableError, match="is a standby"),
        ):
            reader.changes(after=0, limit=1)
        for act in (shared_schema.prepare, ReplicaReader):
            with pytest.raises(StoreAwayError, match="is a standby and takes no writes"):
                act(standby)

    def test_of_several_hosts_the_one_that_takes_writes_is_used(self, both):
        with closing(PostgresLedger(both)) as ledger, closing(PostgresReader(both)) as reader:
            assert store(ledger, report(key="a")) == [Receipt(1, 0)]
            assert reader.reporters() == []
        with closing(Store(PostgresReplica(both, lead(both)))) as books:
            books.set_meta("a", "1")
