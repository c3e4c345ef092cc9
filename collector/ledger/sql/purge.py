"""Drops daily rows that a ledger need not keep, and notes how old its reports are; totals stay."""

from __future__ import annotations

import msgspec

from collector.ledger.aging import Ages
from collector.ledger.sql.database import Database, keep_text, kept_text

DROPPED_DAYS = "dropped_days"
"""Under which name it is kept which days were dropped."""
_AGES = "ages"


def age(db: Database, *, ran_millis: int, kept_millis: int, last_seq: int) -> int:
    """Note that a collector ran so much longer; return up to which seq reports are old."""
    ages = Ages.parse(kept_text(db, _AGES)).later(
        ran_millis=ran_millis, seq=last_seq, kept_millis=kept_millis
    )
    keep_text(db, _AGES, ages.format())
    return ages.old_through(kept_millis=kept_millis)


def forget_days(db: Database, *, before_day: int, limit: int, folded_seq: int) -> int:
    """Drop up to `limit` of the oldest daily rows before a day; return how many were.

    It is remembered that they were, and up to which report.
    """
    if before_day >= dropped_days(db)[0]:
        keep_text(db, DROPPED_DAYS, msgspec.json.encode((before_day, folded_seq)).decode())
    return db.change(
        "DELETE FROM usage_day WHERE (day, series_id) IN (SELECT day, series_id "
        "FROM usage_day WHERE day < :before_day ORDER BY day, series_id LIMIT :limit)",
        {"before_day": before_day, "limit": limit},
    )


def dropped_days(db: Database) -> tuple[int, int]:
    """Return before which day daily rows were dropped, and up to which report they were of."""
    text = kept_text(db, DROPPED_DAYS)
    return (0, 0) if text is None else msgspec.json.decode(text, type=tuple[int, int])
