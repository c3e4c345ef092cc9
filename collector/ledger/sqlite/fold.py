"""Adds appended reports to the sums of series, days and users (a fold).

A commit that only appends writes a few pages at the end of one table. Adding up each report at once
writes five pages all over the file per report; adding up many reports writes each page once. So a
busy ledger appends first and adds up later. `folded_seq` is the seq up to which all reports are in
the sums.

The reports of a fold are first gathered: added up by series and day in a temporary table, in
memory. Then these sums are added to those of the ledger. Of many, that is done in parts, in the
order of usernames, each in a transaction of its own: all sums of some users. Up to the last part
`meta` has the seq up to which the fold adds up, and the user up to which it has done so; the last
part moves `folded_seq`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from collector.ledger.sql import senders as sql_senders
from collector.ledger.sql.database import SUMS, USER_SUMS, added, later
from collector.ledger.sqlite.database import SqliteDatabase
from collector.ledger.sqlite.unfolded import Folding, SenderHours

MOST_SENDERS = 4096
"""What is stored of more senders is read by one query, in place of one for each."""
SAMPLED_ROWS = 4096
"""By the users of about so many rows the parts of a fold are made equally large."""
_COLUMNS = (
    "upload_bytes, download_bytes, billed_bytes, connections, reports, last_used_at, change_seq"
)
_SUMS_OF_DAY = f"day INTEGER, series_id INTEGER, {_COLUMNS.replace(',', ' INTEGER,')} INTEGER"
_TABLES = (
    f"gathered ({_SUMS_OF_DAY}, PRIMARY KEY (day, series_id)) WITHOUT ROWID",
    f"part ({_SUMS_OF_DAY}, username TEXT)",
)
_GATHER = f"""
    INSERT INTO temp.gathered AS g (day, series_id, {_COLUMNS})
    SELECT reported_at / 86400000, series_id, upload_bytes, download_bytes,
        coalesce(billed_bytes, upload_bytes + download_bytes), connections, 1, reported_at, seq
    FROM report WHERE seq > ? AND seq <= ?
    ON CONFLICT (day, series_id) DO UPDATE SET
        {added("g", "excluded")}, {later("g", "excluded")},
        change_seq = max(g.change_seq, excluded.change_seq)
"""
_OF_USERS = """
    FROM temp.gathered AS g CROSS JOIN series AS s ON s.id = g.series_id
    WHERE (:after_user IS NULL OR s.username > :after_user)
"""
_SAMPLE = f"SELECT s.username {_OF_USERS} AND (g.series_id * 40503 >> 8) % :each = 0 ORDER BY 1"
_CHOOSE = f"""
    INSERT INTO temp.part SELECT g.*, s.username {_OF_USERS}
        AND (:through_user IS NULL OR s.username <= :through_user) ORDER BY g.day, g.series_id
"""
_ARE_OF_ONE_DAY = """
    SELECT (SELECT min(day) FROM temp.gathered) IS (SELECT max(day) FROM temp.gathered)
"""
_OF_DAYS = f"""(
    SELECT series_id, {", ".join(f"sum({each}) AS {each}" for each in SUMS)},
        max(last_used_at) AS last_used_at
    FROM temp.part GROUP BY series_id
)"""
_TO_SERIES = f"""
    UPDATE series SET {added("series", "f")}, {later("series", "f")}
    FROM {{sums}} AS f WHERE series.id = f.series_id
"""
_TO_DAYS = f"""
    INSERT INTO usage_day AS d (day, series_id, {_COLUMNS})
    SELECT day, series_id, {_COLUMNS.removesuffix("change_seq")}coalesce(:after + rowid, change_seq)
    FROM temp.part WHERE true ORDER BY rowid
    ON CONFLICT (day, series_id) DO UPDATE SET
        {added("d", "excluded")}, {later("d", "excluded")}, change_seq = excluded.change_seq
"""
_TO_USERS = f"""
    INSERT INTO user_total AS u (username, {", ".join(USER_SUMS)}, last_used_at, change_seq)
    SELECT username, {", ".join(f"sum({each})" for each in USER_SUMS)}, max(last_used_at),
        max(change_seq)
    FROM temp.part WHERE true GROUP BY username ORDER BY username
    ON CONFLICT (username) DO UPDATE SET
        {added("u", "excluded", USER_SUMS)}, {later("u", "excluded")},
        change_seq = excluded.change_seq
"""
_HEAR = """
    INSERT INTO heard AS h (scope, received_at) VALUES (?, ?)
    ON CONFLICT (scope) DO UPDATE SET received_at = max(h.received_at, excluded.received_at)
"""
_PARTS_THROUGH, _PARTS_USER = "fold_through_seq", "fold_through_user"


class Position(NamedTuple):
    """How far a fold in parts has come."""

    through_seq: int
    """Up to which report it adds up."""
    username: str
    """Up to which user it has done so."""


def add_up(db: sqlite3.Connection, hours: SenderHours, *, after: int, through: int) -> None:
    """Add up the reports after one seq through another, all at once."""
    begin(db)
    gather(db, after=after, through=through)
    add(db)
    finish(db, hours, after=after, through=through)


def prepare(db: sqlite3.Connection) -> None:
    """Make the temporary tables of a writer's connection, where they are not."""
    db.execute("PRAGMA temp.auto_vacuum = FULL")  # or memory that a large fold took is kept
    for table in _TABLES:
        db.execute(f"CREATE TEMP TABLE IF NOT EXISTS {table}")


def came_on_one_day(db: sqlite3.Connection, after: int, through: int) -> bool:
    """Tell whether the reports after one seq through another arrived on the same UTC day."""
    query = """
        SELECT count(DISTINCT received_at / 86400000) FROM report
        WHERE seq IN (?, (SELECT min(seq) FROM report WHERE seq > ?))
    """
    (days,) = db.execute(query, (through, after)).fetchone()
    return bool(days == 1)


def begin(db: sqlite3.Connection) -> None:
    """Have no report gathered."""
    db.execute("DELETE FROM temp.gathered")


def gather(db: sqlite3.Connection, *, after: int, through: int) -> None:
    """Gather the reports after one seq through another."""
    db.execute(_GATHER, (after, through))


def gather_next(db: sqlite3.Connection, folding: Folding, *, through: int) -> None:
    """Gather the next reports of a fold, through a seq."""
    if folding.gathered_through == folding.after:
        begin(db)
    gather(db, after=folding.gathered_through, through=through)


def divide(
    db: sqlite3.Connection, folding: Folding, *, part_rows: int, parts_per_report: float
) -> None:
    """Divide a fold, whose reports are gathered, into parts of about so many rows of sums or more.

    There is one part, and no more than so many others for each report and known series.
    """
    (series,) = db.execute("SELECT coalesce(max(id), 0) FROM series").fetchone()
    rows = rows_left(db, folding.after_user)
    most = 1 + parts_per_report * (folding.through - folding.after) / (series + 1)
    parts = round(min(most, rows / part_rows))
    ends = ends_of_parts(db, parts=parts, rows=rows, after_user=folding.after_user)
    folding.divide(rows=rows, ends=ends)
    if (changes_after := folding.changes_after) is not None:
        # The parts that are done of a fold which a former version began may have these seqs.
        query = "SELECT EXISTS (SELECT 1 FROM usage_day WHERE change_seq > ? AND change_seq <= ?)"
        (are_taken,) = db.execute(query, (changes_after, folding.through)).fetchone()
        folding.orders_changes = not are_taken


def rows_left(db: sqlite3.Connection, after_user: str | None) -> int:
    """Return how many rows of sums are gathered of the users after one, or of all."""
    query = "SELECT count(*) FROM temp.gathered"
    if after_user is not None:
        query = f"SELECT count(*) {_OF_USERS}"
    return int(db.execute(query, {"after_user": after_user}).fetchone()[0])


def ends_of_parts(
    db: sqlite3.Connection, *, parts: int, rows: int, after_user: str | None
) -> Sequence[str]:
    """Return the last user of each part but the last, of about so many equally large ones.

    They are parts of the rows that `rows_left` counts.
    """
    each = max(1, rows // SAMPLED_ROWS)
    sample = db.execute(_SAMPLE, {"after_user": after_user, "each": each}).fetchall()
    if not sample:
        return ()
    ends = {sample[len(sample) * part // parts - 1] for part in range(1, parts)}
    return sorted(name for (name,) in ends.difference(sample[-1:]))


def add(
    db: sqlite3.Connection,
    *,
    after_user: str | None = None,
    through_user: str | None = None,
    changes_after: int | None = None,
) -> int:
    """Add what is gathered of the users after one, and through another, to all of their sums.

    Without the one or the other it is all. With `changes_after` the changes of days have the seqs
    after it, in the order in which days are stored, in place of the seqs of their last reports. See
    decision 0051. Returns how many rows of sums were added.
    """
    db.execute("DELETE FROM temp.part")
    chosen = {"after_user": after_user, "through_user": through_user}
    rows = db.execute(_CHOOSE, chosen).rowcount
    (has_one_row_of_each_series,) = db.execute(_ARE_OF_ONE_DAY).fetchone()
    sums = "temp.part" if has_one_row_of_each_series else _OF_DAYS
    db.execute(_TO_SERIES.format(sums=sums))
    db.execute(_TO_DAYS, {"after": changes_after})
    db.execute(_TO_USERS)
    return rows


def add_next(db: sqlite3.Connection, folding: Folding) -> int:
    """Add the next part of a fold to all of its sums; return how many rows these were.

    Raises sqlite3.IntegrityError if it is in them: what is known of the fold is not what is stored.
    """
    if (folded_seq(db), position(db)) != (folding.after, _position_of(folding)):
        raise sqlite3.IntegrityError("this part of a fold is added up")
    return add(
        db,
        after_user=folding.after_user,
        through_user=folding.next_end,
        changes_after=folding.changes_after,
    )


def finish(db: sqlite3.Connection, hours: SenderHours | None, *, after: int, through: int) -> None:
    """Add to the sums of senders, and have all reports through a seq be in the sums.

    With None for the hours of senders they are read. Nothing stays gathered.
    """
    database = SqliteDatabase(db)
    if hours is None or len(hours.heard) > MOST_SENDERS:
        heard = sql_senders.add(database, after=after, through=through)
    else:
        heard = hours.heard
        sql_senders.add_hours(database, hours.rows())
    db.executemany(_HEAR, sorted(heard.items()))
    for table in ("gathered", "part"):
        db.execute(f"DELETE FROM temp.{table}")
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


def _position_of(folding: Folding) -> Position | None:
    user = folding.after_user
    return None if user is None else Position(folding.through, user)


def note_folded(db: sqlite3.Connection, seq: int) -> None:
    """Store the seq up to which reports are in the sums, in the transaction of the fold."""
    db.execute("UPDATE meta SET value = ? WHERE key = 'folded_seq'", (str(seq),))


def folded_seq(db: sqlite3.Connection) -> int:
    """Return the seq up to which reports are in the sums."""
    row = db.execute("SELECT value FROM meta WHERE key = 'folded_seq'").fetchone()
    return int(row[0])
