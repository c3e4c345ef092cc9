"""Drops old daily rows, and records the running time of collectors; totals stay."""

from __future__ import annotations

import msgspec

from collector.ledger.aging import Ages
from collector.ledger.sql.database import Database, keep_text, kept_text

DROPPED_DAYS = "dropped_days"
"""The key in `meta` of the range of dropped days."""
_AGES = "ages"


def age(db: Database, *, ran_millis: int, kept_millis: int, last_seq: int) -> int:
    """Add to the running time; return the seq up to which reports are old."""
    ages = Ages.parse(kept_text(db, _AGES)).later(
        ran_millis=ran_millis, seq=last_seq, kept_millis=kept_millis
    )
    keep_text(db, _AGES, ages.format())
    return ages.old_through(kept_millis=kept_millis)


def forget_days(db: Database, *, before_day: int, limit: int, folded_seq: int) -> int:
    """Drop up to `limit` of the oldest daily rows before a day; return how many.

    The range of dropped days is recorded, with the last seq in them.
    """
    if before_day >= dropped_days(db)[0]:
        keep_text(db, DROPPED_DAYS, msgspec.json.encode((before_day, folded_seq)).decode())
    return db.change(
        "DELETE FROM usage_day WHERE (day, series_id) IN (SELECT day, series_id "
        "FROM usage_day WHERE day < :before_day ORDER BY day, series_id LIMIT :limit)",
        {"before_day": before_day, "limit": limit},
    )


def dropped_days(db: Database) -> tuple[int, int]:
    """Return the day before which daily rows were dropped, and the last seq in them."""
    text = kept_text(db, DROPPED_DAYS)
    return (0, 0) if text is None else msgspec.json.decode(text, type=tuple[int, int])
