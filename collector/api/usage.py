"""Routes that read usage: the change feed for the bridge, and statistics."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

from fastapi import Query

from collector.api.dependencies import CollectorPart
from collector.api.problems import documented
from collector.api.senders import admin_router
from collector.api.usage_answers import (
    MAX_SEQ,
    MOST_SERVERS,
    After,
    ChangePage,
    CollectorRun,
    DatabaseFacts,
    Days,
    GlobalStatistics,
    Limit,
    ServerStatistics,
    SpikeStatistics,
    UserChange,
    Username,
    UserStatistics,
    at,
)
from collector.ledger import Changes
from collector.ledger.statistics_values import (
    ServerUsage,
    UsageSums,
)
from collector.parts import Collector
from collector.reports.billing import AS_REPORTED_MILLIS, Billing
from collector.reports.report import DAY_MILLIS

router = admin_router("/v1", tag="usage", statuses=(400, 422, 503))

MAX_WAIT_SECONDS = 30


@router.get("/usage/changes")
async def changes(
    collector: CollectorPart,
    after: Annotated[int, Query(ge=0, le=MAX_SEQ)] = 0,
    wait: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> ChangePage:
    """List each user whose totals changed after a sequence number once, oldest change first.

    With `wait`, a request waits up to so many seconds for the first change.
    """
    commits = collector.ingest.commits
    loop = asyncio.get_running_loop()
    until_seconds = loop.time() + wait
    with collector.metrics.feed_waiters.track_inprogress():
        while True:
            signal = commits.subscribe()
            if not wait:
                await collector.catch_up()
            page = await collector.read(lambda reader: reader.changes(after=after, limit=limit))
            left_seconds = until_seconds - loop.time()
            has_answer = bool(page.changes) or page.head < after
            if has_answer or left_seconds <= 0 or commits.is_closed:
                return _page(page, after)
            with contextlib.suppress(TimeoutError):  # a commit may hold nothing but duplicates
                async with asyncio.timeout(left_seconds):
                    await signal.wait()


def _page(page: Changes, after: int) -> ChangePage:
    return ChangePage(
        ledger_id=page.ledger_id,
        head=page.head,
        next=page.changes[-1].change_seq if page.changes else after,
        changes=[
            UserChange(
                username=each.username,
                upload_bytes=each.upload_bytes,
                download_bytes=each.download_bytes,
                billed_bytes=each.billed_bytes,
                reports=each.reports,
                last_used_at=at(each.last_used_at_millis),
                change_seq=each.change_seq,
                corrected_upload_bytes=each.corrected_upload_bytes,
                corrected_download_bytes=each.corrected_download_bytes,
                corrected_billed_bytes=each.corrected_billed_bytes,
                corrected_seq=each.corrected_seq,
            )
            for each in page.changes
        ],
        runs=[CollectorRun(after_seq=each.after_seq, token=each.token) for each in page.runs],
    )


@router.get("/usage/{username:path}", responses=documented(404))
async def user_statistics(
    username: Username,
    collector: CollectorPart,
    days: Days = None,
    after: After = 0,
    limit: Limit = MOST_SERVERS,
) -> UserStatistics:
    """Return a user's traffic by server; sums of zero for a user without reports."""
    sums, servers = await usage_of(collector, username, days, after=after, limit=limit)
    billing = (await collector.rules.current()).billing
    return UserStatistics(
        username=username,
        days=days,
        upload_bytes=sums.upload_bytes,
        download_bytes=sums.download_bytes,
        billed_bytes=sums.billed_bytes,
        connections=sums.connections,
        server_count=sums.series,
        servers=[_server(each, billing) for each in servers],
    )


@router.get("/usage")
async def global_statistics(collector: CollectorPart, days: Days = None) -> GlobalStatistics:
    """Return the sums of all users on all servers."""
    since_day = first_day(collector, days)
    found = await collector.read_sums(lambda reader: reader.summary(since_day=since_day))
    return GlobalStatistics(
        days=days,
        users=found.users,
        servers=found.servers,
        protocols=found.protocols,
        upload_bytes=found.upload_bytes,
        download_bytes=found.download_bytes,
        billed_bytes=found.billed_bytes,
        connections=found.connections,
        reports=found.reports,
    )


@router.get("/servers")
async def server_statistics(
    collector: CollectorPart, days: Days = None, after: After = 0, limit: Limit = MOST_SERVERS
) -> list[ServerStatistics]:
    """Return a page of traffic by server, most first."""
    billing = (await collector.rules.current()).billing
    servers = await top_servers(collector, days, after=after, limit=limit)
    return [_server(each, billing) for each in servers]


@router.get("/spikes")
async def spikes(collector: CollectorPart) -> list[SpikeStatistics]:
    """List the senders with a spike today or yesterday (COLLECTOR_SPIKE_FACTOR), largest first.

    The list is read every 15 s, of a large ledger less often. With a shared ledger, only the
    leading collector has it.
    """
    return [
        SpikeStatistics(
            sender=each.sender,
            day=at(each.day * DAY_MILLIS),
            hour_bytes=each.hour_bytes,
            past_hour_bytes=each.past_hour_bytes,
        )
        for each in collector.spikes[:MOST_SERVERS]
    ]


@router.get("/database")
async def database(collector: CollectorPart) -> DatabaseFacts:
    """Return the ledger's size and counts."""
    facts, last_reports = await collector.read_sums(
        lambda reader: (reader.facts(), reader.last_reports())
    )
    free_disk_bytes = None
    with contextlib.suppress(OSError):  # /readyz says why
        free_disk_bytes = collector.backend.free_disk_bytes()
    return DatabaseFacts(
        location=facts.location,
        ledger_id=facts.ledger_id,
        records=facts.records,
        day_rows=facts.day_rows,
        unique_users=facts.users,
        unique_servers=facts.servers,
        size_bytes=facts.size_bytes,
        dedup_window_days=collector.settings.dedup_window_days,
        retention_days=collector.settings.retention_days,
        free_disk_bytes=free_disk_bytes,
        reporter_keys=len(await collector.rules.key_ring()),
        last_report_at=at(max(last_reports.values())) if last_reports else None,
    )


async def top_servers(
    collector: Collector, days: int | None, *, after: int = 0, limit: int
) -> list[ServerUsage]:
    """Read a page of usage by server, of all users."""
    since_day = first_day(collector, days)
    return await collector.read_sums(
        lambda reader: reader.servers_of(None, since_day=since_day, after=after, limit=limit)
    )


async def usage_of(
    collector: Collector, username: str, days: int | None, *, after: int, limit: int
) -> tuple[UsageSums, list[ServerUsage]]:
    """Read a user's sums over all servers, and a page of usage by server."""
    since_day = first_day(collector, days)
    return await collector.read_sums(
        lambda reader: (
            reader.sums_of_user(username, since_day=since_day),
            reader.servers_of(username, since_day=since_day, after=after, limit=limit),
        )
    )


def first_day(collector: Collector, days: int | None) -> int | None:
    """Return the first of the last `days` UTC days, today included; None for all."""
    return None if days is None else collector.now_millis() // DAY_MILLIS - days + 1


def _server(found: ServerUsage, billing: Billing) -> ServerStatistics:
    return ServerStatistics(
        server=found.server,
        port=found.port,
        protocol=found.protocol,
        upload_bytes=found.upload_bytes,
        download_bytes=found.download_bytes,
        billed_bytes=found.billed_bytes,
        ratio=billing.ratio_millis(found.server) / AS_REPORTED_MILLIS,
        connections=found.connections,
        users=found.users,
        last_used_at=None if not found.last_used_at_millis else at(found.last_used_at_millis),
    )
