"""Sums over many users in SQLite, which ends a sum beyond 2^63 with an error.

One user's total stays within MAX_AMOUNT_BYTES; the sum over users has no such bound. So the upper
and the lower halves of the numbers are summed apart, and put together in Python.
"""

from __future__ import annotations

import sqlite3

from collector.ledger.capacity import NEARLY_FULL_BYTES, Amounts


def sum_of(column: str) -> str:
    """Return the SQL for the sum of a column, to be read with `whole`; 0 of no rows."""
    return f"printf('%d:%d', sum(({column}) >> 32), sum(({column}) & 4294967295))"


def whole(text: str) -> int:
    """Return the sum that a query with `sum_of` answered."""
    high, _, low = text.partition(":")
    return (int(high) << 32) + int(low)


_UNFOLDED = """
    SELECT s.username, sum(r.upload_bytes + r.download_bytes) AS raw,
        sum(coalesce(r.billed_bytes, r.upload_bytes + r.download_bytes)) AS billed
    FROM report AS r JOIN series AS s ON s.id = r.series_id WHERE r.seq > :folded
"""
_PERHAPS_NEARLY_FULL = f"""
    SELECT username FROM user_total
    WHERE upload_bytes + download_bytes > :half OR billed_bytes > :half
    UNION SELECT username FROM ({_UNFOLDED} GROUP BY s.username) WHERE raw > :half OR billed > :half
"""
_TOTAL = f"""
    SELECT coalesce(sum(raw), 0), coalesce(sum(billed), 0) FROM (
        SELECT upload_bytes + download_bytes AS raw, billed_bytes AS billed FROM user_total
        WHERE username = :name
        UNION ALL SELECT raw, billed FROM ({_UNFOLDED} AND s.username = :name)
    )
"""


def nearly_full(db: sqlite3.Connection, *, folded_seq: int) -> dict[str, Amounts]:
    """Return the users whose totals, with what is in no sum yet, are nearly full."""
    half = {"folded": folded_seq, "half": NEARLY_FULL_BYTES // 2}
    names = [row[0] for row in db.execute(_PERHAPS_NEARLY_FULL, half)]
    totals = {name: total_of(db, name, folded_seq=folded_seq) for name in names}
    return {name: total for name, total in totals.items() if total.is_nearly_full}


def total_of(db: sqlite3.Connection, username: str, *, folded_seq: int) -> Amounts:
    """Return a user's total, with what is in no sum yet."""
    row = db.execute(_TOTAL, {"folded": folded_seq, "name": username}).fetchone()
    return Amounts(*row)
