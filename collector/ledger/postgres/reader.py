"""The reader of a PostgreSQL ledger: a pool of connections, for any number of threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from collector.errors import LedgerUnavailableError, NotStoredError
from collector.ledger.postgres.audit import audit, size_bytes
from collector.ledger.postgres.database import PostgresDatabase
from collector.ledger.postgres.link import (
    PATIENT_ANSWER_SECONDS,
    Db,
    conninfo_of,
    name_of,
    prepare_session,
    run_in,
    translate,
)
from collector.ledger.postgres.sums import partitions
from collector.ledger.sql import statistics as sql_statistics
from collector.ledger.sql.database import Database
from collector.ledger.sql.reader import SqlReader
from collector.ledger.statistics_values import Audit, Facts
from collector.runtime.postgres.connection import ANSWER_SECONDS, BoundedConnection, text_of
from collector.runtime.postgres.link import PING_SECONDS
from collector.runtime.postgres.session import commits_waiting

T = TypeVar("T")

MAX_CONNECTIONS = 8
GET_SECONDS = 2.0
AGAIN_SECONDS = 5.0
"""The same if the server answered a moment ago: a failover may be in progress."""
CATCH_UP_SECONDS = 5.0
POLL_SECONDS = 0.02


class PostgresReader(SqlReader):
    """Reads a ledger. Raises LedgerUnavailableError while its server cannot be reached."""

    def __init__(self, url: str) -> None:
        self.name = name_of(url)
        self._is_away = False
        self._problem: str | None = None
        self._pool: ConnectionPool[BoundedConnection] = ConnectionPool(
            conninfo_of(url),
            connection_class=BoundedConnection,
            kwargs={"autocommit": True},
            min_size=1,
            max_size=MAX_CONNECTIONS,
            configure=self._prepare,
            timeout=GET_SECONDS,
            # The next query connects again: the pool's own attempts have a growing backoff.
            reconnect_timeout=GET_SECONDS,
            open=True,
            name="ledger-reader",
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def _ask(
        self, work: Callable[[Db], T], *, is_snapshot: bool = False, is_long: bool = False
    ) -> T:
        """Run queries; `is_long` allows more time, for queries that scan a table.

        If the connection is lost, it is retried on another one for some seconds.
        """
        until_seconds = time.monotonic() + (GET_SECONDS if self._is_away else AGAIN_SECONDS)
        while True:
            wait_seconds = max(GET_SECONDS, until_seconds - time.monotonic())
            db: BoundedConnection | None = None
            try:
                with self._pool.connection(timeout=wait_seconds) as db:
                    db.answer_seconds = PING_SECONDS
                    db.execute("")  # if the connection was cut, use another one at once
                    db.answer_seconds = PATIENT_ANSWER_SECONDS if is_long else ANSWER_SECONDS
                    found = run_in(db, work, is_snapshot=True) if is_snapshot else work(db)
            except PoolTimeout as error:
                self._is_away = True
                why = f": {self._problem}" if self._problem else ""
                raise LedgerUnavailableError(
                    f"the ledger {self.name} cannot be reached{why}"
                ) from error
            except (psycopg.Error, NotStoredError) as error:
                if db is None or not db.closed or time.monotonic() >= until_seconds:
                    raise translate(error, self.name) from error
            else:
                self._is_away = False
                return found

    def _prepare(self, db: BoundedConnection) -> None:
        try:
            prepare_session(db, seconds=PATIENT_ANSWER_SECONDS)
        except psycopg.Error as error:
            self._problem = text_of(error)
            db.close()
            raise
        self._problem = None

    def commits_waiting(self) -> int:
        """Return how many commits have waited for a synchronous standby for seconds."""
        return self._ask(commits_waiting)

    def await_sums(self) -> None:
        """Return once all reports stored so far are in the sums, whichever collector leads.

        Raises NotStoredError if no leader adds them up in time.
        """
        ids = self._ask(partitions.not_added_up)
        until_seconds = time.monotonic() + CATCH_UP_SECONDS
        is_left = bool(ids)
        while is_left:
            is_left = self._ask(lambda db: partitions.is_any_left(db, ids))
            if is_left and time.monotonic() > until_seconds:
                raise NotStoredError("reports are stored, but not added up yet; retry later")
            if is_left:
                time.sleep(POLL_SECONDS)

    def read(
        self, work: Callable[[Database], T], *, is_snapshot: bool = False, is_long: bool = False
    ) -> T:
        """Run queries on one of the connections."""
        return self._ask(
            lambda db: work(PostgresDatabase(db)), is_snapshot=is_snapshot, is_long=is_long
        )

    def last_reports(self) -> dict[str, int]:
        """Return when the newest stored report of each sender arrived, by its scope."""
        query = (
            "SELECT scope, received_at FROM heard WHERE received_at >= "
            "(SELECT min(received_at) FROM report_group)"
        )
        return dict(self._ask(lambda db: db.execute(query).fetchall()))

    def first_received_at(self, keys: Sequence[bytes]) -> int | None:
        """Return when the first of the reports with these keys came, None when there is none."""
        query = (
            "SELECT min(received_at) FROM report_group WHERE id IN "
            "(SELECT group_id FROM report WHERE report_key = ANY(%s))"
        )
        row = self._ask(lambda db: db.execute(query, (list(keys),)).fetchone())
        return None if row is None else row[0]

    def facts(self) -> Facts:
        """Return the ledger's size and counts."""
        return self._ask(
            lambda db: sql_statistics.facts(
                PostgresDatabase(db), location=self.name, size_bytes=size_bytes(db)
            ),
            is_snapshot=True,
            is_long=True,
        )

    def audit(self) -> Audit:
        """Compare the sums of users, series, days and kept reports with each other."""
        return self._ask(audit, is_snapshot=True, is_long=True)
