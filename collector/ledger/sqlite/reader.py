"""The reader of an SQLite ledger; it never blocks the writer."""

from __future__ import annotations

import sqlite3
import threading
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

T = TypeVar("T")


class SqliteReader(SqlReader):
    """Reads a ledger file, with one connection per thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._guard = threading.Lock()

    @property
    def _db(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = connect(self._path, read_only=True)
            with self._guard:
                self._opened.append(db)
        return db

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._guard:
            for db in self._opened:
                db.close()
            self._opened.clear()
        self._local = threading.local()

    def read(
        self,
        work: Callable[[Database], T],
        *,
        is_snapshot: bool = False,
        is_long: bool = False,  # noqa: ARG002 - reading a file has no deadline
    ) -> T:
        """Run queries on the thread's connection."""
        db = self._db
        if not is_snapshot:
            return work(SqliteDatabase(db))
        db.execute("BEGIN")
        try:
            return work(SqliteDatabase(db))
        finally:
            db.execute("COMMIT")

    def last_reports(self) -> dict[str, int]:
        """Return when the newest stored report of each sender arrived, by its scope."""
        return last_reports(self._db)

    def first_received_at(self, keys: Sequence[bytes]) -> int | None:
        """Return when the first of the reports with these keys came, None when there is none.

        Reports that are not added up yet are not found.
        """
        seqs = [seq for _, seq in seqs_of(self._db, keys)]
        if not seqs:
            return None
        query = "SELECT received_at FROM report WHERE seq = ?"
        row = self._db.execute(query, (min(seqs),)).fetchone()
        return None if row is None else int(row[0])

    def facts(self) -> Facts:
        """Return the ledger's size and counts."""
        pages = self._db.execute("PRAGMA page_count").fetchone()[0]
        page_bytes = self._db.execute("PRAGMA page_size").fetchone()[0]
        return self.read(
            lambda db: sql_statistics.facts(
                db, location=self._path.name, size_bytes=pages * page_bytes
            ),
            is_snapshot=True,
        )

    def audit(self) -> Audit:
        """Check the file and compare the sums of users, series and days with each other."""
        verdict = [str(row[0]) for row in self._db.execute("PRAGMA integrity_check(20)")]
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
