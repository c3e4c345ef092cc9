"""Purges old reports of a PostgreSQL ledger; totals stay."""

from __future__ import annotations

from collector.ledger.postgres.link import Db
from collector.ledger.postgres.sums.partitions import positions


def forget_reports(db: Db, *, before_millis: int, limit: int, through_seq: int | None) -> int:
    """Drop up to `limit` of the oldest reports received before a time; return how many.

    Their ids are dropped, too. Reports that are not added up yet, or are after `through_seq`, are
    kept. Only the oldest are dropped, so that the remaining numbers have no gaps.
    """
    head = positions(db).head
    last = head if through_seq is None else min(head, through_seq)
    groups = db.execute(
        "SELECT id, first_seq, reports, purged, received_at FROM report_group "
        "WHERE first_seq IS NOT NULL ORDER BY first_seq LIMIT %s",
        (limit,),
    ).fetchall()
    whole: list[int] = []
    removed = 0
    for group_id, first_seq, reports, purged, received_at in groups:
        if received_at >= before_millis:
            break
        until = min(reports, last - first_seq + 1)
        until = min(until, purged + limit - removed)
        if until < reports:
            removed += _forget_part(db, group_id, purged, until)
            break
        whole.append(group_id)
        removed += reports - purged
    if whole:
        db.execute("DELETE FROM report WHERE group_id = ANY(%s)", (whole,))
        db.execute("DELETE FROM report_group WHERE id = ANY(%s)", (whole,))
    return removed


def _forget_part(db: Db, group_id: int, purged: int, until: int) -> int:
    if until <= purged:
        return 0
    db.execute("DELETE FROM report WHERE group_id = %s AND position < %s", (group_id, until))
    db.execute("UPDATE report_group SET purged = %s WHERE id = %s", (until, group_id))
    return until - purged
