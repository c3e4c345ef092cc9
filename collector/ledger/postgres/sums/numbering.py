"""Numbers the reports of a PostgreSQL ledger, in commits of the leader.

Collectors append groups of reports, whose commits may be visible in any order. A report has no
number (seq) until the leader gives its committed group the numbers after all earlier ones. Numbers
have one order for the whole ledger, and a group is numbered whole: so a transaction that sees one
number sees all lower ones.

A numbered report is added up later, in its partition: see `partitions`. The sums of senders, which
users of all partitions have in common, are added up here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from collector.ledger.postgres.database import PostgresDatabase
from collector.ledger.postgres.link import Db
from collector.ledger.sql import senders as sql_senders

NUMBERED_REPORTS = 50_000
"""About how many reports one commit numbers."""
MAX_RUNS = 1000
_GROUPS = 20_000

_HEAR = """
    INSERT INTO heard AS h (scope, received_at)
    SELECT * FROM unnest(%s::text[], %s::bigint[])
    ON CONFLICT (scope) DO UPDATE SET received_at = greatest(h.received_at, excluded.received_at)
"""
# A partition begins with the first group that is numbered for it. Those that exist are left out:
# ON CONFLICT would wait for one that is being added up.
_BEGIN_PARTITIONS = """
    INSERT INTO sum_partition (part, seq, reports, raw_bytes, billed_bytes)
    SELECT part, %s, 0, 0, 0 FROM unnest(%s::int[]) AS p (part)
    WHERE NOT EXISTS (SELECT 1 FROM sum_partition AS s WHERE s.part = p.part)
    ON CONFLICT (part) DO NOTHING
"""


def number(
    db: Db, *, token: str, is_run_noted: bool, limit: int = NUMBERED_REPORTS
) -> tuple[int, int]:
    """Number about `limit` committed reports; within a transaction of the leader.

    Returns how many reports were numbered, and the last number given out then.
    """
    after = numbered_seq(db)
    groups = _unnumbered(db, limit)
    if not groups:
        return 0, after
    firsts, through = [], after
    for _, size, _ in groups:
        firsts.append(through + 1)
        through += size
    db.execute(_BEGIN_PARTITIONS, (after, sorted({part for _, _, part in groups})))
    db.execute(
        "UPDATE report_group SET first_seq = n.first_seq "
        "FROM unnest(%s::bigint[], %s::bigint[]) AS n (id, first_seq) "
        "WHERE report_group.id = n.id",
        ([each for each, _, _ in groups], firsts),
    )
    _note_heard(db, sql_senders.add(PostgresDatabase(db), after=after, through=through))
    if not is_run_noted:
        note_run(db, after_seq=after, token=token)
    set_numbered(db, through)
    return through - after, through


def _note_heard(db: Db, received_at: Mapping[str, int]) -> None:
    """Store when each sender last reported, since its reports may be purged."""
    names = sorted(received_at)
    db.execute(_HEAR, (names, [received_at[name] for name in names]))


def _unnumbered(db: Db, limit: int) -> Sequence[tuple[int, int, int]]:
    """Return groups without numbers, of about `limit` reports: id, reports, partition."""
    rows = db.execute(
        "SELECT id, reports, part FROM report_group WHERE first_seq IS NULL ORDER BY id LIMIT %s",
        (_GROUPS,),
    ).fetchall()
    groups: list[tuple[int, int, int]] = []
    reports = 0
    for group_id, size, part in rows:
        if reports >= limit:
            break
        groups.append((group_id, size, part))
        reports += size
    return groups


def numbered_seq(db: Db) -> int:
    """Return the last number that was given out."""
    row = db.execute("SELECT seq FROM numbering WHERE id = 1").fetchone()
    return 0 if row is None else int(row[0])


def set_numbered(db: Db, seq: int) -> None:
    """Store the last number that was given out."""
    db.execute("UPDATE numbering SET seq = %s WHERE id = 1", (seq,))


def note_run(db: Db, *, after_seq: int, token: str) -> None:
    """Record the run that numbers the reports after a seq: see docs/decisions/0008."""
    db.execute(
        "INSERT INTO run (after_seq, token) VALUES (%s, %s) "
        "ON CONFLICT (after_seq) DO UPDATE SET token = excluded.token",
        (after_seq, token),
    )
    db.execute(
        "DELETE FROM run WHERE after_seq <= "
        "(SELECT after_seq FROM run ORDER BY after_seq DESC LIMIT 1 OFFSET %s)",
        (MAX_RUNS,),
    )
