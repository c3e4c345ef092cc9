"""Moves an embedded ledger into a PostgreSQL database, and compares both row by row.

The ledger keeps its id and all its numbers, so that readers of the feed continue at their
positions. Rows are copied in pages, each in a transaction of its own; an interrupted move continues
after the last committed page. Until all rows are copied and compared, the database is marked as
unfinished, and no collector opens it.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.errors import LedgerError
from collector.ledger.migration.tables import TABLES, Row, Table
from collector.ledger.postgres.database import PostgresDatabase
from collector.ledger.postgres.link import Db, Link
from collector.ledger.postgres.schema import MIGRATION_MARK, bring_forward
from collector.ledger.postgres.sums.numbering import set_numbered
from collector.ledger.readers import ReaderPosition
from collector.ledger.sql import readers as sql_readers
from collector.ledger.sql.purge import DROPPED_DAYS
from collector.ledger.sql.reporters import CONTACTS, FORMER
from collector.ledger.sql.statistics import sums_of_users
from collector.ledger.sqlite.database import SqliteDatabase
from collector.ledger.sqlite.file import connect
from collector.ledger.sqlite.reader import last_reports
from collector.ledger.sqlite.writer import SqliteLedger

PAGE_ROWS = 20_000
_SMALL = {
    "reporter": ("name", "key_hash", "created_at", "revoked_at", "counts_toward_quota"),
    "ratio": ("server", "ratio_millis", "set_at"),
    "export": ("stream", "seq", "points", "advanced_at", "problem"),
    "dead_letter": ("stream", "line", "reason", "at"),
}
"""Small tables, which may change after an interrupted move: copied last, in one transaction."""

Tell = Callable[[str, int, int], None]
"""Called with what is being copied or compared, the rows done, and their total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The rows and bytes that were moved and compared."""

    ledger_id: str
    rows: dict[str, int]
    users: int
    reports: int
    raw_bytes: int
    billed_bytes: int


class Migration:
    """One move. It locks the file, so it raises LedgerInUseError while a collector runs.

    Raises LedgerError if the database holds another ledger, or part of an older state of the file;
    NotStoredError if the server fails; then a later call continues the move.
    """

    def __init__(
        self, source: Path, target: str, *, tell: Tell, page_rows: int = PAGE_ROWS
    ) -> None:
        if not source.exists():
            raise LedgerError(f"there is no ledger at {source} to move")
        self._source = source
        self._link = Link(target, is_patient=True)
        self._tell = tell
        self._page_rows = page_rows

    def run(self, *, restarts: bool = False) -> Moved:
        """Copy all rows, then compare them one by one."""
        with (
            closing(SqliteLedger(self._source)),  # its lock, and all reports in the sums
            closing(connect(self._source, read_only=True)) as source,
            closing(self._link),
        ):
            bring_forward(self._link, is_migration=True)
            self._begin(_Source.of(source), restarts=restarts)
            counts = {table.name: self._copy(source, table) for table in TABLES}
            positions = sql_readers.reader_positions(SqliteDatabase(source))
            self._link.run(lambda db: _copy_rest(db, source, positions))
            for table in TABLES:
                self._compare(source, table)
            return self._finish(source, counts)

    def _begin(self, origin: _Source, *, restarts: bool) -> None:
        """Mark the database as an unfinished move of this ledger, or find that mark."""

        def begin(db: Db) -> None:
            row = db.execute("SELECT value FROM meta WHERE key = %s", (MIGRATION_MARK,)).fetchone()
            if row is None:
                if _is_used(db):
                    raise LedgerError(
                        f"{self._link.name} holds a ledger already: give an empty database, or "
                        "remove its schema `traffic` yourself"
                    )
            elif restarts:
                _empty(db)
            elif json.loads(row[0]) != origin.as_dict():
                raise LedgerError(
                    f"{self._link.name} holds part of another ledger, or of this one as it was "
                    "before more was stored: start over with --restart"
                )
            db.execute(
                "INSERT INTO meta (key, value) VALUES (%s, %s) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (MIGRATION_MARK, json.dumps(origin.as_dict())),
            )

        self._link.run(begin)

    def _copy(self, source: sqlite3.Connection, table: Table) -> int:
        """Copy the missing rows; return how many rows the table has."""
        total = _count(source, table.name)
        after = self._link.ask(table.last_key)
        done = 0 if after is None else self._link.ask(table.count)
        while page := table.page(source, after, self._page_rows):
            self._link.run(lambda db, rows=page: table.insert(db, rows))  # type: ignore[misc]
            after = table.key_of(page[-1])
            done += len(page)
            self._tell(table.name, done, total)
        return total

    def _compare(self, source: sqlite3.Connection, table: Table) -> None:
        """Read a table on both sides, in the same order; LedgerError for the first difference."""
        total = _count(source, table.name)
        ours = _pages(lambda after: table.page(source, after, self._page_rows), table)
        theirs = _pages(
            lambda after: self._link.ask(
                lambda db: table.page_of_target(db, after, self._page_rows)
            ),
            table,
        )
        for number, (one, other) in enumerate(itertools.zip_longest(ours, theirs), start=1):
            if one != other:
                raise LedgerError(
                    f"row {number} of {table.name} is not the same on both sides: "
                    f"{one!r} here, {other!r} there. Start over with --restart; your ledger file "
                    "is unchanged"
                )
            if number % self._page_rows == 0 or number == total:
                self._tell(f"{table.name}, compared", number, total)

    def _finish(self, source: sqlite3.Connection, counts: dict[str, int]) -> Moved:
        """Remove the mark: from now on the database is a ledger."""
        origin = _Source.of(source)
        users, sums = _count(source, "user_total"), sums_of_users(SqliteDatabase(source))

        def finish(db: Db) -> None:
            set_numbered(db, origin.folded_seq)
            db.execute(
                "UPDATE sum_partition SET seq = %s, reports = %s, raw_bytes = %s, "
                "billed_bytes = %s WHERE part = 0",
                (origin.folded_seq, sums.reports, sums.raw_bytes, sums.billed_bytes),
            )
            db.execute("UPDATE meta SET value = %s WHERE key = 'ledger_id'", (origin.ledger_id,))
            last = db.execute("SELECT coalesce(max(id), 0) + 1 FROM series").fetchone()
            db.execute("SELECT setval(pg_get_serial_sequence('series', 'id'), %s)", last)
            db.execute("DELETE FROM meta WHERE key = %s", (MIGRATION_MARK,))

        self._link.run(finish)
        return Moved(
            ledger_id=origin.ledger_id,
            rows=counts,
            users=users,
            reports=sums.reports,
            raw_bytes=sums.raw_bytes,
            billed_bytes=sums.billed_bytes,
        )


@dataclass(frozen=True, slots=True)
class _Source:
    """The state of a ledger file, to notice that more was stored in it since."""

    ledger_id: str
    folded_seq: int
    first_seq: int
    days: int

    @classmethod
    def of(cls, source: sqlite3.Connection) -> _Source:
        meta = dict(source.execute("SELECT key, value FROM meta"))
        first_seq, days = source.execute(
            "SELECT (SELECT coalesce(min(seq), 0) FROM report), (SELECT count(*) FROM usage_day)"
        ).fetchone()
        return cls(meta["ledger_id"], int(meta["folded_seq"]), first_seq, days)

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def _count(source: sqlite3.Connection, table: str) -> int:
    return int(source.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _pages(read: Callable[[Sequence[Any] | None], list[Row]], table: Table) -> Iterator[Row]:
    after: Sequence[Any] | None = None
    while page := read(after):
        yield from page
        after = table.key_of(page[-1])


def _is_used(db: Db) -> bool:
    row = db.execute(
        "SELECT (SELECT seq FROM numbering) > 0 OR EXISTS (SELECT 1 FROM report_group) "
        "OR EXISTS (SELECT 1 FROM reporter) OR EXISTS (SELECT 1 FROM ratio)"
    ).fetchone()
    return bool(row and row[0])


def _empty(db: Db) -> None:
    for table in ("report_group", "heard", *(each.name for each in TABLES), *_SMALL):
        db.execute(f"DELETE FROM {table}")


def _copy_rest(db: Db, source: sqlite3.Connection, positions: dict[str, ReaderPosition]) -> None:
    target = PostgresDatabase(db)
    for table, columns in _SMALL.items():
        db.execute(f"DELETE FROM {table}")
        rows = source.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()
        if table == "reporter":
            rows = [(*row[:-1], bool(row[-1])) for row in rows]
        target.insert_all(table, [dict(zip(columns, row, strict=True)) for row in rows])
    for key in (DROPPED_DAYS, FORMER, CONTACTS):
        db.execute("DELETE FROM meta WHERE key = %s", (key,))
        for row in source.execute("SELECT key, value FROM meta WHERE key = ?", (key,)):
            db.execute("INSERT INTO meta (key, value) VALUES (%s, %s)", row)
    db.execute("DELETE FROM heard")
    heard = last_reports(source).items()
    target.insert_all("heard", [{"scope": scope, "received_at": at} for scope, at in heard])
    for reader, position in positions.items():
        sql_readers.report_position(target, reader, position)
