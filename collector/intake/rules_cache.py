"""Caches the reporters and billing ratios, read from the ledger at most once a second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from collector.ledger.async_read import AsyncRead
from collector.reports.billing import Billing, Tariff, show_ratio
from collector.reports.reporters import Configured, KeyRing, Reporter

log = logging.getLogger(__name__)

RULES_SECONDS = 1.0


class Rules(NamedTuple):
    """The reporters and ratios, which commands may change while the collector runs."""

    ring: KeyRing
    billing: Billing


class RulesCache:
    """The rules of one running collector, at most `RULES_SECONDS` old."""

    def __init__(
        self,
        configured: Sequence[Configured],
        *,
        read: AsyncRead,
        now_millis: Callable[[], int],
        monotonic_seconds: Callable[[], float],
    ) -> None:
        self._configured = configured
        """The keys in the environment of this collector."""
        self._read = read
        self._now_millis = now_millis
        self._monotonic_seconds = monotonic_seconds
        self._rules: Rules | None = None
        self._valid_until_seconds = 0.0
        self._reading: asyncio.Task[Rules] | None = None

    @property
    def at_hand(self) -> Rules | None:
        """The rules, if they were read within `RULES_SECONDS`; else None."""
        return self._rules if self._monotonic_seconds() < self._valid_until_seconds else None

    async def current(self) -> Rules:
        """Return the valid reporters and the ratios; concurrent callers share one query.

        Raises LedgerError and NotStoredError.
        """
        if (rules := self.at_hand) is not None:
            return rules
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_rules())
            self._reading.add_done_callback(self._note_read)
        return await asyncio.shield(self._reading)  # other callers may wait for the same query

    async def key_ring(self) -> KeyRing:
        """Return the valid reporters."""
        return (await self.current()).ring

    async def tariff_of(self, reporter: Reporter | None) -> Tariff | None:
        """Return how a reporter's reports are billed; with None, those of users without a key."""
        counts = reporter is None or reporter.counts_toward_quota
        return (await self.current()).billing.tariff(counts_toward_quota=counts)

    async def _read_rules(self) -> Rules:
        now_seconds = self._monotonic_seconds()
        stored, noted, ratios = await self._read(
            lambda reader: (reader.reporters(), reader.configured(), reader.ratios())
        )
        revoked = {each.key_hash: each for each in noted if each.revoked_at_millis is not None}
        configured = [
            Reporter(
                name=each.name,
                key_hash=each.key_hash,
                created_at_millis=0,
                counts_toward_quota=each.counts_toward_quota,
            )
            for each in self._configured
            if revoked.get(each.key_hash) is None
        ]
        billing = Billing(ratios)
        if self._rules is not None and self._rules.billing.ratios != billing.ratios:
            shown = ", ".join(f"{each.server}: {show_ratio(each.ratio_millis)}" for each in ratios)
            log.info("ratios changed, from now on: %s", shown or "none")
        self._rules = Rules(KeyRing([*stored, *configured], now_millis=self._now_millis()), billing)
        self._valid_until_seconds = now_seconds + RULES_SECONDS
        return self._rules

    def _note_read(self, reading: asyncio.Task[Rules]) -> None:
        self._reading = None
        if not reading.cancelled():
            reading.exception()  # mark it retrieved, in case every caller was cancelled
