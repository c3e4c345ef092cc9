"""What every route needs, and how it gets it from the application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple, TypeVar

from fastapi import Depends, Request

from collector.influx.client import Influx
from collector.influx.exporter import Exporter
from collector.intake.group_commit import Ingest
from collector.intake.shared_leader import Leading
from collector.intake.standby_watch import StandbyWatch
from collector.intake.subscriptions import Subscriptions
from collector.ledger import LedgerReader
from collector.ledger.backend import LedgerPlace
from collector.metrics import Metrics
from collector.reports.billing import Billing, Tariff, show_ratio
from collector.reports.byte_bounds import ByteBounds
from collector.reports.report import Limits
from collector.reports.reporters import KeyRing, Reporter, configured_by
from collector.reports.server_bounds import ServerBounds
from collector.reports.spikes import BusyHour
from collector.runtime.body_room import BodyRoom
from collector.runtime.rate_limit import RateLimit
from collector.runtime.recent import RecentNames
from collector.settings import Settings
from collector.sources.file import Sources

log = logging.getLogger(__name__)

T = TypeVar("T")

RULES_SECONDS = 1.0


class Rules(NamedTuple):
    """Who may report, and what reports count for: what changes beside a running collector."""

    ring: KeyRing
    billing: Billing


@dataclass(slots=True, kw_only=True)
class Collector:
    """The wired parts of one running collector."""

    settings: Settings
    limits: Limits
    user_limits: Limits
    """The same for users without a key."""
    place: LedgerPlace
    ledger_identity: object
    """The ledger as it was opened; see `LedgerPlace.identity`."""
    ingest: Ingest
    reader: LedgerReader
    readers: Executor
    statistics_readers: Executor
    """For what reads through a table: nobody who reports waits behind it."""
    subscriptions: Subscriptions | None
    leading: Leading | None
    """None where no other collector can share the ledger."""
    exporter: Exporter | None
    """None where no InfluxDB is configured."""
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
    reporters_room: BodyRoom
    sources_room: BodyRoom
    """For what panels and nodes send, which is larger."""
    strangers_room: BodyRoom
    """For the bodies of requests without a key: nobody knows yet whose they are."""
    standby: StandbyWatch | None = None
    """None where no server keeps the ledger."""
    full_users: RecentNames = field(default_factory=RecentNames)
    """Users whose totals were too full for a report."""
    bounded_senders: RecentNames = field(default_factory=RecentNames)
    """Senders that came to the bounds of their bytes, by scope."""
    crowded_senders: RecentNames = field(default_factory=RecentNames)
    """Senders that named more servers than they may, by scope."""
    spikes: Sequence[BusyHour] = ()
    """What senders reported far beyond their past, today or yesterday; see `gauges`."""
    dropping_series: asyncio.Lock = field(default_factory=asyncio.Lock)
    _rules: Rules | None = field(default=None, init=False)
    _rules_until_seconds: float = field(default=0.0, init=False)
    _rules_reading: asyncio.Task[Rules] | None = field(default=None, init=False)

    async def read(self, query: Callable[[LedgerReader], T]) -> T:
        """Run a query of the ledger beside the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.readers, query, self.reader)

    async def read_sums(self, query: Callable[[LedgerReader], T]) -> T:
        """Run a query that counts every report acknowledged so far."""
        await self.catch_up()
        return await self.read_long(query)

    async def read_long(self, query: Callable[[LedgerReader], T]) -> T:
        """Run a query that may read through a table; what is quick does not wait behind it."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.statistics_readers, query, self.reader)

    async def catch_up(self) -> None:
        """Return once every report acknowledged so far is in the sums; NotStoredError if not."""
        await (self.leading or self.ingest).catch_up()

    async def key_ring(self) -> KeyRing:
        """Return the valid reporters, at most a second old: keys come and go beside us."""
        return (await self.rules()).ring

    async def rules(self) -> Rules:
        """Return the valid reporters and the ratios, at most a second old.

        However many ask at once, the ledger is read once.
        """
        if self._rules is not None and self.monotonic_seconds() < self._rules_until_seconds:
            return self._rules
        if self._rules_reading is None:
            self._rules_reading = asyncio.create_task(self._read_rules())
            self._rules_reading.add_done_callback(self._note_rules_read)
        return await asyncio.shield(self._rules_reading)  # who asks may go away, others wait

    async def tariff_of(self, reporter: Reporter | None) -> Tariff | None:
        """Return how what a reporter sends is billed now; None reports for itself, and counts."""
        counts = reporter is None or reporter.counts_toward_quota
        return (await self.rules()).billing.tariff(counts_toward_quota=counts)

    async def _read_rules(self) -> Rules:
        now_seconds = self.monotonic_seconds()
        stored, noted, ratios = await self.read(
            lambda reader: (reader.reporters(), reader.configured(), reader.ratios())
        )
        revoked = {each.key_hash: each for each in noted if each.revoked_at_millis is not None}
        own = configured_by(
            self.settings.reporter_keys,
            outside_quota=self.settings.reporters_outside_quota,
            now_millis=0,
        )
        configured = [
            Reporter(
                name=each.name,
                key_hash=each.key_hash,
                created_at_millis=0,
                counts_toward_quota=each.counts_toward_quota,
            )
            for each in own
            if revoked.get(each.key_hash) is None
        ]
        billing = Billing(ratios)
        if self._rules is not None and self._rules.billing.ratios != billing.ratios:
            shown = ", ".join(f"{each.server}: {show_ratio(each.ratio_millis)}" for each in ratios)
            log.info("ratios changed, from now on: %s", shown or "none")
        self._rules = Rules(KeyRing([*stored, *configured], now_millis=self.now_millis()), billing)
        self._rules_until_seconds = now_seconds + RULES_SECONDS
        return self._rules

    def _note_rules_read(self, reading: asyncio.Task[Rules]) -> None:
        self._rules_reading = None
        if not reading.cancelled():
            reading.exception()  # whoever waits is told; nobody may be left who does


def collector_of(request: Request) -> Collector:
    """Return the collector that serves this request."""
    collector: Collector = request.app.state.collector
    return collector


CollectorPart = Annotated[Collector, Depends(collector_of)]
