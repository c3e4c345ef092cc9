"""The cleanup: removes old reports, daily rows, unused series and points; totals stay."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel

from collector.api.dependencies import CollectorPart
from collector.api.senders import admin_router
from collector.api.usage_answers import at
from collector.errors import CollectorError
from collector.ledger.ports import Ledger
from collector.ledger.statistics_values import (
    IdleSeries,
)
from collector.parts import Collector
from collector.reports.report import DAY_MILLIS, kept_millis, purge_horizon_millis
from collector.schema import Policy

router = admin_router("/v1", tag="usage", statuses=(400, 422, 503))

IDLE_SERIES = 50_000
"""Series per query for unused ones."""
SERIES_ROWS = 2000
"""Series removed in one commit."""
CLEANUP_ROWS = 10_000
"""Rows removed in one commit, so that reports arriving meanwhile do not wait for long."""


class CleanupAnswer(BaseModel):
    """What a cleanup removed; totals and quotas stay as they are."""

    days: int
    removed_reports: int
    removed_day_rows: int
    removed_series: int
    """Removed series (user and server) without daily rows; their sums are added to `other`."""
    series_data: str
    """The points in InfluxDB: `deleted`, `none` to delete, or why they were not deleted."""


@router.post("/maintenance/cleanup")
async def cleanup(
    collector: CollectorPart, days: Annotated[int, Query(ge=1, le=36500)]
) -> CleanupAnswer:
    """Remove daily rows, reports and points older than `days` days; totals stay.

    A report stays until it is exported to InfluxDB and until the deduplication window has passed,
    both by the wall clock and by the time that collectors ran. Of each user's series without daily
    rows and reports, those used last stay.
    """
    return await clean_up(collector, days)


async def clean_up(collector: Collector, days: int) -> CleanupAnswer:
    """Remove daily rows, reports, unused series and points older than `days` days."""
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
    """Drop the series without daily rows and reports, except each user's most recent ones."""
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
    """Delete the points before a day; the ledger's rows are removed even if this fails."""
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
