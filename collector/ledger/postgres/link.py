"""A connection to a PostgreSQL ledger: opened when needed, bounded in time, its faults translated.

Only plain SQL goes through it: no advisory locks, no notifications, nothing that an engine which
speaks PostgreSQL's protocol may lack. See docs/decisions/0012.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg

from collector.errors import (
    DiskFullError,
    LedgerUnavailableError,
    NotStoredError,
    SettingsError,
)
from collector.runtime import postgres as postgres_connection
from collector.runtime import postgres_session
from collector.runtime.postgres import ANSWER_SECONDS, BoundedConnection, text_of
from collector.runtime.postgres_session import UnfitServerError

Db = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

SCHEMA = "traffic"
PATIENT_ANSWER_SECONDS = 40.0
"""The same for what adds up, purges or checks, which nobody waits for."""
FROZEN_SECONDS = 5.0
"""A session that stands still within a transaction so long is ended by the server, and its locks
with it: a collector that was frozen holds nobody up for longer."""
LOCK_SECONDS = 3.0
MAX_TRIES = 8
IDLE_SECONDS = 1.0
"""A connection that was not used for so long is asked whether it is still one."""
PING_SECONDS = 2.0


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


class Link:
    """One connection, for one thread at a time: opened when it is used, and anew when lost.

    What `only_reads` goes on while commits wait for a standby.
    """

    def __init__(self, url: str, *, is_patient: bool = False, only_reads: bool = False) -> None:
        self._conninfo = conninfo_of(url)
        self._is_patient = is_patient
        self._only_reads = only_reads
        self.name = name_of(url)
        self._guard = threading.Lock()
        self._db: BoundedConnection | None = None
        self._used_at_seconds = 0.0
        self._is_held_back = False
        self.connections = 0
        """How many there have been: what is remembered of one is not true of the next."""

    def connect(self) -> Db:
        """Return the open connection, which may be a new one; LedgerUnavailableError otherwise.

        It is a new one where the one there was has been cut off while nobody used it.
        """
        try:
            db = self._opened()
            if self._is_held_back:
                postgres_session.refuse_while_standby_is_away(db)
                self._is_held_back = False
        except _FAULTS as error:
            raise translate(error, self.name) from error
        self._used_at_seconds = time.monotonic()
        return db

    def _opened(self) -> BoundedConnection:
        if self._db is not None and time.monotonic() - self._used_at_seconds > IDLE_SECONDS:
            self._ping(self._db)
        if self._db is None or self._db.closed:
            self._db = open_connection(self._conninfo, is_patient=self._is_patient)
            self._is_held_back = not self._only_reads
            self.connections += 1
        return self._db

    def _ping(self, db: BoundedConnection) -> None:
        """Close a connection that is none any more: a server, a pooler or a firewall ended it."""
        answer_seconds, db.answer_seconds = db.answer_seconds, PING_SECONDS
        try:
            db.execute("")
        except psycopg.Error:
            self.drop()
        finally:
            db.answer_seconds = answer_seconds

    def ask(self, work: Callable[[Db], T]) -> T:
        """Run something whose statements need not be one transaction; raises as `run`."""
        return self.run(work, is_one=False)

    def run(self, work: Callable[[Db], T], *, is_one: bool = True) -> T:
        """Run something in one transaction, from its beginning again where it met another.

        Raises DiskFullError, LedgerUnavailable-
        Error or NotStoredError; a commit whose answer was lost may still have happened.
        """
        with self._guard:
            for tries in range(1, MAX_TRIES + 1):
                db = self.connect()
                try:
                    result = run_in(db, work) if is_one else work(db)
                except (pg.SerializationFailure, pg.DeadlockDetected) as error:
                    if tries == MAX_TRIES:
                        raise translate(error, self.name) from error
                    time.sleep(random.uniform(0.002, 0.02) * tries)  # noqa: S311 - spreads retries
                except _FAULTS as error:
                    if db.closed or isinstance(error, pg.ReadOnlySqlTransaction):
                        self.drop()
                    raise translate(error, self.name) from error
                else:
                    self._used_at_seconds = time.monotonic()
                    return result
            raise AssertionError("the last try returns or raises")

    def drop(self) -> None:
        """Close the connection; the next use opens another."""
        if self._db is not None:
            with suppress(psycopg.Error):
                self._db.close()
            self._db = None

    close = drop


def run_in(db: Db, work: Callable[[Db], T], *, is_snapshot: bool = False) -> T:
    """Run something in one transaction of a connection; a snapshot is all of one moment."""
    with db.transaction():
        if is_snapshot:
            db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        return work(db)
