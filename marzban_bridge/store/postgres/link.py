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

from collector.runtime import postgres as postgres_connection
from collector.runtime import postgres_session
from collector.runtime.postgres import BoundedConnection, text_of
from collector.runtime.postgres_session import UnfitServerError
from marzban_bridge.errors import SettingsError, StoreAwayError, StoreError

Db = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

SCHEMA = "bridge"
ANSWER_SECONDS = 4.0
"""How long one statement may take: the bridge stands still meanwhile, and its lease runs."""
PATIENT_ANSWER_SECONDS = 60.0
"""The same for what reads or writes a whole store."""
MAX_TRIES = 8
LOCK_SECONDS = 2.0
FROZEN_SECONDS = 5.0
"""A bridge that was frozen within a transaction holds nobody up for longer."""
IDLE_SECONDS = 1.0
"""A connection that was not used for so long is asked whether it is still one."""
PING_SECONDS = 2.0
FAULTS = (psycopg.Error, UnicodeError, OverflowError)


def name_of(url: str) -> str:
    """Return what people may see of a URL; SettingsError for a malformed one."""
    try:
        return postgres_connection.name_of(url)
    except ValueError as error:
        raise SettingsError(f"BRIDGE_STORE: {error}") from None


def open_connection(url: str, *, answer_seconds: float = ANSWER_SECONDS) -> BoundedConnection:
    """Connect; raises StoreAwayError, and StoreError where a store cannot be."""
    name = name_of(url)
    conninfo = postgres_connection.conninfo_of(url, application="marzban-bridge")
    try:
        db = BoundedConnection.connect(conninfo, autocommit=True)
    except FAULTS as error:
        raise translate(error, name) from error
    db.answer_seconds = answer_seconds
    try:
        postgres_session.prepare(
            db,
            schema=SCHEMA,
            answer_seconds=answer_seconds,
            lock_seconds=LOCK_SECONDS,
            idle_seconds=FROZEN_SECONDS,
        )
        postgres_session.refuse_pooled(
            db, lambda: BoundedConnection.connect(conninfo, autocommit=True)
        )
    except FAULTS as error:
        db.close()
        raise translate(error, name) from error
    return db


def translate(error: Exception, name: str) -> StoreError:
    """Return what an error of the server, or of the way to it, means for the bridge."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, UnfitServerError):
        return StoreError(f"the store {name} cannot be used: {text_of(error)}")
    return StoreAwayError(f"the store {name} cannot be used now: {text_of(error)}")


class PostgresLink:
    """One connection, for one thread at a time: opened when it is used, and anew when lost.

    With `is_of_one_server`, for what is known of the store beside the database: a server that was
    restarted, or another one, may have an older store, and StoreAwayError says so. What
    `only_reads` goes on while commits wait for a standby.
    """

    def __init__(
        self,
        url: str,
        *,
        answer_seconds: float = ANSWER_SECONDS,
        is_of_one_server: bool = False,
        only_reads: bool = False,
    ) -> None:
        self._url = url
        self._answer_seconds = answer_seconds
        self._is_of_one_server = is_of_one_server
        self._only_reads = only_reads
        self.name = name_of(url)
        self._guard = threading.Lock()
        self._db: BoundedConnection | None = None
        self._server: tuple[str, str] | None = None
        self._used_at_seconds = 0.0
        self._is_held_back = False

    def connect(self) -> Db:
        """Return the open connection, which may be a new one; StoreAwayError otherwise.

        It is a new one where the one there was has been cut off while nobody used it.
        """
        if self._db is not None and time.monotonic() - self._used_at_seconds > IDLE_SECONDS:
            self._ping(self._db)
        if self._db is None or self._db.closed:
            self._db = self._opened()
            self._is_held_back = not self._only_reads
        if self._is_held_back:
            try:
                postgres_session.refuse_while_standby_is_away(self._db)
            except FAULTS as error:
                raise translate(error, self.name) from error
            self._is_held_back = False
        self._used_at_seconds = time.monotonic()
        return self._db

    def _opened(self) -> BoundedConnection:
        db = open_connection(self._url, answer_seconds=self._answer_seconds)
        if self._is_of_one_server:
            try:
                server = postgres_session.server_of(db)
            except FAULTS as error:
                db.close()
                raise translate(error, self.name) from error
            if self._server not in {None, server}:
                db.close()
                raise StoreAwayError(
                    f"the store {self.name} is at a server that was started since: what is "
                    "there is read anew"
                )
            self._server = server
        return db

    def _ping(self, db: BoundedConnection) -> None:
        """Close a connection that is none any more: a server, a pooler or a firewall ended it."""
        answer_seconds, db.answer_seconds = db.answer_seconds, PING_SECONDS
        try:
            db.execute("")
        except psycopg.Error:
            self._drop()
        finally:
            db.answer_seconds = answer_seconds

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
                        result = work(db)
                except (pg.SerializationFailure, pg.DeadlockDetected) as error:
                    if tries == MAX_TRIES:
                        raise translate(error, self.name) from error
                    time.sleep(random.uniform(0.002, 0.02) * tries)  # noqa: S311 - spreads retries
                except FAULTS as error:
                    if db.closed or isinstance(error, pg.ReadOnlySqlTransaction):
                        self._drop()
                    raise translate(error, self.name) from error
                else:
                    self._used_at_seconds = time.monotonic()
                    return result
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
