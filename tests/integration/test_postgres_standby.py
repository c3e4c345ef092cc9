"""A PostgreSQL whose commits wait for a synchronous standby: what is acknowledged is on both."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import postgres_server
import psycopg
import pytest
from ledgers import NOON_MILLIS, batch, report
from postgres_pair import PostgresPair

from collector.errors import LedgerError, LedgerUnavailableError
from collector.ledger import Receipt
from collector.ledger.postgres import PostgresLedger
from collector.ledger.postgres_place import PostgresPlace

DEADLINE_SECONDS = 30
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
    monkeypatch.setattr("collector.ledger.postgres_link.ANSWER_SECONDS", 1.0)
    monkeypatch.setattr("collector.ledger.postgres_link.PATIENT_ANSWER_SECONDS", 1.5)
    monkeypatch.setattr("collector.ledger.postgres_writer.AGAIN_SECONDS", 0.5)
    monkeypatch.setattr("collector.postgres_session.STANDBY_SECONDS", 0.5)
    servers.primary.start()
    servers.standby.start()
    until("the standby", lambda: ask(servers.primary.url("postgres"), "TABLE pg_stat_replication"))
    return servers


@pytest.fixture
def url(pair):
    return pair.primary.url(pair.primary.new_database())


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

    def test_a_wait_for_the_standby_that_somebody_cancels_acknowledges_nothing(self, pair, url):
        """The server answers such a commit as any other, with a warning beside it."""
        with closing(PostgresLedger(url)) as ledger:
            store(ledger, report(key="a"))
            pair.standby.stop()
            cancel = f"SELECT pg_cancel_backend(pid) FROM ({WAITING}) AS waiting"
            cancelling = threading.Thread(
                target=lambda: until("a commit that waits", lambda: ask(url, cancel))
            )
            cancelling.start()
            with pytest.raises(LedgerUnavailableError):
                store(ledger, report(key="b"))
            cancelling.join()
            assert ask(url, "SELECT count(*) FROM traffic.report") == [(2,)]


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
                PostgresPlace(url).add_reporter("node", now_millis=1)
            assert len(ask(url, WAITING)) <= 2, "a process that begins meanwhile adds none"
            with closing(PostgresPlace(url).reader()) as reader:
                assert reader.facts().records == 1
            pair.standby.start()
            until("stored", lambda: is_stored(ledger, report(key="c")))
            assert ask(url, WAITING) == []
