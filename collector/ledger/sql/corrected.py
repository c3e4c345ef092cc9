"""Queries about corrections."""

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
from collector.ledger.sql.database import BILLED, BYTE_ORDER, Database, first_row, one_row, whole

CHOSEN = (
    "r.reporter = :scope AND r.received_at >= :since AND r.received_at < :until "
    "AND (CAST(:username AS text) IS NULL OR s.username = :username)"
)
"""The condition for the reports `r` of series `s` that a void selects."""


def chosen(wanted: Wanted) -> dict[str, object]:
    """Return the parameters of CHOSEN."""
    return {
        "scope": wanted.scope,
        "since": wanted.since_millis,
        "until": wanted.until_millis,
        "username": wanted.username,
    }


def corrections(db: Database, *, limit: int) -> list[Correction]:
    """Return the newest corrections first."""
    rows = db.rows(
        f"SELECT {COLUMNS} FROM correction ORDER BY id DESC LIMIT :limit", {"limit": limit}
    )
    return [correction_of(row) for row in rows]


def open_correction(db: Database) -> Correction | None:
    """Return the oldest correction that is not carried out completely."""
    row = first_row(
        db, f"SELECT {COLUMNS} FROM correction WHERE done_at IS NULL ORDER BY id LIMIT 1"
    )
    return None if row is None else correction_of(row)


def preview(db: Database, wanted: Wanted) -> VoidPreview:
    """Compute what a void would subtract now, by user."""
    rows = db.rows(
        "SELECT s.username, l.seq IS NOT NULL AS is_voided, count(*), "
        "CAST(sum(r.upload_bytes) AS bigint), CAST(sum(r.download_bytes) AS bigint), "
        f"CAST(sum({BILLED}) AS bigint) "
        f"FROM {db.dialect.reports} AS r JOIN series AS s ON s.id = r.series_id "
        f"LEFT JOIN correction_line AS l ON l.voids_seq = r.seq WHERE {CHOSEN} "
        "GROUP BY s.username, is_voided "
        f"ORDER BY sum(r.upload_bytes + r.download_bytes) DESC, s.username {BYTE_ORDER}",
        chosen(wanted),
    )
    (first,) = one_row(db, f"SELECT {db.dialect.oldest_received_at}")
    return VoidPreview(
        users=[Affected(row[0], *row[2:]) for row in rows if not row[1]],
        voided_before=sum(row[2] for row in rows if row[1]),
        kept_since_millis=first,
    )


def corrected_sum(db: Database, stretch: Stretch) -> CorrectedSum:
    """Return what corrections added to a user in a range of lines, and the part of a period."""
    values = msgspec.structs.asdict(stretch)
    lines = (
        "FROM correction_line AS l WHERE l.series_id IN "
        "(SELECT id FROM series WHERE username = :username) "
        "AND l.seq > :after_seq AND l.seq <= :through_seq"
    )
    in_period = (
        "CASE WHEN l.position_seq IS NULL OR CAST(:period_seq AS bigint) IS NULL "
        "THEN l.received_at >= :period_since_millis "
        "ELSE l.position_seq > CAST(:period_seq AS bigint) END"
    )
    found = ", ".join(
        f"CAST(coalesce(sum({amount}){of}, 0) AS bigint)"
        for of in ("", f" FILTER (WHERE {in_period})")
        for amount in ("billed_bytes", "upload_bytes + download_bytes")
    )
    billed, raw, period_billed, period_raw = one_row(db, f"SELECT {found} {lines}", values)
    shown = db.rows(
        f"SELECT {COLUMNS} FROM correction WHERE id IN (SELECT correction_id {lines}) "
        f"ORDER BY id DESC LIMIT {SHOWN_CORRECTIONS}",
        values,
    )
    corrections = [correction_of(row) for row in shown]
    return CorrectedSum(billed, raw, period_billed, period_raw, corrections)


def sums(db: Database) -> Corrected:
    """Return the sums over all corrections, by each table that has them."""
    sum_of = db.dialect.sum_of
    raw, billed = "upload_bytes + download_bytes", "billed_bytes"
    added = (f"CASE WHEN {each} > 0 THEN {each} ELSE 0 END" for each in (raw, billed))
    amounts = ", ".join(map(sum_of, (raw, billed, *added)))
    lines, voided, *found = one_row(
        db, f"SELECT count(*), count(voids_seq), {amounts} FROM correction_line"
    )
    added_raw, added_billed, most_raw, most_billed = map(whole, found)
    of_users = one_row(
        db,
        f"SELECT {sum_of('corrected_upload_bytes + corrected_download_bytes')}, "
        f"{sum_of('corrected_billed_bytes')} FROM user_total",
    )
    return Corrected(
        lines=lines,
        added=Sums(added_raw, added_billed, -voided),
        of_users=(whole(of_users[0]), whole(of_users[1])),
        of_corrections=of_corrections(db.rows(CORRECTIONS_SUMS)),
        most_added=(most_raw, most_billed),
    )
