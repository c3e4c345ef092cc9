"""What an SQLite ledger can tell of its corrections."""

from __future__ import annotations

import sqlite3

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
from collector.ledger.sqlite.sums import sum_of, whole

CHOSEN = (
    "r.reporter = :scope AND r.received_at >= :since AND r.received_at < :until "
    "AND (:username IS NULL OR s.username = :username)"
)


def chosen(wanted: Wanted) -> dict[str, object]:
    """Return the values that CHOSEN asks for."""
    return {
        "scope": wanted.scope,
        "since": wanted.since_millis,
        "until": wanted.until_millis,
        "username": wanted.username,
    }


def corrections(db: sqlite3.Connection, *, limit: int) -> list[Correction]:
    """Return the newest corrections first."""
    rows = db.execute(f"SELECT {COLUMNS} FROM correction ORDER BY id DESC LIMIT ?", (limit,))
    return [correction_of(row) for row in rows]


def preview(db: sqlite3.Connection, wanted: Wanted) -> VoidPreview:
    """Work out what a void would take now, from whom."""
    rows = db.execute(
        "SELECT s.username, l.seq IS NOT NULL AS is_voided, count(*), sum(r.upload_bytes), "
        "sum(r.download_bytes), sum(coalesce(r.billed_bytes, r.upload_bytes + r.download_bytes)) "
        "FROM report AS r JOIN series AS s ON s.id = r.series_id "
        f"LEFT JOIN correction_line AS l ON l.voids_seq = r.seq WHERE {CHOSEN} "
        "GROUP BY s.username, is_voided ORDER BY sum(r.upload_bytes + r.download_bytes) DESC, 1",
        chosen(wanted),
    ).fetchall()
    first = db.execute("SELECT received_at FROM report ORDER BY seq LIMIT 1").fetchone()
    return VoidPreview(
        users=[Affected(row[0], *row[2:]) for row in rows if not row[1]],
        voided_before=sum(row[2] for row in rows if row[1]),
        kept_since_millis=None if first is None else first[0],
    )


def corrected_sum(db: sqlite3.Connection, stretch: Stretch) -> CorrectedSum:
    """Return what corrections added to a user within a stretch, and what of it is of a period."""
    arguments = msgspec.structs.asdict(stretch)
    lines = (
        "FROM correction_line AS l WHERE l.series_id IN "
        "(SELECT id FROM series WHERE username = :username) "
        "AND l.seq > :after_seq AND l.seq <= :through_seq"
    )
    in_period = (
        "CASE WHEN l.position_seq IS NULL OR :period_seq IS NULL "
        "THEN l.received_at >= :period_since_millis ELSE l.position_seq > :period_seq END"
    )
    billed, raw, period_billed, period_raw = db.execute(
        "SELECT coalesce(sum(billed_bytes), 0), coalesce(sum(upload_bytes + download_bytes), 0), "
        f"coalesce(sum(billed_bytes) FILTER (WHERE {in_period}), 0), "
        f"coalesce(sum(upload_bytes + download_bytes) FILTER (WHERE {in_period}), 0) {lines}",
        arguments,
    ).fetchone()
    shown = db.execute(
        f"SELECT {COLUMNS} FROM correction WHERE id IN (SELECT correction_id {lines}) "
        f"ORDER BY id DESC LIMIT {SHOWN_CORRECTIONS}",
        arguments,
    )
    corrections = [correction_of(row) for row in shown]
    return CorrectedSum(billed, raw, period_billed, period_raw, corrections)


def sums(db: sqlite3.Connection) -> Corrected:
    """Return what all corrections come to, by each table that knows of them."""
    raw, billed = "upload_bytes + download_bytes", "billed_bytes"
    lines, voided, *found = db.execute(
        f"SELECT count(*), count(voids_seq), {sum_of(raw)}, {sum_of(billed)}, "
        f"{sum_of(f'max({raw}, 0)')}, {sum_of(f'max({billed}, 0)')} FROM correction_line"
    ).fetchone()
    added_raw, added_billed, most_raw, most_billed = map(whole, found)
    users = db.execute(
        f"SELECT {sum_of('corrected_upload_bytes + corrected_download_bytes')}, "
        f"{sum_of('corrected_billed_bytes')} FROM user_total"
    ).fetchone()
    return Corrected(
        lines=lines,
        added=Sums(added_raw, added_billed, -voided),
        of_users=(whole(users[0]), whole(users[1])),
        of_corrections=of_corrections(db.execute(CORRECTIONS_SUMS)),
        most_added=(most_raw, most_billed),
    )
