"""Wires a collector together and serves it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import httpx
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

import collector
from collector.api import (
    corrections,
    health,
    maintenance,
    original_statistics,
    readers,
    reports,
    sources,
    usage,
)
from collector.api.context import Collector
from collector.api.lean import LeanApp
from collector.api.problems import install_problem_handlers
from collector.influx.buckets import Buckets
from collector.influx.client import Influx
from collector.influx.exporter import Exporter
from collector.intake.corrections import carry_out_corrections
from collector.intake.group_commit import Ingest
from collector.intake.shared_leader import Leading
from collector.intake.standby_watch import StandbyWatch
from collector.intake.subscriptions import Subscriptions
from collector.ledger import Ledger, LedgerReader
from collector.ledger.backend import LedgerPlace, SharedLedger, SharedReader, place_of
from collector.ledger_gauges import keep_fresh
from collector.metrics import Metrics
from collector.reports.byte_bounds import Bounds, ByteBounds
from collector.reports.report import DAY_MILLIS, Limits
from collector.reports.reporters import configured_by
from collector.reports.server_bounds import ServerBounds
from collector.runtime.body_room import BodyRoom
from collector.runtime.rate_limit import RateLimit
from collector.settings import Settings
from collector.sources.file import Sources

log = logging.getLogger(__name__)

READER_THREADS = 4
STATISTICS_THREADS = 2
KEY_BURST_SECONDS = 2
USER_BURST_SECONDS = 6
REPORTERS_BODIES = 16
SOURCES_BODIES = 4
STRANGERS_BODIES = 4
"""So many of the largest bodies may be in memory at once; strangers cannot crowd out reporters."""


def wall_clock_millis() -> int:
    """Read the wall clock in milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


@contextlib.asynccontextmanager
async def open_collector(
    settings: Settings,
    *,
    now_millis: Callable[[], int] = wall_clock_millis,
    panel_transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncIterator[Collector]:
    """Open the ledger and start storing; at the end store what is queued and close.

    Raises LedgerError when the ledger cannot be used, SettingsError for a wrong sources file.
    """
    known_sources = Sources(settings.sources_file)
    place = place_of(settings.ledger_url)
    ledger = place.open()
    reader = place.reader()
    _note_configured(place, reader, settings, now_millis())
    metrics = Metrics()
    limits = _limits(settings, settings.key_bounds)
    ingest = Ingest(
        ledger,
        now_millis=now_millis,
        metrics=metrics,
        max_queued_reports=settings.max_queued_reports,
        limits=limits,
        keeps_unexported=bool(settings.influxdb_url),
        adds_up=not place.is_shared,
    )
    leading = None
    if place.is_shared:
        leading = _lead(ledger, reader, ingest, metrics, now_millis=now_millis, limits=limits)
    subscriptions = None
    if settings.marzban_url:
        subscriptions = Subscriptions(
            settings.marzban_url,
            path=settings.subscription_path,
            monotonic_seconds=time.monotonic,
            metrics=metrics,
            transport=panel_transport,
        )
    readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="ledger-reader")
    statistics_readers = ThreadPoolExecutor(STATISTICS_THREADS, thread_name_prefix="statistics")
    influx = exporter = None
    if settings.influxdb_url:
        access = settings.influx_access()
        influx = Influx(access)
        exporter = Exporter(
            reader=reader,
            ingest=ingest,
            influx=influx,
            buckets=Buckets(access) if settings.influxdb_prepares_buckets else None,
            retention_seconds=settings.influx_retention_seconds,
            now_millis=now_millis,
            metrics=metrics,
            leads=lambda: leading is None or leading.leads,
        )
        metrics.expose_export()
    ingest.start()
    if leading:
        leading.start()
    try:
        opened = Collector(
            settings=settings,
            limits=limits,
            user_limits=_limits(settings, settings.user_bounds),
            place=place,
            ledger_identity=place.identity(),
            ingest=ingest,
            reader=reader,
            readers=readers,
            statistics_readers=statistics_readers,
            subscriptions=subscriptions,
            leading=leading,
            exporter=exporter,
            influx=influx,
            sources=known_sources,
            metrics=metrics,
            now_millis=now_millis,
            monotonic_seconds=time.monotonic,
            key_limit=RateLimit(
                per_second=settings.key_requests_per_second,
                burst=max(1, settings.key_requests_per_second * KEY_BURST_SECONDS),
            ),
            user_limit=RateLimit(
                per_second=settings.user_requests_per_second,
                burst=max(1, settings.user_requests_per_second * USER_BURST_SECONDS),
            ),
            key_bytes=ByteBounds(settings.key_bounds),
            user_bytes=ByteBounds(settings.user_bounds),
            key_servers=ServerBounds(settings.key_servers_per_day),
            user_servers=ServerBounds(settings.user_servers_per_day),
            reporters_room=BodyRoom(REPORTERS_BODIES * settings.max_body_bytes),
            sources_room=BodyRoom(SOURCES_BODIES * settings.max_source_body_bytes),
            strangers_room=BodyRoom(STRANGERS_BODIES * settings.max_body_bytes),
        )
        if leading:
            opened.standby = _watch_standby(opened)
        yield opened
    finally:
        await ingest.stop()
        if leading:
            await leading.stop()
        if exporter:
            await exporter.close()
        if subscriptions:
            await subscriptions.close()
        readers.shutdown()
        statistics_readers.shutdown()
        reader.close()
        ledger.close()


def _limits(settings: Settings, bounds: Bounds) -> Limits:
    """Return what holds for each report of a kind of sender."""
    return Limits(
        ceiling_bytes=settings.report_ceiling_bytes,
        dedup_window_millis=settings.dedup_window_days * DAY_MILLIS,
        request_bytes=bounds.request_bytes,
        request_setting=bounds.setting_of("request"),
    )


def _note_configured(
    place: LedgerPlace, reader: LedgerReader, settings: Settings, now_millis: int
) -> None:
    """Have the keys of the environment listed with all others; say which of them are refused."""
    own = configured_by(
        settings.reporter_keys,
        outside_quota=settings.reporters_outside_quota,
        now_millis=now_millis,
    )
    place.note_configured(own)
    by_hash = {each.key_hash: each for each in own}
    for each in reader.configured():
        if by_hash.get(each.key_hash) is not None and each.revoked_at_millis is not None:
            log.warning(
                "reporter_key_is_revoked name=%s: `reporters revoke` made it invalid; take it out "
                "of COLLECTOR_REPORTER_KEYS, or put another key there",
                each.name,
            )


def _lead(
    ledger: Ledger,
    reader: LedgerReader,
    ingest: Ingest,
    metrics: Metrics,
    *,
    now_millis: Callable[[], int],
    limits: Limits,
) -> Leading:
    leading = Leading(
        cast("SharedLedger", ledger),
        cast("SharedReader", reader),
        commits=ingest.commits,
        now_millis=now_millis,
        metrics=metrics,
        limits=limits,
        keeps_unexported=ingest.keeps_unexported,
        on_recovery=ingest.note_recovery,
    )
    ingest.on_stored = leading.wake
    metrics.expose_leading()
    return leading


def _watch_standby(opened: Collector) -> StandbyWatch:
    return StandbyWatch(
        lambda: opened.read(lambda reader: cast("SharedReader", reader).commits_waiting()),
        metrics=opened.metrics,
    )


def create_app(
    settings: Settings,
    *,
    now_millis: Callable[[], int] = wall_clock_millis,
    panel_transport: httpx.AsyncBaseTransport | None = None,
) -> FastAPI:
    """Return the collector as an ASGI application; its lifespan opens and closes the ledger."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_collector(
            settings, now_millis=now_millis, panel_transport=panel_transport
        ) as opened:
            app.state.collector = opened
            tasks = [
                _in_background(keep_fresh(opened), name="gauges"),
                _in_background(carry_out_corrections(opened), name="corrections"),
            ]
            if opened.standby:
                tasks.append(_in_background(opened.standby.run(), name="standby"))
            if opened.exporter:
                tasks.append(_in_background(opened.exporter.run(), name="export"))
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    app = LeanApp(
        title="Traffic collector",
        version=collector.__version__,
        summary="Takes traffic reports and keeps exact, durable totals",
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would say http:// behind a proxy with TLS
    )
    install_problem_handlers(app)
    for module in (reports, sources):
        app.include_lean(module.router)
    for module in (usage, maintenance, corrections, readers, original_statistics, health):
        app.include_router(module.router)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]  # FastAPI's documented way to extend the document
    return app


def _in_background(work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
    """Run something beside the requests; its end by a defect is logged and harms nothing else."""

    def note_end(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            log.critical("%s stopped: %r; restart the collector", name, error, exc_info=error)

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(note_end)
    return task


def _describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, with the schemas the reports are really read by."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        document["components"]["schemas"].update(reports.REPORT_COMPONENTS)
        app.openapi_schema = document
    return app.openapi_schema
