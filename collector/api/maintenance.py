"""Removes what is old: reports, days, series that nothing refers to, points; totals stay."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from collector.api.dependencies import CollectorPart
from collector.api.problems import documented
from collector.api.senders import require_admin
from collector.api.usage_answers import at
from collector.errors import CollectorError
from collector.ledger.ports import Ledger
from collector.ledger.statistics_values import (
    IdleSeries,
)
from collector.reports.report import DAY_MILLIS, kept_millis, purge_horizon_millis
from collector.schema import Policy
from collector.service import Collector

router = APIRouter(
    prefix="/v1",
    tags=["usage"],
    dependencies=[Depends(require_admin)],
    responses=documented(400, 401, 403, 422, 503),
)

IDLE_SERIES = 50_000
"""Looked for at once."""
SERIES_ROWS = 2000
"""Dropped in one commit."""
CLEANUP_ROWS = 10_000
"""Removed in one commit, so that reports arriving meanwhile do not wait for long."""


class CleanupAnswer(BaseModel):
    """What a cleanup removed; totals and quotas stay as they are."""

    days: int
    removed_reports: int
    removed_day_rows: int
    removed_series: int
    """Servers of a user that no day is left of: their sums are under the server `other` now."""
    series_data: str
    """What became of the points in InfluxDB: `deleted`, `none`, or why they are still there."""


@router.post("/maintenance/cleanup")
async def cleanup(
    collector: CollectorPart, days: Annotated[int, Query(ge=1, le=36500)]
) -> CleanupAnswer:
    """Remove daily rows, reports and points older than so many days; totals stay.

    Reports are kept all the same until they are in InfluxDB, and for the deduplication window, by
    the clock and by the time that collectors ran. Of each user's servers that no day and no report
    is left of, those used last are kept.
    """
    return await clean_up(collector, days)


async def clean_up(collector: Collector, days: int) -> CleanupAnswer:
    """Remove what is older than so many days."""
    before_millis = min(
        collector.now_millis() - days * DAY_MILLIS,
        purge_horizon_millis(collector.limits, now_millis=collector.now_millis()),
    )
    before_day = collector.now_millis() // DAY_MILLIS - days
    removed_reports = removed_days = 0
    old_seq = await collector.ingest.run(
        lambda ledger: ledger.age(ran_millis=0, kept_millis=kept_millis(collector.limits))
    )
    while removed := await collector.ingest.run(
        lambda ledger: ledger.forget_reports(
            before_millis=before_millis,
            limit=CLEANUP_ROWS,
            keeps_unexported=collector.exporter is not None,
            through_seq=old_seq,
        )
    ):
        removed_reports += removed
    while removed := await collector.ingest.run(
        lambda ledger: ledger.forget_days(before_day=before_day, limit=CLEANUP_ROWS)
    ):
        removed_days += removed
    return CleanupAnswer(
        days=days,
        removed_reports=removed_reports,
        removed_day_rows=removed_days,
        removed_series=await _forget_series(collector),
        series_data=await _delete_points(collector, before_day),
    )


async def _forget_series(collector: Collector) -> int:
    """Drop the series that neither days nor kept reports refer to, but for some of each user."""
    removed = 0
    async with collector.dropping_series:
        while True:
            found = await collector.read_sums(
                lambda reader: reader.idle_series(
                    kept_per_user=collector.settings.user_servers_per_day, limit=IDLE_SERIES
                )
            )
            before = removed
            for start in range(0, len(found), SERIES_ROWS):
                part = found[start : start + SERIES_ROWS]
                removed += await collector.ingest.run(partial(_drop, part))
            if removed == before:
                return removed


def _drop(found: Sequence[IdleSeries], ledger: Ledger) -> int:
    return ledger.forget_series(found)


async def _delete_points(collector: Collector, before_day: int) -> str:
    """Delete the points of the days before; the ledger's rows are gone either way."""
    influx = collector.influx
    if influx is None:
        return "none"
    before = at(before_day * DAY_MILLIS)
    try:
        for policy in Policy:
            await asyncio.to_thread(influx.delete_before, policy.bucket, before)
    except CollectorError as error:
        return f"not deleted, run the cleanup again later: {error}"
    return "deleted"
