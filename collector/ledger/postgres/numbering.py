"""Numbers the reports of a PostgreSQL ledger and adds them up, in one commit of the leader.

Collectors append groups of reports, whose commits may be visible in any order. A report has no
number (seq) until it is added up: the leader takes the committed groups, numbers their reports
after all earlier ones, and adds them to the sums. So once a reader has read the sums up to a seq,
no report with a lower seq can appear later, however slow its commit was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from collector.ledger.postgres.database import PostgresDatabase
from collector.ledger.postgres.link import Db
from collector.ledger.sql import senders as sql_senders
from collector.ledger.sql.database import USER_SUMS, added, later

FOLD_REPORTS = 50_000
MAX_RUNS = 1000
_GROUPS = 5000

_NUMBERED = """
    SELECT r.*, g.first_seq + r.position AS seq, g.received_at
    FROM report_group AS g JOIN report AS r ON r.group_id = g.id
    WHERE g.first_seq > %(after)s AND g.first_seq <= %(through)s
"""
_SUMS = """
    sum(upload_bytes)::bigint AS upload_bytes, sum(download_bytes)::bigint AS download_bytes,
    sum(coalesce(billed_bytes, upload_bytes + download_bytes))::bigint AS billed_bytes,
    sum(connections)::bigint AS connections, count(*) AS reports,
    max(reported_at) AS last_used_at, max(seq) AS change_seq
"""
_ADD_TO_DAYS = f"""
    INSERT INTO usage_day AS d (day, series_id, upload_bytes, download_bytes, billed_bytes,
        connections, reports, last_used_at, change_seq)
    SELECT (reported_at / 86400000)::int AS day, series_id, {_SUMS}
    FROM ({_NUMBERED}) AS numbered GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (day, series_id) DO UPDATE SET
        {added("d", "excluded")}, {later("d", "excluded")},
        change_seq = excluded.change_seq
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
        change_seq = excluded.change_seq
"""
_HEAR = """
    INSERT INTO heard AS h (scope, received_at)
    SELECT * FROM unnest(%s::text[], %s::bigint[])
    ON CONFLICT (scope) DO UPDATE SET received_at = greatest(h.received_at, excluded.received_at)
"""


def fold(db: Db, *, token: str, is_run_noted: bool, limit: int = FOLD_REPORTS) -> tuple[int, int]:
    """Number and add up about `limit` committed reports; within a transaction.

    Returns how many reports were added up, and the last seq in the sums then.
    """
    after = folded_seq(db)
    groups, reports, raw_bytes, billed_bytes = _unfolded(db, limit)
    if not groups:
        return 0, after
    through = after + reports
    firsts, first = [], after + 1
    for _, size in groups:
        firsts.append(first)
        first += size
    db.execute(
        "UPDATE report_group SET first_seq = n.first_seq "
        "FROM unnest(%s::bigint[], %s::bigint[]) AS n (id, first_seq) "
        "WHERE report_group.id = n.id",
        ([each for each, _ in groups], firsts),
    )
    bounds = {"after": after, "through": through}
    for statement in (_ADD_TO_DAYS, _ADD_TO_SERIES, _ADD_TO_USERS):
        db.execute(statement, bounds)
    _note_heard(db, sql_senders.add(PostgresDatabase(db), after=after, through=through))
    if not is_run_noted:
        note_run(db, after_seq=after, token=token)
    db.execute(
        "UPDATE folded SET seq = %s, raw_bytes = raw_bytes + %s, billed_bytes = billed_bytes + %s "
        "WHERE id = 1",
        (through, raw_bytes, billed_bytes),
    )
    return reports, through


def _note_heard(db: Db, received_at: Mapping[str, int]) -> None:
    """Store when each sender last reported, since its reports may be purged."""
    names = sorted(received_at)
    db.execute(_HEAR, (names, [received_at[name] for name in names]))


def _unfolded(db: Db, limit: int) -> tuple[Sequence[tuple[int, int]], int, int, int]:
    """Return groups without numbers, of about `limit` reports, with their sums."""
    rows = db.execute(
        "SELECT id, reports, raw_bytes, billed_bytes FROM report_group "
        "WHERE first_seq IS NULL ORDER BY id LIMIT %s",
        (_GROUPS,),
    ).fetchall()
    groups: list[tuple[int, int]] = []
    reports = raw_bytes = billed_bytes = 0
    for group_id, size, raw, billed in rows:
        if reports >= limit:
            break
        groups.append((group_id, size))
        reports, raw_bytes, billed_bytes = reports + size, raw_bytes + raw, billed_bytes + billed
    return groups, reports, raw_bytes, billed_bytes


def folded_seq(db: Db) -> int:
    """Return the seq up to which reports are in the sums."""
    row = db.execute("SELECT seq FROM folded WHERE id = 1").fetchone()
    return 0 if row is None else int(row[0])


def unfolded_ids(db: Db) -> list[int]:
    """Return the committed groups that are not added up yet."""
    rows = db.execute("SELECT id FROM report_group WHERE first_seq IS NULL LIMIT 10000")
    return [row[0] for row in rows]


def is_any_unfolded(db: Db, ids: Sequence[int]) -> bool:
    """Tell whether one of these groups is not added up yet."""
    query = "SELECT 1 FROM report_group WHERE first_seq IS NULL AND id = ANY(%s) LIMIT 1"
    return db.execute(query, (list(ids),)).fetchone() is not None


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
