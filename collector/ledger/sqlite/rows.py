"""Inserts many rows by few calls: of a call for each row, most of the time is the call's own."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Sequence
from itertools import chain

MOST_ROWS = 256
"""Of one statement; further ones have half as many, and so on, so that few are prepared."""


def insert(db: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Insert rows, all of the same length, in their order.

    `into` is the beginning of the statement, as `INSERT INTO report (seq, report_key)`.
    """
    start, most = 0, MOST_ROWS
    while start < len(rows):
        while most > len(rows) - start:
            most //= 2
        part = rows[start : start + most]
        text = _statement(into, columns=len(part[0]), rows=most)
        db.execute(text, tuple(chain.from_iterable(part)))
        start += most


@functools.lru_cache
def _statement(into: str, *, columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{into} VALUES {', '.join([row] * rows)}"
