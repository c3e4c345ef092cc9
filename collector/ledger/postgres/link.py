"""A connection to a PostgreSQL ledger: opened on use, bounded in time, with translated errors.

It is used for plain SQL only, without advisory locks and notifications, which other engines with
PostgreSQL's protocol may lack. See docs/decisions/0012.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from psycopg import errors as pg

from collector.errors import (
    DiskFullError,
    LedgerUnavailableError,
    NotStoredError,
    SettingsError,
)
from collector.runtime.postgres import connection as postgres_connection
from collector.runtime.postgres import link as postgres_link
from collector.runtime.postgres import session as postgres_session
from collector.runtime.postgres.connection import (
    ANSWER_SECONDS,
    BoundedConnection,
    is_out_of_step,
    text_of,
)
from collector.runtime.postgres.session import UnfitServerError

Db = postgres_link.Db
T = TypeVar("T")

SCHEMA = "traffic"
PATIENT_ANSWER_SECONDS = 40.0
"""The same for adding up, purging and audits, for which no request waits."""
FROZEN_SECONDS = 5.0
"""The server ends a session that is idle within a transaction for this long, and so releases the
locks of a collector that was suspended."""
LOCK_SECONDS = 3.0


def conninfo_of(url: str) -> str:
    """Return the connection string for a `postgresql://` URL; SettingsError if malformed."""
    with _naming_the_variable():
        return postgres_connection.conninfo_of(url, application="traffic-collector")


def name_of(url: str) -> str:
    """Return a URL without password and options, for messages."""
    with _naming_the_variable():
        return postgres_connection.name_of(url)


@contextmanager
def _naming_the_variable() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"LEDGER_URL: {error}") from None


def prepare_session(db: Db, *, seconds: float) -> None:
    """Prepare a session, with a timeout per statement. Raises psycopg's errors."""
    postgres_session.prepare(
        db,
        schema=SCHEMA,
        answer_seconds=seconds,
        lock_seconds=LOCK_SECONDS,
        idle_seconds=FROZEN_SECONDS,
    )


def open_connection(
    conninfo: str, *, is_patient: bool = False, is_by_index: bool = False
) -> BoundedConnection:
    """Connect and check that the server can store; raises psycopg's errors."""
    db = BoundedConnection.connect(conninfo, autocommit=True)
    db.answer_seconds = PATIENT_ANSWER_SECONDS if is_patient else ANSWER_SECONDS
    try:
        prepare_session(db, seconds=db.answer_seconds)
        postgres_session.refuse_pooled(
            db, lambda: BoundedConnection.connect(conninfo, autocommit=True)
        )
        if is_by_index:
            postgres_session.look_up_by_index(db)
    except BaseException:
        db.close()
        raise
    return db


def translate(error: Exception, name: str) -> NotStoredError:
    """Translate an error of the server or the connection into one for senders."""
    if isinstance(error, NotStoredError):
        return error
    text = text_of(error)
    if isinstance(error, pg.DiskFull):
        return DiskFullError(f"the disk under the ledger {name} is full: {text}")
    if isinstance(error, UnfitServerError):
        return NotStoredError(f"the ledger {name} cannot be used: {text}")
    is_away = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    if is_away or isinstance(error, pg.ReadOnlySqlTransaction) or is_out_of_step(error):
        return LedgerUnavailableError(f"the ledger {name} cannot be used now: {text}")
    return NotStoredError(f"the ledger {name} did not store: {text}")


_FAULTS = (psycopg.Error, NotStoredError, UnicodeError, OverflowError)


class Link(postgres_link.PostgresLink):
    """One connection, for one thread at a time: opened on use, and again if it is lost.

    Raises DiskFullError, LedgerUnavailableError or NotStoredError. With `only_reads` it also works
    while commits wait for a standby. With `is_by_index`, statements read no table whole where an
    index has what they look for.
    """

    def __init__(
        self,
        url: str,
        *,
        is_patient: bool = False,
        only_reads: bool = False,
        is_by_index: bool = False,
    ) -> None:
        conninfo = conninfo_of(url)
        self.name = name_of(url)
        super().__init__(
            lambda: open_connection(conninfo, is_patient=is_patient, is_by_index=is_by_index),
            translated=lambda error: translate(error, self.name),
            faults=_FAULTS,
            only_reads=only_reads,
        )


def run_in(db: Db, work: Callable[[Db], T], *, is_snapshot: bool = False) -> T:
    """Run something in one transaction; with `is_snapshot` all queries see one snapshot."""
    with db.transaction():
        if is_snapshot:
            db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        return work(db)
