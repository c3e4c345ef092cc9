"""Adds appended reports to the sums of series, days and users (a fold).

A commit that only appends writes a few pages at the end of one table. Adding up each report at once
writes five pages all over the file per report; adding up many reports writes each page once. So a
busy ledger appends first and adds up later. `folded_seq` is the seq up to which all reports are in
the sums.

A fold of many sums is carried out in parts, in the order of usernames, each in a transaction of its
own: all sums of some users. Up to the last part `meta` has the seq up to which the fold adds up,
and the user up to which it has done so; the last part moves `folded_seq`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from collector.ledger.sql import senders as sql_senders
from collector.ledger.sql.database import SUMS, USER_SUMS, added, later
from collector.ledger.sqlite import rows
from collector.ledger.sqlite.database import SqliteDatabase
from collector.ledger.sqlite.unfolded import SumRow, Sums

MOST_SENDERS = 4096
"""What is stored of more senders is read by one query, in place of one for each."""
_COLUMNS = (
    "upload_bytes, download_bytes, billed_bytes, connections, reports, last_used_at, change_seq"
)
_GATHER = """
    SELECT s.username, r.reported_at / 86400000 AS day, r.series_id, sum(r.upload_bytes),
        sum(r.download_bytes), sum(coalesce(r.billed_bytes, r.upload_bytes + r.download_bytes)),
        sum(r.connections), count(*), max(r.reported_at), max(r.seq)
    FROM report AS r JOIN series AS s ON s.id = r.series_id
    WHERE r.seq > ? AND r.seq <= ? AND s.username > ? GROUP BY 1, 2, 3 ORDER BY 1
"""
_ADDED = f"""
    CREATE TEMP TABLE IF NOT EXISTS added (
        username TEXT, day INTEGER, series_id INTEGER, {_COLUMNS.replace(",", " INTEGER,")} INTEGER
    )
"""
_TO_SERIES = f"""
    UPDATE series SET {added("series", "f")}, {later("series", "f")}
    FROM (
        SELECT series_id, {", ".join(f"sum({each}) AS {each}" for each in SUMS)},
            max(last_used_at) AS last_used_at
        FROM temp.added GROUP BY series_id
    ) AS f WHERE series.id = f.series_id
"""
_TO_DAYS = f"""
    INSERT INTO usage_day AS d (day, series_id, {_COLUMNS})
    SELECT day, series_id, {_COLUMNS.removesuffix("change_seq")}coalesce(:after + rowid, change_seq)
    FROM temp.added WHERE true ORDER BY rowid
    ON CONFLICT (day, series_id) DO UPDATE SET
        {added("d", "excluded")}, {later("d", "excluded")}, change_seq = excluded.change_seq
"""
_TO_USERS = f"""
    INSERT INTO user_total AS u (username, {", ".join(USER_SUMS)}, last_used_at, change_seq)
    SELECT username, {", ".join(f"sum({each})" for each in USER_SUMS)}, max(last_used_at),
        max(change_seq)
    FROM temp.added WHERE true GROUP BY username ORDER BY username
    ON CONFLICT (username) DO UPDATE SET
        {added("u", "excluded", USER_SUMS)}, {later("u", "excluded")},
        change_seq = excluded.change_seq
"""
_HEAR = """
    INSERT INTO heard AS h (scope, received_at) VALUES (?, ?)
    ON CONFLICT (scope) DO UPDATE SET received_at = max(h.received_at, excluded.received_at)
"""
_DAY, _SERIES = itemgetter(1), itemgetter(2)
_PARTS_THROUGH, _PARTS_USER = "fold_through_seq", "fold_through_user"


class Position(NamedTuple):
    """How far a fold in parts has come."""

    through_seq: int
    """Up to which report it adds up."""
    username: str
    """Up to which user it has done so."""


def add_up(db: sqlite3.Connection, sums: Sums, *, after: int, through: int) -> None:
    """Add up the reports after one seq through another, of which these are the sums."""
    add(db, sums.rows())
    finish(db, sums, after=after, through=through)


def came_on_one_day(db: sqlite3.Connection, after: int, through: int) -> bool:
    """Tell whether the reports after one seq through another arrived on the same UTC day."""
    query = """
        SELECT count(DISTINCT received_at / 86400000) FROM report
        WHERE seq IN (?, (SELECT min(seq) FROM report WHERE seq > ?))
    """
    (days,) = db.execute(query, (through, after)).fetchone()
    return bool(days == 1)


def gather(
    db: sqlite3.Connection, *, after: int, through: int, after_user: str = ""
) -> Sequence[SumRow]:
    """Return what `Sums.rows` would for the reports after one seq through another.

    Those of users up to `after_user` are left out.
    """
    return db.execute(_GATHER, (after, through, after_user)).fetchall()


def add(
    db: sqlite3.Connection, added_rows: Sequence[SumRow], *, changes_after: int | None = None
) -> None:
    """Add sums to those of their series, days and users; nothing is left out of a user's.

    With `changes_after` the changes of days have the seqs after it, in the order in which days are
    stored, in place of the seqs of their last reports. See decision 0051.
    """
    db.execute(_ADDED)
    db.execute("DELETE FROM temp.added")
    in_order = sorted(sorted(added_rows, key=_SERIES), key=_DAY)
    rows.with_values(db, "INSERT INTO temp.added", in_order)
    db.execute(_TO_SERIES)
    db.execute(_TO_DAYS, {"after": changes_after})
    db.execute(_TO_USERS)


def finish(db: sqlite3.Connection, sums: Sums | None, *, after: int, through: int) -> None:
    """Add to the sums of senders, and have all reports through a seq be in the sums.

    With None for the sums they are read.
    """
    database = SqliteDatabase(db)
    if sums is None or len(sums.heard) > MOST_SENDERS:
        heard = sql_senders.add(database, after=after, through=through)
    else:
        heard = sums.heard
        sql_senders.add_hours(database, sums.hours())
    db.executemany(_HEAR, sorted(heard.items()))
    note_folded(db, through)
    db.execute("DELETE FROM meta WHERE key IN (?, ?)", (_PARTS_THROUGH, _PARTS_USER))


def note_position(db: sqlite3.Connection, position: Position) -> None:
    """Store how far a fold in parts has come, in the transaction of the part."""
    db.executemany(
        "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)",
        [(_PARTS_THROUGH, str(position.through_seq)), (_PARTS_USER, position.username)],
    )


def position(db: sqlite3.Connection) -> Position | None:
    """Return how far a fold in parts has come; None where there is none under way."""
    found = dict(
        db.execute("SELECT key, value FROM meta WHERE key IN (?, ?)", (_PARTS_THROUGH, _PARTS_USER))
    )
    return Position(int(found[_PARTS_THROUGH]), found[_PARTS_USER]) if found else None


def note_folded(db: sqlite3.Connection, seq: int) -> None:
    """Store the seq up to which reports are in the sums, in the transaction of the fold."""
    db.execute("UPDATE meta SET value = ? WHERE key = 'folded_seq'", (str(seq),))


def folded_seq(db: sqlite3.Connection) -> int:
    """Return the seq up to which reports are in the sums."""
    row = db.execute("SELECT value FROM meta WHERE key = 'folded_seq'").fetchone()
    return int(row[0])
