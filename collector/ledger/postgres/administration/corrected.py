"""What a PostgreSQL ledger can tell of its corrections."""

from __future__ import annotations

import msgspec

from collector.ledger.corrections import (
    COLUMNS,
    CORRECTIONS_SUMS,
    SHOWN_CORRECTIONS,
    Affected,
    Corrected,
    CorrectedSum,
    Correction,
    Stretch,
    Sums,
    VoidPreview,
    Wanted,
    correction_of,
    of_corrections,
)
from collector.ledger.postgres.link import Db

CHOSEN = (
    "r.reporter = %(scope)s AND g.received_at >= %(since)s AND g.received_at < %(until)s "
    "AND (%(username)s::text IS NULL OR s.username = %(username)s)"
)


def chosen(wanted: Wanted) -> dict[str, object]:
    """Return the values that CHOSEN asks for."""
    return {
        "scope": wanted.scope,
        "since": wanted.since_millis,
        "until": wanted.until_millis,
        "username": wanted.username,
    }


def corrections(db: Db, *, limit: int) -> list[Correction]:
    """Return the newest corrections first."""
    rows = db.execute(f"SELECT {COLUMNS} FROM correction ORDER BY id DESC LIMIT %s", (limit,))
    return [correction_of(row) for row in rows.fetchall()]


def preview(db: Db, wanted: Wanted) -> VoidPreview:
    """Work out what a void would take now, from whom."""
    rows = db.execute(
        "SELECT s.username, l.seq IS NOT NULL AS is_voided, count(*), "
        "sum(r.upload_bytes)::bigint, sum(r.download_bytes)::bigint, "
        "sum(coalesce(r.billed_bytes, r.upload_bytes + r.download_bytes))::bigint "
        "FROM report_group AS g JOIN report AS r ON r.group_id = g.id "
        "JOIN series AS s ON s.id = r.series_id LEFT JOIN correction_line AS l "
        f"ON l.voids_seq = g.first_seq + r.position WHERE {CHOSEN} "
        "GROUP BY s.username, is_voided ORDER BY sum(r.upload_bytes + r.download_bytes) DESC, 1",
        chosen(wanted),
    ).fetchall()
    first = db.execute("SELECT min(received_at) FROM report_group").fetchone()
    return VoidPreview(
        users=[Affected(row[0], *row[2:]) for row in rows if not row[1]],
        voided_before=sum(row[2] for row in rows if row[1]),
        kept_since_millis=None if first is None else first[0],
    )


def corrected_sum(db: Db, stretch: Stretch) -> CorrectedSum:
    """Return what corrections added to a user within a stretch, and what of it is of a period."""
    arguments = msgspec.structs.asdict(stretch)
    lines = (
        "FROM correction_line AS l WHERE l.series_id IN "
        "(SELECT id FROM series WHERE username = %(username)s) "
        "AND l.seq > %(after_seq)s AND l.seq <= %(through_seq)s"
    )
    in_period = (
        "CASE WHEN l.position_seq IS NULL OR %(period_seq)s::bigint IS NULL "
        "THEN l.received_at >= %(period_since_millis)s "
        "ELSE l.position_seq > %(period_seq)s::bigint END"
    )
    raw = "coalesce(sum(upload_bytes + download_bytes)"
    billed = "coalesce(sum(billed_bytes)"
    row = db.execute(
        f"SELECT {billed}, 0)::bigint, {raw}, 0)::bigint, "
        f"{billed} FILTER (WHERE {in_period}), 0)::bigint, "
        f"{raw} FILTER (WHERE {in_period}), 0)::bigint {lines}",
        arguments,
    ).fetchone()
    all_billed, all_raw, period_billed, period_raw = row or (0, 0, 0, 0)
    shown = db.execute(
        f"SELECT {COLUMNS} FROM correction WHERE id IN (SELECT correction_id {lines}) "
        f"ORDER BY id DESC LIMIT {SHOWN_CORRECTIONS}",
        arguments,
    ).fetchall()
    found = [correction_of(each) for each in shown]
    return CorrectedSum(all_billed, all_raw, period_billed, period_raw, found)


def sums(db: Db) -> Corrected:
    """Return what all corrections come to, by each table that knows of them."""
    raw, billed = "upload_bytes + download_bytes", "billed_bytes"
    row = db.execute(
        f"SELECT count(*), count(voids_seq), coalesce(sum({raw}), 0), coalesce(sum({billed}), 0), "
        f"coalesce(sum(greatest({raw}, 0)), 0), coalesce(sum(greatest({billed}, 0)), 0) "
        "FROM correction_line"
    ).fetchone()
    lines, voided, added_raw, added_billed, most_raw, most_billed = map(int, row or (0,) * 6)
    users = db.execute(
        "SELECT coalesce(sum(corrected_upload_bytes + corrected_download_bytes), 0), "
        "coalesce(sum(corrected_billed_bytes), 0) FROM user_total"
    ).fetchone() or (0, 0)
    return Corrected(
        lines=lines,
        added=Sums(added_raw, added_billed, -voided),
        of_users=(int(users[0]), int(users[1])),
        of_corrections=of_corrections(db.execute(CORRECTIONS_SUMS)),
        most_added=(most_raw, most_billed),
    )
