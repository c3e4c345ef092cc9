"""How full the totals of users are in a PostgreSQL ledger, with what is in no sum yet."""

from __future__ import annotations

from collector.ledger.capacity import NEARLY_FULL_BYTES, Amounts
from collector.ledger.postgres.link import Db

_UNFOLDED = """
    SELECT s.username, sum(r.upload_bytes + r.download_bytes) AS raw,
        sum(coalesce(r.billed_bytes, r.upload_bytes + r.download_bytes)) AS billed
    FROM report_group AS g JOIN report AS r ON r.group_id = g.id
    JOIN series AS s ON s.id = r.series_id WHERE g.first_seq IS NULL
"""
_PERHAPS_NEARLY_FULL = f"""
    SELECT username FROM user_total
    WHERE upload_bytes + download_bytes > %(half)s OR billed_bytes > %(half)s
    UNION SELECT username FROM ({_UNFOLDED} GROUP BY s.username) AS unfolded
    WHERE raw > %(half)s OR billed > %(half)s
"""
_TOTAL = f"""
    SELECT coalesce(sum(raw), 0), coalesce(sum(billed), 0) FROM (
        SELECT upload_bytes + download_bytes AS raw, billed_bytes AS billed FROM user_total
        WHERE username = %(name)s
        UNION ALL SELECT raw, billed FROM
            ({_UNFOLDED} AND s.username = %(name)s GROUP BY s.username) AS unfolded
    ) AS parts
"""


def nearly_full(db: Db) -> dict[str, Amounts]:
    """Return the users whose totals, with what is in no sum yet, are nearly full."""
    rows = db.execute(_PERHAPS_NEARLY_FULL, {"half": NEARLY_FULL_BYTES // 2}).fetchall()
    totals = {name: total_of(db, name) for (name,) in rows}
    return {name: total for name, total in totals.items() if total.is_nearly_full}


def total_of(db: Db, username: str) -> Amounts:
    """Return a user's total, with what is in no sum yet."""
    raw, billed = db.execute(_TOTAL, {"name": username}).fetchone() or (0, 0)
    return Amounts(int(raw), int(billed))
