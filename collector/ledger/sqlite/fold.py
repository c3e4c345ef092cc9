"""Adds appended reports to the sums of series, days and users (a fold).

A commit that only appends writes a few pages at the end of one table. Adding up each report at once
writes five pages all over the file per report; adding up many reports writes each page once. So a
busy ledger appends first and adds up later. `folded_seq` is the seq up to which reports are in the
sums; it moves in the transaction that adds them up.
"""

from __future__ import annotations

import sqlite3

from collector.ledger.sql import senders as sql_senders
from collector.ledger.sql.database import USER_SUMS, added, later
from collector.ledger.sqlite import key_index, rows
from collector.ledger.sqlite.database import SqliteDatabase
from collector.ledger.sqlite.unfolded import Sums

MOST_SENDERS = 256
"""What is stored of more senders is read by one query, in place of one for each."""
_FOLDING = """
    CREATE TEMP TABLE IF NOT EXISTS folding (
        day INTEGER, series_id INTEGER, upload_bytes INTEGER, download_bytes INTEGER,
        billed_bytes INTEGER, connections INTEGER, reports INTEGER, last_used_at INTEGER,
        change_seq INTEGER
    )
"""
_GATHER = """
    INSERT INTO temp.folding
    SELECT reported_at / 86400000 AS day, series_id, sum(upload_bytes), sum(download_bytes),
        sum(coalesce(billed_bytes, upload_bytes + download_bytes)),
        sum(connections), count(*), max(reported_at), max(seq)
    FROM report WHERE seq > ? AND seq <= ? GROUP BY day, series_id
"""
_ADD_TO_SERIES = f"""
    UPDATE series SET {added("series", "f")}, {later("series", "f")}
    FROM (
        SELECT series_id, sum(upload_bytes) AS upload_bytes, sum(download_bytes) AS download_bytes,
            sum(billed_bytes) AS billed_bytes,
            sum(connections) AS connections, sum(reports) AS reports,
            max(last_used_at) AS last_used_at
        FROM temp.folding GROUP BY series_id
    ) AS f WHERE series.id = f.series_id
"""
_ADD_TO_DAYS = f"""
    INSERT INTO usage_day AS d (day, series_id, upload_bytes, download_bytes, billed_bytes,
        connections, reports, last_used_at, change_seq)
    SELECT * FROM temp.folding WHERE true ORDER BY day, series_id
    ON CONFLICT (day, series_id) DO UPDATE SET
        {added("d", "excluded")}, {later("d", "excluded")},
        change_seq = excluded.change_seq
"""
_ADD_TO_USERS = f"""
    INSERT INTO user_total AS u (username, upload_bytes, download_bytes, billed_bytes, reports,
        last_used_at, change_seq)
    SELECT s.username, sum(f.upload_bytes), sum(f.download_bytes), sum(f.billed_bytes),
        sum(f.reports), max(f.last_used_at), max(f.change_seq)
    FROM temp.folding AS f JOIN series AS s ON s.id = f.series_id
    WHERE true GROUP BY s.username ORDER BY s.username
    ON CONFLICT (username) DO UPDATE SET
        {added("u", "excluded", USER_SUMS)}, {later("u", "excluded")},
        change_seq = excluded.change_seq
"""
_HEAR = """
    INSERT INTO heard AS h (scope, received_at) VALUES (?, ?)
    ON CONFLICT (scope) DO UPDATE SET received_at = max(h.received_at, excluded.received_at)
"""


def fold(db: sqlite3.Connection, *, after: int, through: int) -> None:
    """Add up and index the reports after one seq through another, within a transaction."""
    prepare(db, None, after=after, through=through)
    add_prepared(db, None, after=after, through=through)
    key_index.index(db, after=after, through=through)


def prepare(db: sqlite3.Connection, sums: Sums | None, *, after: int, through: int) -> None:
    """Write the sums of the reports after one seq through another into a temporary table.

    With None for the sums they are read. Nothing of the ledger is changed.
    """
    db.execute(_FOLDING)
    db.execute("DELETE FROM temp.folding")
    if sums is None:
        db.execute(_GATHER, (after, through))
    else:
        rows.insert(db, "INSERT INTO temp.folding", sums.rows())


def add_prepared(db: sqlite3.Connection, sums: Sums | None, *, after: int, through: int) -> None:
    """Add what `prepare` wrote, within a transaction."""
    for statement in (_ADD_TO_SERIES, _ADD_TO_DAYS, _ADD_TO_USERS):
        db.execute(statement)
    database = SqliteDatabase(db)
    if sums is None or len(sums.heard) > MOST_SENDERS:
        heard = sql_senders.add(database, after=after, through=through)
    else:
        heard = sums.heard
        sql_senders.add_hours(database, sums.hours())
    db.executemany(_HEAR, sorted(heard.items()))
    note_folded(db, through)


def note_folded(db: sqlite3.Connection, seq: int) -> None:
    """Store the seq up to which reports are in the sums, in the transaction of the fold."""
    db.execute("UPDATE meta SET value = ? WHERE key = 'folded_seq'", (str(seq),))


def folded_seq(db: sqlite3.Connection) -> int:
    """Return the seq up to which reports are in the sums."""
    row = db.execute("SELECT value FROM meta WHERE key = 'folded_seq'").fetchone()
    return int(row[0])
