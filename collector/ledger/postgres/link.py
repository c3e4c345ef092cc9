"""A connection to a PostgreSQL ledger: opened when needed, bounded in time, its faults translated.

Only plain SQL goes through it: no advisory locks, no notifications, nothing that an engine which
speaks PostgreSQL's protocol may lack. See docs/decisions/0012.
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
from collector.runtime.postgres.connection import ANSWER_SECONDS, BoundedConnection, text_of
from collector.runtime.postgres.session import UnfitServerError

Db = postgres_link.Db
T = TypeVar("T")

SCHEMA = "traffic"
PATIENT_ANSWER_SECONDS = 40.0
"""The same for what adds up, purges or checks, which nobody waits for."""
FROZEN_SECONDS = 5.0
"""A session that stands still within a transaction so long is ended by the server, and its locks
with it: a collector that was frozen holds nobody up for longer."""
LOCK_SECONDS = 3.0


def conninfo_of(url: str) -> str:
    """Return how to connect to a `postgresql://` URL; SettingsError for a malformed one."""
    with _naming_the_variable():
        return postgres_connection.conninfo_of(url, application="traffic-collector")


def name_of(url: str) -> str:
    """Return what people may see of a URL: no password, no options."""
    with _naming_the_variable():
        return postgres_connection.name_of(url)


@contextmanager
def _naming_the_variable() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"LEDGER_URL: {error}") from None


def prepare_session(db: Db, *, seconds: float) -> None:
    """Set what each session relies on; no statement takes longer. Raises what psycopg raises."""
    postgres_session.prepare(
        db,
        schema=SCHEMA,
        answer_seconds=seconds,
        lock_seconds=LOCK_SECONDS,
        idle_seconds=FROZEN_SECONDS,
    )


def open_connection(conninfo: str, *, is_patient: bool = False) -> BoundedConnection:
    """Connect, and see that this is a server to store at; raises what psycopg raises."""
    db = BoundedConnection.connect(conninfo, autocommit=True)
    db.answer_seconds = PATIENT_ANSWER_SECONDS if is_patient else ANSWER_SECONDS
    try:
        prepare_session(db, seconds=db.answer_seconds)
        postgres_session.refuse_pooled(
            db, lambda: BoundedConnection.connect(conninfo, autocommit=True)
        )
    except BaseException:
        db.close()
        raise
    return db


def translate(error: Exception, name: str) -> NotStoredError:
    """Return what an error of the server or of the way to it means for a sender."""
    if isinstance(error, NotStoredError):
        return error
    text = text_of(error)
    if isinstance(error, pg.DiskFull):
        return DiskFullError(f"the disk under the ledger {name} is full: {text}")
    if isinstance(error, UnfitServerError):
        return NotStoredError(f"the ledger {name} cannot be used: {text}")
    is_away = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    if is_away or isinstance(error, pg.ReadOnlySqlTransaction):
        return LedgerUnavailableError(f"the ledger {name} cannot be used now: {text}")
    return NotStoredError(f"the ledger {name} did not store: {text}")


_FAULTS = (psycopg.Error, NotStoredError, UnicodeError, OverflowError)


class Link(postgres_link.PostgresLink):
    """One connection, for one thread at a time: opened when it is used, and anew when lost.

    Raises DiskFullError, LedgerUnavailableError or NotStoredError. What `only_reads` goes on while
    commits wait for a standby.
    """

    def __init__(self, url: str, *, is_patient: bool = False, only_reads: bool = False) -> None:
        conninfo = conninfo_of(url)
        self.name = name_of(url)
        super().__init__(
            lambda: open_connection(conninfo, is_patient=is_patient),
            translated=lambda error: translate(error, self.name),
            faults=_FAULTS,
            only_reads=only_reads,
        )

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        self.drop()


def run_in(db: Db, work: Callable[[Db], T], *, is_snapshot: bool = False) -> T:
    """Run something in one transaction of a connection; a snapshot is all of one moment."""
    with db.transaction():
        if is_snapshot:
            db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        return work(db)
