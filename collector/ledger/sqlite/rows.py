"""Runs statements on many rows by few calls: of a call for each row, most is the call's own."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from itertools import chain

MOST_ROWS = 512
"""Of one statement; further ones have half as many, and so on, so that few are prepared."""


def with_values(
    db: sqlite3.Connection, before: str, rows: Sequence[Sequence[object]], after: str = ""
) -> None:
    """Run a statement with rows, all of the same length, in their order.

    `before` and `after` are what it has around its `VALUES`, as `INSERT INTO series (id)`.
    """
    for start, count in _parts(len(rows)):
        part = rows[start : start + count]
        text = _with_values(before, after, columns=len(part[0]), rows=count)
        db.execute(text, list(chain.from_iterable(part)))


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
def _with_values(before: str, after: str, *, columns: int, rows: int) -> str:
    return f"{before} VALUES {_marks(columns, rows)}{after}"


@functools.lru_cache
def _insert_columns(into: str, *, columns: int, same: int, rows: int) -> str:
    chosen = [f"column{number}" for number in range(1, columns + 1)] + ["?"] * same
    return f"{into} SELECT {', '.join(chosen)} FROM (VALUES {_marks(columns, rows)})"


def _marks(columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * rows)
