"""A shared ledger that lacks what collectors have seen in it: they say so, and count it anew."""

from __future__ import annotations

import contextlib
from contextlib import closing

import psycopg
import pytest

from collector.errors import LedgerUnavailableError
from collector.ledger import Receipt
from collector.ledger.postgres.writer import PostgresLedger
from tests.support.collector.ledgers import NOON_MILLIS, batch, report


@pytest.fixture
def ledger(url):
    with closing(PostgresLedger(url)) as opened:
        yield opened


def store(ledger, *reports, is_counted=True):
    """Store as a sender has it stored: once more where a connection was cut."""
    batches = [batch(*reports)]
    for _ in range(2):
        with contextlib.suppress(LedgerUnavailableError):
            (receipt,) = ledger.record(
                batches, received_at_millis=NOON_MILLIS, defers_sums=not is_counted
            )
            return receipt
    raise AssertionError("nothing is stored")


def lose_after(url, seq, *, cuts=True):
    """Take the database back to a number, as a standby has it that lagged, and cut all off."""
    with psycopg.connect(url, options="-c search_path=traffic", autocommit=True) as db:
        gone = "SELECT id FROM report_group WHERE first_seq IS NULL OR first_seq > %s"
        db.execute(f"DELETE FROM report WHERE group_id IN ({gone})", (seq,))
        db.execute("DELETE FROM report_group WHERE first_seq IS NULL OR first_seq > %s", (seq,))
        db.execute("DELETE FROM run WHERE after_seq >= %s", (seq,))
        for table in ("numbering", "sum_partition"):
            db.execute(f"UPDATE {table} SET seq = %s", (seq,))
    if cuts:
        cut_off(url)


def cut_off(url):
    """End all sessions."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def look(ledger):
    """Look as a collector does, again and again; return what is missing."""
    for _ in range(2):
        with contextlib.suppress(LedgerUnavailableError):
            ledger.lead()
            return ledger.losses
    raise AssertionError("it cannot be polled")


@pytest.mark.parametrize("cuts", [True, False], ids=["failover", "restored beneath"])
def test_reports_that_were_added_up_and_are_gone_are_told_by_their_numbers(url, ledger, cuts):
    store(ledger, report(key="a"))
    store(ledger, report(key="b"), report(key="c"))
    assert ledger.losses.text is None
    lose_after(url, 1, cuts=cuts)
    losses = look(ledger)
    assert "(numbers 2 to 3; 2 reports that this collector acknowledged" in losses.text
    assert losses.reports == 2
    assert store(ledger, report(key="b")) == Receipt(1, 0), "its id is not known any more"
    assert store(ledger, report(key="a")) == Receipt(0, 1)
    assert look(ledger).reports == 2


def test_reports_in_no_sum_yet_that_are_gone_are_told_by_who_acknowledged_them(url, ledger):
    store(ledger, report(key="a"))
    store(ledger, report(key="b"), is_counted=False)
    lose_after(url, 1)
    assert "(1 reports that this collector acknowledged" in look(ledger).text


def test_a_collector_that_gets_no_reports_tells_that_numbers_are_other_reports_now(url, ledger):
    """It looks only once the ledger has grown beyond what it has seen."""
    store(ledger, report(key="a"))
    with closing(PostgresLedger(url)) as other:
        store(ledger, report(key="b"))
        other.lead()
        lose_after(url, 1)
        look(ledger)
        for number in range(5):
            store(ledger, report(key=f"since-{number}"))
        losses = look(other)
        assert "(numbers 2 to 2)" in losses.text
        assert losses.reports == 0


@pytest.mark.parametrize("is_leading", [True, False])
def test_a_cut_connection_or_another_leader_is_no_loss(url, ledger, is_leading):
    with closing(PostgresLedger(url)) as other:
        mine = ledger if is_leading else other
        store(mine, report(key="a"))
        ledger.lead()
        store(mine, report(key="b"), is_counted=False)
        cut_off(url)
        assert look(ledger).text is None
        ledger.close()
        assert look(other).text is None
        assert store(other, report(key="b")) == Receipt(0, 1)


def test_an_epoch_that_was_lost_is_not_given_out_again(url, ledger):
    epoch = ledger.lease.epoch
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("UPDATE traffic.lease SET epoch = 2, token = '', expires_at = now()")
    with closing(PostgresLedger(url)) as other:
        assert other.lease.epoch > epoch
