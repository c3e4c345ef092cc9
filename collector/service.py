"""Opens and closes the parts of one collector together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import httpx

from collector.influx.buckets import Buckets
from collector.influx.client import Influx
from collector.influx.exporter import Exporter
from collector.influx.kinds import TargetKind
from collector.influx.storage_watch import BucketStorage, Storage
from collector.influx.victoria import VictoriaStorage
from collector.intake.embedded import EmbeddedIngest
from collector.intake.ingest import Ingest, IngestOptions
from collector.intake.shared import SharedIngest
from collector.intake.standby_watch import StandbyWatch
from collector.intake.subscriptions.resolver import Subscriptions
from collector.ledger.backend import EmbeddedBackend, LedgerBackend, SharedBackend
from collector.ledger.engines import backend_of
from collector.ledger.ports import EmbeddedLedger, Ledger, LedgerCheck, LedgerReader
from collector.metrics import Metrics
from collector.parts import Collector
from collector.reports.byte_bounds import Bounds, ByteBounds
from collector.reports.report import DAY_MILLIS, Limits
from collector.reports.reporters import configured_by
from collector.reports.server_bounds import ServerBounds
from collector.runtime.http.body_memory import BodyMemoryBudget
from collector.runtime.rate_limit import RateLimit
from collector.runtime.wall_clock import wall_clock_millis
from collector.schema import Policy
from collector.settings import Settings
from collector.sources.file import Sources

log = logging.getLogger(__name__)

T = TypeVar("T")

READER_THREADS = 4
STATISTICS_THREADS = 2
KEY_BURST_SECONDS = 2
USER_BURST_SECONDS = 6
REPORTERS_BODIES = 16
SOURCES_BODIES = 4
STRANGERS_BODIES = 4
"""How many bodies of the largest size may be in memory at once, per kind of sender. The budgets are
apart, so that requests without a key cannot use up the memory for reporters."""


class _OpenedLedger(NamedTuple):
    ledger: Ledger
    reader: LedgerReader
    ingest: Ingest
    commits_waiting: Callable[[], int] | None = None
    """Counts the commits that wait for a standby of the ledger's server; None without a server."""
    check: LedgerCheck | None = None
    """Reads an embedded ledger through, beside what comes in."""


@contextlib.asynccontextmanager
async def open_collector(
    settings: Settings,
    *,
    now_millis: Callable[[], int] = wall_clock_millis,
    monotonic_seconds: Callable[[], float] = time.monotonic,
    panel_transport: httpx.AsyncBaseTransport | None = None,
    embedded_ledger: EmbeddedLedger | None = None,
    on_damage: Callable[[Exception], None] = lambda _: None,
) -> AsyncIterator[Collector]:
    """Open the ledger and start storing reports; on exit store what is queued and close.

    `embedded_ledger` is one that was opened before; it is closed here. An embedded ledger is
    checked while reports come in. When the check finds damage, nothing is acknowledged any more,
    and `on_damage` is called in the event loop, with a LedgerError.

    Raises LedgerError when the ledger cannot be used, SettingsError for a wrong sources file.
    """
    known_sources = Sources(settings.sources_file)
    metrics = Metrics()
    limits = _limits(settings, settings.key_bounds)
    backend = backend_of(settings.ledger_url)
    options = IngestOptions(
        now_millis=now_millis,
        metrics=metrics,
        limits=limits,
        keeps_unexported=bool(settings.influxdb_url),
        max_queued_reports=settings.max_queued_reports,
    )
    if backend.is_shared:
        opened = _open_shared(backend, options, partitions=settings.sum_partitions)
    else:
        opened = _open_embedded(
            backend,
            options,
            ledger=embedded_ledger or backend.open_at_once(),
            on_damage=on_damage,
        )
    ledger, reader, ingest = opened.ledger, opened.reader, opened.ingest
    _note_configured(backend, reader, settings, now_millis())
    subscriptions = _subscriptions(
        settings,
        monotonic_seconds=monotonic_seconds,
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
            storage=_storage(settings),
            retention_seconds=settings.influx_retention_seconds,
            now_millis=now_millis,
            metrics=metrics,
        )
        metrics.expose_export()
    ingest.start()
    if opened.check:
        opened.check.start()
    try:
        yield Collector(
            settings=settings,
            limits=limits,
            user_limits=_limits(settings, settings.user_bounds),
            backend=backend,
            ledger_identity=backend.identity(),
            ingest=ingest,
            reader=reader,
            readers=readers,
            statistics_readers=statistics_readers,
            subscriptions=subscriptions,
            standby=_standby_watch(opened.commits_waiting, readers, metrics),
            exporter=exporter,
            influx=influx,
            sources=known_sources,
            metrics=metrics,
            now_millis=now_millis,
            monotonic_seconds=monotonic_seconds,
            key_limit=_rate_limit(settings.key_requests_per_second, KEY_BURST_SECONDS),
            user_limit=_rate_limit(settings.user_requests_per_second, USER_BURST_SECONDS),
            key_bytes=ByteBounds(settings.key_bounds),
            user_bytes=ByteBounds(settings.user_bounds),
            key_servers=ServerBounds(settings.key_servers_per_day),
            user_servers=ServerBounds(settings.user_servers_per_day),
            reporters_memory=BodyMemoryBudget(REPORTERS_BODIES * settings.max_body_bytes),
            sources_memory=BodyMemoryBudget(SOURCES_BODIES * settings.max_source_body_bytes),
            strangers_memory=BodyMemoryBudget(STRANGERS_BODIES * settings.max_body_bytes),
        )
    finally:
        if opened.check:
            await asyncio.to_thread(opened.check.stop)
        await ingest.stop()
        if exporter:
            await exporter.close()
        if subscriptions:
            await subscriptions.close()
        reader.close()  # what is still read has no caller any more
        readers.shutdown()
        statistics_readers.shutdown()
        ledger.close()


def _subscriptions(
    settings: Settings,
    *,
    monotonic_seconds: Callable[[], float],
    metrics: Metrics,
    transport: httpx.AsyncBaseTransport | None,
) -> Subscriptions | None:
    """Return what resolves subscription tokens; None if no panel can be asked about them."""
    if not settings.subscription_links:
        return None
    return Subscriptions(
        settings.subscription_links,
        monotonic_seconds=monotonic_seconds,
        metrics=metrics,
        transport=transport,
    )


def _standby_watch(
    commits_waiting: Callable[[], int] | None, readers: Executor, metrics: Metrics
) -> StandbyWatch | None:
    """Return the watch of a ledger's standby; None for an embedded ledger."""
    if commits_waiting is None:
        return None
    loop = asyncio.get_running_loop()
    return StandbyWatch(lambda: loop.run_in_executor(readers, commits_waiting), metrics=metrics)


def _rate_limit(per_second: float, burst_seconds: float) -> RateLimit:
    """Return a limit on requests that allows those of `burst_seconds` at once."""
    return RateLimit(per_second=per_second, burst=max(1, per_second * burst_seconds))


def _limits(settings: Settings, bounds: Bounds) -> Limits:
    """Return the limits of each report of a kind of sender."""
    return Limits(
        ceiling_bytes=settings.report_ceiling_bytes,
        dedup_window_millis=settings.dedup_window_days * DAY_MILLIS,
        request_bytes=bounds.request_bytes,
        request_setting=bounds.setting_of("request"),
    )


def _storage(settings: Settings) -> Storage | None:
    """Return what the export corrects or checks in the database it writes to."""
    access, retention_seconds = settings.influx_access(), settings.influx_retention_seconds
    if access.kind is TargetKind.VICTORIAMETRICS:
        return VictoriaStorage(access, retention_seconds[Policy.RAW])
    if not settings.prepares_buckets:
        return None
    return BucketStorage(Buckets(access), retention_seconds=retention_seconds)


def _note_configured(
    backend: LedgerBackend, reader: LedgerReader, settings: Settings, now_millis: int
) -> None:
    """Record the keys of the environment in the ledger; log those that are revoked there."""
    own = configured_by(
        settings.reporter_keys,
        outside_quota=settings.reporters_outside_quota,
        now_millis=now_millis,
    )
    backend.note_configured(own)
    by_hash = {each.key_hash: each for each in own}
    for each in reader.configured():
        if by_hash.get(each.key_hash) is not None and each.revoked_at_millis is not None:
            log.warning(
                "reporter_key_is_revoked name=%s: `reporters revoke` made it invalid; take it out "
                "of COLLECTOR_REPORTER_KEYS, or put another key there",
                each.name,
            )


def _open_embedded(
    backend: EmbeddedBackend,
    options: IngestOptions,
    *,
    ledger: EmbeddedLedger,
    on_damage: Callable[[Exception], None],
) -> _OpenedLedger:
    ingest = EmbeddedIngest(ledger, options, unfolded_reports=ledger.unfolded_reports)
    loop = asyncio.get_running_loop()

    def refuse(error: Exception) -> None:
        ingest.refuse(str(error))
        loop.call_soon_threadsafe(on_damage, error)

    check = backend.check(on_fault=refuse)
    return _OpenedLedger(ledger, backend.reader(), ingest, check=check)


def _open_shared(
    backend: SharedBackend, options: IngestOptions, *, partitions: int
) -> _OpenedLedger:
    ledger, reader = backend.open(partitions=partitions), backend.reader()
    options.metrics.expose_leading()
    ingest = SharedIngest(ledger, reader, options)
    return _OpenedLedger(ledger, reader, ingest, commits_waiting=reader.commits_waiting)
