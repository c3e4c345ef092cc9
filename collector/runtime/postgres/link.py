"""One connection to PostgreSQL, for all programs: opened when used, reopened when it was lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg

from collector.runtime.postgres import session as postgres_session
from collector.runtime.postgres.connection import BoundedConnection, is_out_of_step

Db = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

MAX_TRIES = 8
IDLE_SECONDS = 1.0
"""A connection that was not used for so long is asked whether it is still one."""
PING_SECONDS = 2.0


class PostgresLink:
    """One connection, for one thread at a time.

    `open_connection` connects, `translated` returns what one of the `faults` means in the program's
    own errors; both programs' links raise nothing else of the server's. What `only_reads` goes on
    while commits wait for a standby.
    """

    def __init__(
        self,
        open_connection: Callable[[], BoundedConnection],
        *,
        translated: Callable[[Exception], Exception],
        faults: tuple[type[Exception], ...],
        only_reads: bool,
    ) -> None:
        self._open_connection = open_connection
        self._translated = translated
        self._faults = faults
        self._only_reads = only_reads
        self._guard = threading.Lock()
        self._db: BoundedConnection | None = None
        self._used_at_seconds = 0.0
        self._is_held_back = False
        self.connections = 0
        """How many there have been: what is remembered of one is not true of the next."""

    def connect(self) -> Db:
        """Return the open connection, which may be a new one; raises translated errors.

        It is a new one where the previous one was cut off while it was not used. A running call is
        waited for.
        """
        with self._guard:
            return self._connected()

    def _connected(self) -> Db:
        try:
            db = self._opened()
            if self._is_held_back:
                postgres_session.refuse_while_standby_is_away(db)
                self._is_held_back = False
        except self._faults as error:
            raise self._translated(error) from error
        self._used_at_seconds = time.monotonic()
        return db

    def _opened(self) -> BoundedConnection:
        if self._db is not None and time.monotonic() - self._used_at_seconds > IDLE_SECONDS:
            self._ping(self._db)
        if self._db is None or self._db.closed:
            self._db = self._open_connection()
            self._is_held_back = not self._only_reads
            self.connections += 1
        return self._db

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

        So a process that is suspended between two of them holds no locks.
        """
        return self.run(work, is_one=False)

    def run(self, work: Callable[[Db], T], *, is_one: bool = True) -> T:
        """Run something in one transaction, from its beginning again where it met another.

        Only for what decides nothing outside the database. Raises translated errors, and whatever
        the work raises; a commit whose answer was lost may still have happened.
        """
        with self._guard:
            for tries in range(1, MAX_TRIES + 1):
                db = self._connected()
                try:
                    with db.transaction() if is_one else nullcontext():
                        result = work(db)
                except (pg.SerializationFailure, pg.DeadlockDetected) as error:
                    if tries == MAX_TRIES:
                        raise self._translated(error) from error
                    time.sleep(random.uniform(0.002, 0.02) * tries)  # noqa: S311 - spreads retries
                except self._faults as error:
                    is_other = isinstance(error, pg.ReadOnlySqlTransaction)
                    if db.closed or is_other or is_out_of_step(error):
                        self._drop()
                    raise self._translated(error) from error
                else:
                    self._used_at_seconds = time.monotonic()
                    return result
            raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Close the connection after a running call has ended; the next use opens another.

        Closed under a call it would free what the driver reads meanwhile.
        """
        with self._guard:
            self._drop()

    def _drop(self) -> None:
        if self._db is not None:
            with suppress(psycopg.Error):
                self._db.close()
            self._db = None
