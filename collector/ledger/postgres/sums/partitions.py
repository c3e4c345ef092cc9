"""Adds up the numbered reports of a PostgreSQL ledger, each partition of users by itself.

A collector assigns each user's reports to a partition when it stores them. Adding up locks the row
of one partition, takes the reports numbered after that row's seq, adds them to the sums of series,
days and users, and moves the seq, in one transaction. So a report is added up once, whichever
collectors add up and however often; that each partition is another collector's only spreads the
work.

The sums go up to the *head*: the number before the first one that is not added up in its partition.
A partition may be ahead of the head. A user's change_seq is then above it, and readers leave the
user out until the head gets there.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from collector.ledger.postgres.link import Db
from collector.ledger.postgres.sums.numbering import numbered_seq
from collector.ledger.sql.database import USER_SUMS, added, later

ADDED_REPORTS = 50_000
"""About how many reports one commit adds up."""
IDLE_SEQS = 1000
"""A partition without reports is moved on once it is so many numbers behind, so that looking for
its next report takes no time."""
_GROUPS = 5000

_NUMBERED = """
    SELECT r.*, g.first_seq + r.position AS seq
    FROM report_group AS g JOIN report AS r ON r.group_id = g.id
    WHERE g.first_seq > %(after)s AND g.first_seq <= %(through)s AND g.part = %(part)s
"""
_SUMS = """
    sum(upload_bytes)::bigint AS upload_bytes, sum(download_bytes)::bigint AS download_bytes,
    sum(coalesce(billed_bytes, upload_bytes + download_bytes))::bigint AS billed_bytes,
    sum(connections)::bigint AS connections, count(*) AS reports,
    max(reported_at) AS last_used_at, max(seq) AS change_seq
"""
# While collectors disagree about the number of partitions, two partitions may have reports of a
# user.
_ADD_TO_DAYS = f"""
    INSERT INTO usage_day AS d (day, series_id, upload_bytes, download_bytes, billed_bytes,
        connections, reports, last_used_at, change_seq)
    SELECT (reported_at / 86400000)::int AS day, series_id, {_SUMS}
    FROM ({_NUMBERED}) AS numbered GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (day, series_id) DO UPDATE SET
        {added("d", "excluded")}, {later("d", "excluded")},
        change_seq = greatest(d.change_seq, excluded.change_seq)
"""
_ADD_TO_SERIES = f"""
    UPDATE series SET {added("series", "f")}, {later("series", "f")}
    FROM (
        SELECT series_id, {_SUMS} FROM ({_NUMBERED}) AS numbered GROUP BY series_id
    ) AS f WHERE series.id = f.series_id
"""
_ADD_TO_USERS = f"""
    INSERT INTO user_total AS u (username, upload_bytes, download_bytes, billed_bytes, reports,
        last_used_at, change_seq)
    SELECT s.username, sum(f.upload_bytes)::bigint, sum(f.download_bytes)::bigint,
        sum(f.billed_bytes)::bigint, sum(f.reports)::bigint, max(f.last_used_at),
        max(f.change_seq)
    FROM (
        SELECT series_id, {_SUMS} FROM ({_NUMBERED}) AS numbered GROUP BY series_id
    ) AS f JOIN series AS s ON s.id = f.series_id GROUP BY s.username ORDER BY s.username
    ON CONFLICT (username) DO UPDATE SET
        {added("u", "excluded", USER_SUMS)}, {later("u", "excluded")},
        change_seq = greatest(u.change_seq, excluded.change_seq)
"""
# A row for each partition, with the first number that is not added up in it.
FIRSTS = """
    sum_partition AS p LEFT JOIN LATERAL (
        SELECT g.first_seq FROM report_group AS g WHERE g.part = p.part AND g.first_seq > p.seq
        ORDER BY g.first_seq LIMIT 1
    ) AS x ON true
"""
_POSITIONS = f"""
    SELECT p.part, x.first_seq, n.seq FROM numbering AS n LEFT JOIN ({FIRSTS}) ON true
    WHERE n.id = 1
"""


class Positions(NamedTuple):
    """How far numbering and the partitions are, as of one moment."""

    numbered: int
    head: int
    """Up to where all reports are in the sums."""
    parts: Sequence[int]
    """All partitions."""
    behind: Mapping[int, int]
    """Those with numbered reports that are not added up, with the first number of these."""


def part_of(username: str, parts: int) -> int:
    """Return the partition of a user, of so many."""
    return zlib.crc32(username.encode()) % parts if parts > 1 else 0


def positions(db: Db) -> Positions:
    """Return how far the partitions are."""
    rows = db.execute(_POSITIONS).fetchall()
    return positions_of([row[:2] for row in rows], numbered=rows[0][2] if rows else 0)


def positions_of(firsts: Sequence[tuple[int | None, int | None]], *, numbered: int) -> Positions:
    """Return how far the partitions are, given a row of `FIRSTS` for each, if there are any."""
    parts = sorted(part for part, _ in firsts if part is not None)
    behind = {part: first for part, first in firsts if part is not None and first is not None}
    head = min(behind.values(), default=numbered + 1) - 1
    return Positions(numbered, head, parts, {part: behind[part] for part in sorted(behind)})


def add_up(db: Db, part: int, *, waits: bool, limit: int = ADDED_REPORTS) -> int:
    """Add up about `limit` numbered reports of a partition; within a transaction.

    Returns how many. If another process adds up the same partition now, nothing is done, or with
    `waits` this waits for it.
    """
    lock = "FOR UPDATE" if waits else "FOR UPDATE SKIP LOCKED"
    row = db.execute(f"SELECT seq FROM sum_partition WHERE part = %s {lock}", (part,)).fetchone()
    if row is None:
        return 0
    after, numbered = int(row[0]), numbered_seq(db)  # read before the groups, which may be newer
    groups = db.execute(
        "SELECT first_seq, reports, raw_bytes, billed_bytes FROM report_group "
        "WHERE part = %s AND first_seq > %s ORDER BY first_seq LIMIT %s",
        (part, after, _GROUPS),
    ).fetchall()
    if not groups:
        if numbered - after > IDLE_SEQS:
            db.execute("UPDATE sum_partition SET seq = %s WHERE part = %s", (numbered, part))
        return 0
    through, reports, raw_bytes, billed_bytes = after, 0, 0, 0
    for first, size, raw, billed in groups:
        if reports >= limit:
            break
        through, reports = first + size - 1, reports + size
        raw_bytes, billed_bytes = raw_bytes + raw, billed_bytes + billed
    bounds = {"after": after, "through": through, "part": part}
    for statement in (_ADD_TO_DAYS, _ADD_TO_SERIES, _ADD_TO_USERS):
        db.execute(statement, bounds)
    db.execute(
        "UPDATE sum_partition SET seq = %s, reports = reports + %s, raw_bytes = raw_bytes + %s, "
        "billed_bytes = billed_bytes + %s WHERE part = %s",
        (through, reports, raw_bytes, billed_bytes, part),
    )
    return reports


def settle(db: Db) -> int:
    """Add up whatever is numbered, and exclude further adding up until the transaction ends.

    Returns the last number that was given out, which is also the head then. Only for a transaction
    during which nothing is numbered.
    """
    rows = db.execute("SELECT part FROM sum_partition ORDER BY part FOR UPDATE").fetchall()
    for (part,) in rows:
        while add_up(db, part, waits=True):
            pass
    return numbered_seq(db)


def move_all(db: Db, seq: int) -> None:
    """Set all partitions to a number, after `settle`, since everything up to it is in the sums."""
    db.execute("UPDATE sum_partition SET seq = %s", (seq,))


def not_added_up(db: Db) -> list[int]:
    """Return committed groups that are not in the sums yet, at most some thousand."""
    rows = db.execute("SELECT id FROM report_group WHERE first_seq IS NULL LIMIT 10000").fetchall()
    for part, seq in db.execute("SELECT part, seq FROM sum_partition").fetchall():
        rows += db.execute(
            "SELECT id FROM report_group WHERE part = %s AND first_seq > %s LIMIT 10000",
            (part, seq),
        ).fetchall()
    return [row[0] for row in rows]


def is_any_left(db: Db, ids: Sequence[int]) -> bool:
    """Tell whether one of these groups is not in the sums yet."""
    query = (
        "SELECT 1 FROM report_group AS g LEFT JOIN sum_partition AS p ON p.part = g.part "
        "WHERE g.id = ANY(%s) AND (g.first_seq IS NULL OR g.first_seq > p.seq) LIMIT 1"
    )
    return db.execute(query, (list(ids),)).fetchone() is not None
