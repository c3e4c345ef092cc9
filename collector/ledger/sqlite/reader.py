"""The reader of an SQLite ledger; it never blocks the writer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from collector.ledger.corrections import SCOPE
from collector.ledger.sql import statistics as sql_statistics
from collector.ledger.sql.database import Database
from collector.ledger.sql.reader import SqlReader
from collector.ledger.sqlite.database import DIALECT, SqliteDatabase
from collector.ledger.sqlite.file import connect
from collector.ledger.sqlite.key_index import seqs_of
from collector.ledger.statistics_values import Audit, Facts
from collector.runtime.sqlite.thread_connections import ThreadConnections

T = TypeVar("T")


class SqliteReader(SqlReader):
    """Reads a ledger file, with one connection per thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connections = ThreadConnections(lambda: connect(path, read_only=True))

    def close(self) -> None:
        """Close the connections of all threads, for good; queries under way are interrupted."""
        self._connections.close()

    def read(
        self,
        work: Callable[[Database], T],
        *,
        is_snapshot: bool = False,
        is_long: bool = False,  # noqa: ARG002 - reading a file has no deadline
    ) -> T:
        """Run queries on the thread's connection."""
        with self._connections.use() as db:
            if not is_snapshot:
                return work(SqliteDatabase(db))
            db.execute("BEGIN")
            try:
                return work(SqliteDatabase(db))
            finally:
                db.execute("COMMIT")

    def last_reports(self) -> dict[str, int]:
        """Return when the newest stored report of each sender arrived, by its scope."""
        with self._connections.use() as db:
            return last_reports(db)

    def first_received_at(self, keys: Sequence[bytes]) -> int | None:
        """Return when the first of the reports with these keys came, None when there is none.

        Reports that are not added up yet are not found.
        """
        with self._connections.use() as db:
            seqs = [seq for _, seq in seqs_of(db, keys)]
            if not seqs:
                return None
            query = "SELECT received_at FROM report WHERE seq = ?"
            row = db.execute(query, (min(seqs),)).fetchone()
            return None if row is None else int(row[0])

    def facts(self) -> Facts:
        """Return the ledger's size and counts."""
        with self._connections.use() as db:
            pages = db.execute("PRAGMA page_count").fetchone()[0]
            page_bytes = db.execute("PRAGMA page_size").fetchone()[0]
        return self.read(
            lambda db: sql_statistics.facts(
                db, location=self._path.name, size_bytes=pages * page_bytes
            ),
            is_snapshot=True,
        )

    def audit(self) -> Audit:
        """Check the file and compare the sums of users, series and days with each other."""
        with self._connections.use() as db:
            verdict = [str(row[0]) for row in db.execute("PRAGMA integrity_check(20)")]
        problems = [] if verdict == ["ok"] else verdict
        return self.read(lambda db: sql_statistics.Compared(db).audit(problems), is_snapshot=True)


def last_reports(db: sqlite3.Connection) -> dict[str, int]:
    """Return when the newest stored report of each sender arrived, by its scope."""
    query = f"""
        SELECT scope, max(received_at) FROM (
            SELECT scope, received_at FROM heard WHERE received_at >= {DIALECT.oldest_received_at}
            UNION ALL
            SELECT reporter AS scope, received_at FROM {DIALECT.unfolded_of_senders}
        ) GROUP BY scope
    """
    return {scope: at for scope, at in db.execute(query) if not scope.startswith(SCOPE)}
