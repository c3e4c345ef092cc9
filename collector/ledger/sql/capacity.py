"""Totals of users against their maximum, with reports that are not added up yet."""

from __future__ import annotations

from collector.ledger.capacity import NEARLY_FULL_BYTES, Amounts
from collector.ledger.sql.database import BILLED, Database, one_row


def _unfolded(db: Database) -> str:
    return f"""
        SELECT s.username, CAST(sum(r.upload_bytes + r.download_bytes) AS bigint) AS raw,
            CAST(sum({BILLED}) AS bigint) AS billed
        FROM {db.dialect.unfolded} AS r JOIN series AS s ON s.id = r.series_id
    """


def nearly_full(db: Database) -> dict[str, Amounts]:
    """Return the users whose totals, with reports that are not added up yet, are nearly full."""
    rows = db.rows(
        f"""
        SELECT username FROM user_total
        WHERE upload_bytes + download_bytes > :half OR billed_bytes > :half
        UNION SELECT username FROM ({_unfolded(db)} GROUP BY s.username) AS unfolded
        WHERE raw > :half OR billed > :half
        """,
        {"half": NEARLY_FULL_BYTES // 2},
    )
    totals = {name: total_of(db, name) for (name,) in rows}
    return {name: total for name, total in totals.items() if total.is_nearly_full}


def total_of(db: Database, username: str) -> Amounts:
    """Return a user's total, with reports that are not added up yet."""
    raw, billed = one_row(
        db,
        f"""
        SELECT coalesce(sum(raw), 0), coalesce(sum(billed), 0) FROM (
            SELECT upload_bytes + download_bytes AS raw, billed_bytes AS billed FROM user_total
            WHERE username = :name
            UNION ALL SELECT raw, billed FROM
                ({_unfolded(db)} WHERE s.username = :name GROUP BY s.username) AS unfolded
        ) AS parts
        """,
        {"name": username},
    )
    return Amounts(int(raw), int(billed))
