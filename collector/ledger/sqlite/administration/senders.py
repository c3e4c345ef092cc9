"""What each sender reported by day, in an SQLite ledger; see `collector.reports.sender_days`."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from collector.ledger.sqlite.sums import sum_of, whole
from collector.reports.report import DAY_MILLIS
from collector.reports.sender_days import (
    HOUR_MILLIS,
    KEPT_DAYS,
    LATE_DAYS,
    PAST_DAYS,
    HourBytes,
    SenderBytes,
    SenderDay,
    day_of,
    grown,
    in_hour,
    user_of,
)
from collector.reports.server_bounds import Place
from collector.reports.spikes import BusyHour

_HOURS = f"""
    SELECT reporter, received_at / {HOUR_MILLIS} AS hour, {sum_of("upload_bytes + download_bytes")}
    FROM report WHERE seq > :after AND seq <= :through
"""
_COLUMNS = "day, sender, raw_bytes, hour, hour_bytes, earlier_hour_bytes"
_ROW = f"SELECT {_COLUMNS} FROM sender_day WHERE day = ? AND sender = ?"
_LARGEST = "max(hour_bytes, earlier_hour_bytes)"
_MOST_SEQ = 2**62
# A user's few rows are looked up day by day; the report that changed a row last says when that was.
_PLACES_OF_USER = """
    WITH RECURSIVE listed (day) AS (
        SELECT :first_day UNION ALL SELECT day + 1 FROM listed WHERE day <= :day
    )
    SELECT DISTINCT s.server, s.port, s.protocol
    FROM series AS s CROSS JOIN listed CROSS JOIN usage_day AS u
    JOIN report AS r ON r.seq = u.change_seq
    WHERE s.username = :username AND u.day = listed.day AND u.series_id = s.id
        AND r.received_at >= :since
"""
_PLACES_OF_KEY = """
    SELECT DISTINCT s.server, s.port, s.protocol FROM report AS r
    JOIN series AS s ON s.id = r.series_id
    WHERE r.seq >= :first_seq AND r.reporter = :sender AND r.received_at >= :since
"""


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


def places_of(db: sqlite3.Connection, sender: str, *, day: int) -> list[Place]:
    """Return the servers, ports and protocols that a sender named on a day, by when it arrived.

    Of a user without a key: those that were reported for that user, whoever reported them.
    """
    since = day * DAY_MILLIS
    username = user_of(sender)
    if username is not None:
        bounds = {"username": username, "first_day": day - LATE_DAYS, "day": day, "since": since}
        return list(db.execute(_PLACES_OF_USER, bounds))
    first_seq = _first_seq_since(db, since)
    bounds = {"first_seq": first_seq, "sender": sender, "since": since}
    return list(db.execute(_PLACES_OF_KEY, bounds))


def busy_hours(
    db: sqlite3.Connection, *, days: Sequence[int], above_bytes: int, limit: int
) -> list[BusyHour]:
    """Return the senders with a large hour on some days, with the largest of the days before."""
    marks = ",".join("?" * PAST_DAYS)
    past = (
        f"SELECT coalesce(max({_LARGEST}), 0) FROM sender_day WHERE day IN ({marks}) AND sender = ?"
    )
    found: list[BusyHour] = []
    for day in days:
        rows = db.execute(
            f"SELECT sender, {_LARGEST} FROM sender_day WHERE day = ? AND {_LARGEST} > ? "
            "ORDER BY 2 DESC, 1 LIMIT ?",
            (day, above_bytes, limit),
        ).fetchall()
        before = range(day - PAST_DAYS, day)
        found += [
            BusyHour(sender, day, largest, db.execute(past, (*before, sender)).fetchone()[0])
            for sender, largest in rows
        ]
    return found


def _first_seq_since(db: sqlite3.Connection, millis: int) -> int:
    """Return where reports begin that arrived since a moment; they are in that order."""
    first, last = db.execute(
        "SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM report"
    ).fetchone()
    query = "SELECT seq, received_at FROM report WHERE seq >= ? ORDER BY seq LIMIT 1"
    while first < last:
        middle = (first + last) // 2
        seq, received_at = db.execute(query, (middle,)).fetchone()
        if received_at >= millis:
            last = middle
        else:
            first = seq + 1
    return int(first)


def _row(db: sqlite3.Connection, day: int, sender: str) -> SenderDay | None:
    row = db.execute(_ROW, (day, sender)).fetchone()
    return None if row is None else SenderDay(*row)
