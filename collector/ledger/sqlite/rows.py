"""Stores many rows by few calls: of a call for each row, most of the time is the call's own.

The reports of one commit are kept by columns for that: most of what is done with them is done by
column.
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from collector.ledger.corrections import SCOPE, Correction, Line

MOST_ROWS = 512
"""Of one statement; further ones have half as many, and so on, so that few are prepared."""


_PLAIN = (
    "INSERT INTO report (report_key, series_id, upload_bytes, download_bytes, connections, "
    "reported_at, received_at, reporter)"
)
_ANY = (
    "INSERT INTO report (report_key, series_id, upload_bytes, download_bytes, connections, "
    "reported_at, billed_bytes, reporter, received_at)"
)


class ReportColumns(NamedTuple):
    """Reports that are stored together, in the order of their seqs; columns are equally long."""

    keys: Sequence[bytes | None] = ()
    series_ids: Sequence[int] = ()
    upload_bytes: Sequence[int] = ()
    download_bytes: Sequence[int] = ()
    connections: Sequence[int] = ()
    reported_at: Sequence[int] = ()
    billed_bytes: Sequence[int | None] = ()
    """None where they are the raw bytes."""
    reporters: Sequence[str] = ()

    @property
    def size(self) -> int:
        """How many reports."""
        return len(self.keys)

    @property
    def are_billed_as_reported(self) -> bool:
        """Whether the billed bytes of all are the raw ones."""
        return self.billed_bytes.count(None) == self.size


def append(
    db: sqlite3.Connection, columns: ReportColumns, *, after_seq: int, received_at_millis: int
) -> None:
    """Store reports, which get the seqs after one; raises sqlite3.IntegrityError if they do not."""
    if not columns.size:
        return
    reporter = columns.reporters[0]
    if columns.are_billed_as_reported and columns.reporters.count(reporter) == columns.size:
        same: Sequence[object] = received_at_millis, reporter
        insert_columns(db, _PLAIN, columns[:6], same=same)
    else:
        insert_columns(db, _ANY, columns[:8], same=[received_at_millis])
    (last_seq,) = db.execute("SELECT last_insert_rowid()").fetchone()
    if last_seq != after_seq + columns.size:
        expected_seq = after_seq + columns.size
        raise sqlite3.IntegrityError(f"the last report has seq {last_seq}, not {expected_seq}")


def append_lines(
    db: sqlite3.Connection,
    correction: Correction,
    lines: Sequence[Line],
    *,
    after_seq: int,
    received_at_millis: int,
) -> None:
    """Store the rows of a correction's lines, as `append` does."""
    appended = [
        (
            *(None, it.series_id, it.upload_bytes, it.download_bytes, it.connections),
            *(it.reported_at, it.billed_bytes, f"{SCOPE}{correction.number}"),
        )
        for it in lines
    ]
    columns = ReportColumns(*zip(*appended, strict=True))
    append(db, columns, after_seq=after_seq, received_at_millis=received_at_millis)


def insert_columns(
    db: sqlite3.Connection,
    into: str,
    columns: Sequence[Sequence[object]],
    *,
    same: Sequence[object],
) -> None:
    """Insert rows that are given by their columns, which are equally long, in their order.

    `into` is the beginning of the statement, as `INSERT INTO report (report_key, reporter)`. Its
    last columns have a value that is the same in all rows, and is sent once for each statement.
    """
    width = len(columns)
    values: list[object] = [None] * (width * len(columns[0]))
    for place, column in enumerate(columns):
        values[place::width] = column
    for start, count in _parts(len(columns[0])):
        text = _insert_columns(into, columns=width, same=len(same), rows=count)
        db.execute(text, [*same, *values[start * width : (start + count) * width]])


def _parts(rows: int) -> Sequence[tuple[int, int]]:
    """Return where the rows of each statement begin, and how many they are."""
    parts = []
    start, most = 0, MOST_ROWS
    while start < rows:
        while most > rows - start:
            most //= 2
        parts.append((start, most))
        start += most
    return parts


@functools.lru_cache
def _insert_columns(into: str, *, columns: int, same: int, rows: int) -> str:
    chosen = [f"column{number}" for number in range(1, columns + 1)] + ["?"] * same
    row = f"({', '.join('?' * columns)})"
    return f"{into} SELECT {', '.join(chosen)} FROM (VALUES {', '.join([row] * rows)})"
