"""What each sender reported by day, in an SQLite ledger; see `collector.sender_days`."""

from __future__ import annotations

import sqlite3

from collector.ledger.sqlite_sums import sum_of, whole
from collector.sender_days import (
    HOUR_MILLIS,
    KEPT_DAYS,
    HourBytes,
    SenderBytes,
    SenderDay,
    day_of,
    grown,
    in_hour,
)

_HOURS = f"""
    SELECT reporter, received_at / {HOUR_MILLIS} AS hour, {sum_of("upload_bytes + download_bytes")}
    FROM report WHERE seq > :after AND seq <= :through
"""
_COLUMNS = "day, sender, raw_bytes, hour, hour_bytes, earlier_hour_bytes"
_ROW = f"SELECT {_COLUMNS} FROM sender_day WHERE day = ? AND sender = ?"
_MOST_SEQ = 2**62


def add(db: sqlite3.Connection, *, after: int, through: int) -> None:
    """Add up the reports after one seq through another; within the caller's transaction."""
    rows = db.execute(f"{_HOURS} GROUP BY 1, 2", {"after": after, "through": through})
    hours = [HourBytes(sender, hour, whole(amount)) for sender, hour, amount in rows]
    keys = {(day_of(each.hour), each.sender) for each in hours}
    known = {key: row for key in keys if (row := _row(db, *key)) is not None}
    changed = grown(known, hours)
    db.executemany(
        f"INSERT OR REPLACE INTO sender_day ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", changed
    )
    if len(known) < len(changed):
        newest = max(each.day for each in changed)
        db.execute("DELETE FROM sender_day WHERE day <= ?", (newest - KEPT_DAYS,))


def bytes_of(db: sqlite3.Connection, sender: str, *, hour: int, folded_seq: int) -> SenderBytes:
    """Return what a sender reported in an hour and its day, with what is in no sum yet."""
    rows = db.execute(
        f"{_HOURS} AND reporter = :sender GROUP BY 2",
        {"after": folded_seq, "through": _MOST_SEQ, "sender": sender},
    )
    unfolded = [HourBytes(name, of_hour, whole(amount)) for name, of_hour, amount in rows]
    return in_hour(_row(db, day_of(hour), sender), unfolded, hour=hour)


def _row(db: sqlite3.Connection, day: int, sender: str) -> SenderDay | None:
    row = db.execute(_ROW, (day, sender)).fetchone()
    return None if row is None else SenderDay(*row)
