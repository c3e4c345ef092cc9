"""The large tables of a ledger: read in pages on both sides, and copied in order."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Sequence
from typing import Any

from collector.ledger.corrections import SCOPE
from collector.ledger.postgres.link import Db

Row = tuple[Any, ...]


class Table:
    """A table with the same columns on both sides; its key is its first columns.

    Text is ordered by its bytes on both sides, independent of the database's collation.
    """

    def __init__(
        self, name: str, columns: str, *, key_columns: int, text_key: str | None = None
    ) -> None:
        self.name = name
        self._columns = [each.strip() for each in columns.split(",")]
        self._key = self._columns[:key_columns]
        self._ordered = [f'{each} COLLATE "C"' if each == text_key else each for each in self._key]

    def key_of(self, row: Row) -> Row:
        """Return the key of a row."""
        return row[: len(self._key)]

    def page(
        self, source: sqlite3.Connection, after: Sequence[Any] | None, limit: int
    ) -> list[Row]:
        """Read rows of the file after a key."""
        columns, keys = ", ".join(self._columns), ", ".join(self._key)
        marks = ", ".join("?" * len(self._key))
        where = "" if after is None else f"WHERE ({keys}) > ({marks})"
        return source.execute(
            f"SELECT {columns} FROM {self.name} {where} ORDER BY {keys} LIMIT ?",
            (*(after or ()), limit),
        ).fetchall()

    def page_of_target(self, db: Db, after: Sequence[Any] | None, limit: int) -> list[Row]:
        """Read rows of the database after a key."""
        columns, keys = ", ".join(self._columns), ", ".join(self._ordered)
        marks = ", ".join(["%s"] * len(self._key))
        where = "" if after is None else f"WHERE ({keys}) > ({marks})"
        rows = db.execute(
            f"SELECT {columns} FROM {self.name} {where} ORDER BY {keys} LIMIT %s",
            (*(after or ()), limit),
        )
        return rows.fetchall()

    def last_key(self, db: Db) -> Row | None:
        """Return the last key in the database; None if the table is empty."""
        order = ", ".join(f"{each} DESC" for each in self._ordered)
        query = f"SELECT {', '.join(self._key)} FROM {self.name} ORDER BY {order} LIMIT 1"
        return db.execute(query).fetchone()

    def count(self, db: Db) -> int:
        """Return how many rows the database has."""
        row = db.execute(f"SELECT count(*) FROM {self.name}").fetchone()
        return 0 if row is None else int(row[0])

    def insert(self, db: Db, rows: Sequence[Row]) -> None:
        """Copy rows into the database; within a transaction."""
        _copy(db, self.name, self._columns, rows)


class Reports(Table):
    """Reports: the file has their seq; in the database it follows from their group.

    The first column is the seq and the last one `received_at`, which are the group's; those in
    between are the table's.
    """

    def __init__(self) -> None:
        super().__init__(
            "report",
            "seq, report_key, series_id, upload_bytes, download_bytes, billed_bytes, connections, "
            "reported_at, reporter, received_at",
            key_columns=1,
        )

    def page_of_target(self, db: Db, after: Sequence[Any] | None, limit: int) -> list[Row]:
        """Read reports with the seq that follows from their group."""
        seq = 0 if after is None else after[0]
        rows = db.execute(
            "SELECT g.first_seq + r.position AS seq, r.report_key, r.series_id, r.upload_bytes, "
            "r.download_bytes, r.billed_bytes, r.connections, r.reported_at, r.reporter, "
            "g.received_at FROM report_group AS g JOIN report AS r ON r.group_id = g.id "
            "WHERE g.first_seq >= coalesce("
            "(SELECT max(first_seq) FROM report_group WHERE first_seq <= %(next)s), 0) "
            "AND g.first_seq < coalesce((SELECT min(first_seq) FROM report_group "
            "WHERE first_seq > %(next)s), %(next)s) + %(limit)s "
            "AND g.first_seq + r.position >= %(next)s ORDER BY seq LIMIT %(limit)s",
            {"next": seq + 1, "limit": limit},
        )
        return rows.fetchall()

    def last_key(self, db: Db) -> Row | None:
        """Return the last copied seq."""
        row = db.execute("SELECT max(first_seq + reports - 1) FROM report_group").fetchone()
        return None if row is None or row[0] is None else (row[0],)

    def insert(self, db: Db, rows: Sequence[Row]) -> None:
        """Copy reports; those that were received at the same time become one group."""
        groups, members = [], []
        for _, together in itertools.groupby(
            enumerate(rows), key=lambda row: (row[1][-1], row[1][0] - row[0])
        ):
            reports = [row for _, row in together]
            first_seq, received_at = reports[0][0], reports[0][-1]
            counted = [row for row in reports if not row[8].startswith(SCOPE)]
            raw_bytes = sum(row[3] + row[4] for row in counted)
            billed_bytes = sum(row[3] + row[4] if row[5] is None else row[5] for row in counted)
            # Their seqs are far below the ids that collectors derive from the clock.
            groups.append(
                (first_seq, len(reports), raw_bytes, billed_bytes, received_at, first_seq)
            )
            members += [(first_seq, n, *row[1:-1]) for n, row in enumerate(reports)]
        columns = ["id", "reports", "raw_bytes", "billed_bytes", "received_at", "first_seq"]
        _copy(db, "report_group", columns, groups)
        _copy(db, "report", ["group_id", "position", *self._columns[1:-1]], members)


def _copy(db: Db, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    with (
        db.cursor() as cursor,
        cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row(row)


_SUMS = "upload_bytes, download_bytes, billed_bytes"
TABLES: tuple[Table, ...] = (
    Table(
        "series",
        f"id, username, server, port, protocol, {_SUMS}, connections, reports, last_used_at",
        key_columns=1,
    ),
    Table(
        "usage_day",
        f"day, series_id, {_SUMS}, connections, reports, last_used_at, change_seq",
        key_columns=2,
    ),
    Table(
        "user_total",
        f"username, {_SUMS}, reports, last_used_at, change_seq, corrected_upload_bytes, "
        "corrected_download_bytes, corrected_billed_bytes, corrected_seq",
        key_columns=1,
        text_key="username",
    ),
    Table(
        "sender_day",
        "day, sender, raw_bytes, hour, hour_bytes, earlier_hour_bytes",
        key_columns=2,
        text_key="sender",
    ),
    Reports(),
    Table("run", "after_seq, token", key_columns=1),
    Table(
        "correction",
        "id, wanted, asked_at, done_at, problem, position_seq, through_seq, reports, "
        "upload_bytes, download_bytes, billed_bytes",
        key_columns=1,
    ),
    Table(
        "correction_line",
        "seq, correction_id, series_id, voids_seq, position_seq, received_at, upload_bytes, "
        "download_bytes, billed_bytes",
        key_columns=1,
    ),
    Table("imported", f"identity, protocol, {_SUMS.rpartition(',')[0]}", key_columns=2),
)
