"""A connection to a bridge's store in PostgreSQL: bounded in time, its faults translated.

Only plain SQL goes through it: no advisory locks, no notifications, nothing that an engine which
speaks PostgreSQL's protocol may lack.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg

from collector import postgres_connection
from collector.postgres_connection import BoundedConnection, text_of
from marzban_bridge.errors import SettingsError, StoreAwayError, StoreError

Db = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

SCHEMA = "bridge"
ANSWER_SECONDS = 4.0
"""How long one statement may take: the bridge stands still meanwhile, and its lease runs."""
PATIENT_ANSWER_SECONDS = 60.0
"""The same for what reads or writes a whole store."""
MAX_TRIES = 8
_SETTINGS = (
    f"SET search_path = {SCHEMA}",
    "SET lock_timeout = '2s'",
    # A bridge that was frozen within a transaction holds nobody up for longer.
    "SET idle_in_transaction_session_timeout = 5000",
    (
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') = 'off'"
    ),
    "SET jit = off",
)
FAULTS = (psycopg.Error, UnicodeError, OverflowError)


def name_of(url: str) -> str:
    """Return what people may see of a URL; SettingsError for a malformed one."""
    try:
        return postgres_connection.name_of(url)
    except ValueError as error:
        raise SettingsError(f"BRIDGE_STORE: {error}") from None


def open_connection(url: str, *, answer_seconds: float = ANSWER_SECONDS) -> Db:
    """Connect; raises StoreAwayError."""
    name = name_of(url)
    conninfo = postgres_connection.conninfo_of(url, application="marzban-bridge")
    try:
        db = BoundedConnection.connect(conninfo, autocommit=True)
    except FAULTS as error:
        raise translate(error, name) from error
    db.answer_seconds = answer_seconds
    try:
        for statement in (*_SETTINGS, f"SET statement_timeout = {int(answer_seconds * 900)}"):
            with suppress(pg.UndefinedObject, pg.FeatureNotSupported, pg.InvalidParameterValue):
                db.execute(statement)
    except FAULTS as error:
        db.close()
        raise translate(error, name) from error
    return db


def translate(error: Exception, name: str) -> StoreError:
    """Return what an error of the server, or of the way to it, means for the bridge."""
    if isinstance(error, StoreError):
        return error
    return StoreAwayError(f"the store {name} cannot be used now: {text_of(error)}")


class PostgresLink:
    """One connection, for one thread at a time: opened when it is used, and anew when lost."""

    def __init__(self, url: str, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._url = url
        self._answer_seconds = answer_seconds
        self.name = name_of(url)
        self._guard = threading.Lock()
        self._db: Db | None = None

    def connect(self) -> Db:
        """Return the open connection, which may be a new one; StoreAwayError otherwise."""
        if self._db is None or self._db.closed:
            self._db = open_connection(self._url, answer_seconds=self._answer_seconds)
        return self._db

    def ask(self, work: Callable[[Db], T]) -> T:
        """Run something whose statements are each a transaction of their own; raises as `run`.

        Nobody waits for a lock of a process that is frozen between two of them.
        """
        return self.run(work, is_one=False)

    def run(self, work: Callable[[Db], T], *, is_one: bool = True) -> T:
        """Run something in one transaction, from its beginning again where it met another.

        Only for what decides nothing outside the database. Raises StoreAwayError, and whatever the
        work raises; a commit whose answer was lost may still have happened.
        """
        with self._guard:
            for tries in range(1, MAX_TRIES + 1):
                db = self.connect()
                try:
                    with db.transaction() if is_one else nullcontext():
                        return work(db)
                except (pg.SerializationFailure, pg.DeadlockDetected) as error:
                    if tries == MAX_TRIES:
                        raise translate(error, self.name) from error
                    time.sleep(random.uniform(0.002, 0.02) * tries)  # noqa: S311 - spreads retries
                except FAULTS as error:
                    if db.closed or isinstance(error, pg.ReadOnlySqlTransaction):
                        self._drop()
                    raise translate(error, self.name) from error
            raise AssertionError("the last try returns or raises")

    def _drop(self) -> None:
        if self._db is not None:
            with suppress(psycopg.Error):
                self._db.close()
            self._db = None

    def close(self) -> None:
        """Close the connection, once nobody is within `run`; the next use opens another."""
        with self._guard:
            self._drop()
