"""The parts of one running collector; `service.py` opens and closes them together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

from collector.influx.client import Influx
from collector.influx.exporter import Exporter
from collector.intake.contact_log import ContactLog
from collector.intake.corrections import CorrectionRunner
from collector.intake.ingest import Ingest
from collector.intake.push_ids import PushIds
from collector.intake.rules_cache import RulesCache
from collector.intake.standby_watch import StandbyWatch
from collector.intake.subscriptions.resolver import Subscriptions
from collector.ledger.backend import LedgerBackend
from collector.ledger.ports import LedgerReader
from collector.metrics import Metrics
from collector.reports.byte_bounds import ByteBounds
from collector.reports.report import Limits
from collector.reports.reporters import configured_by
from collector.reports.server_bounds import ServerBounds
from collector.reports.spikes import BusyHour
from collector.runtime.http.body_memory import BodyMemoryBudget
from collector.runtime.outage import Outage
from collector.runtime.rate_limit import RateLimit
from collector.runtime.recent import RecentNames
from collector.settings import Settings
from collector.sources.file import Sources

T = TypeVar("T")

REFUSAL_LINES = 30
REFUSAL_LINE_SECONDS = 30
"""So many lines about refused requests are logged at once; then one in so many seconds."""


@dataclass(slots=True, kw_only=True)
class Collector:
    """The wired parts of one running collector."""

    settings: Settings
    limits: Limits
    user_limits: Limits
    """The same for users without a key."""
    backend: LedgerBackend
    ledger_identity: object
    """The ledger as it was opened; see `LedgerBackend.identity`."""
    ingest: Ingest
    reader: LedgerReader
    readers: Executor
    statistics_readers: Executor
    """Threads for queries that scan a table, apart from those of quick queries."""
    subscriptions: Subscriptions | None
    exporter: Exporter | None
    """None if no InfluxDB is configured."""
    influx: Influx | None
    sources: Sources
    metrics: Metrics
    now_millis: Callable[[], int]
    monotonic_seconds: Callable[[], float]
    key_limit: RateLimit
    user_limit: RateLimit
    key_bytes: ByteBounds
    user_bytes: ByteBounds
    """How much users without a key may report."""
    key_servers: ServerBounds
    user_servers: ServerBounds
    """How many servers users without a key may name."""
    reporters_memory: BodyMemoryBudget
    sources_memory: BodyMemoryBudget
    """For the larger bodies of panels and nodes."""
    strangers_memory: BodyMemoryBudget
    """For the bodies of requests without a key, whose sender is not authenticated yet."""
    standby: StandbyWatch | None
    """None for an embedded ledger."""
    full_users: RecentNames = field(default_factory=RecentNames)
    """Users of whom a report was refused, since their total would exceed the largest integer."""
    bounded_senders: RecentNames = field(default_factory=RecentNames)
    """Scopes of senders that reached one of their byte bounds."""
    crowded_senders: RecentNames = field(default_factory=RecentNames)
    """Scopes of senders that named more servers in a day than they may."""
    contact_log: ContactLog = field(default_factory=ContactLog)
    storing_contacts: asyncio.Lock = field(default_factory=asyncio.Lock)
    contact_outage: Outage = field(
        default_factory=lambda: Outage(
            "contacts", fails="the last contacts of reporters are not stored: %s"
        )
    )
    refused_senders: RecentNames = field(default_factory=RecentNames)
    """Addresses, each with a reason for which it was refused."""
    refusal_lines: RateLimit = field(
        default_factory=lambda: RateLimit(
            per_second=1 / REFUSAL_LINE_SECONDS, burst=REFUSAL_LINES, remembered=1
        )
    )
    unsure_senders: RecentNames = field(default_factory=RecentNames)
    """Scopes of senders whose reports had unknown fields."""
    spikes: Sequence[BusyHour] = ()
    """The spikes of today and yesterday; see `ledger_gauges`."""
    dropping_series: asyncio.Lock = field(default_factory=asyncio.Lock)
    rules: RulesCache = field(init=False)
    push_ids: PushIds = field(init=False)
    corrections: CorrectionRunner = field(init=False)

    def __post_init__(self) -> None:
        self.rules = RulesCache(
            configured_by(
                self.settings.reporter_keys,
                outside_quota=self.settings.reporters_outside_quota,
                now_millis=0,
            ),
            read=self.read,
            now_millis=self.now_millis,
            monotonic_seconds=self.monotonic_seconds,
        )
        self.push_ids = PushIds(read=self.read, now_millis=self.now_millis, metrics=self.metrics)
        self.corrections = CorrectionRunner(
            self.ingest,
            read=self.read,
            now_millis=self.now_millis,
        )

    async def read(self, query: Callable[[LedgerReader], T]) -> T:
        """Run a query of the ledger in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.readers, query, self.reader)

    async def read_sums(self, query: Callable[[LedgerReader], T]) -> T:
        """Run a query in a thread, once every acknowledged report is in the sums."""
        await self.catch_up()
        return await self.read_long(query)

    async def read_long(self, query: Callable[[LedgerReader], T]) -> T:
        """Run a query that may scan a table, in a thread apart from those of quick queries."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.statistics_readers, query, self.reader)

    async def catch_up(self) -> None:
        """Return once every acknowledged report is in the sums; NotStoredError if that fails."""
        await self.ingest.catch_up()
