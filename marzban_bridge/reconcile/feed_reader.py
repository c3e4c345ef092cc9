"""Reads the collector's feed, once for all panels, and adds changed users to each panel's queue.

A failure of the collector is retried with backoff; state is kept, and the outage is logged once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from collector.runtime.outage import Outage
from marzban_bridge.errors import CollectorRefusedError, CollectorUnavailableError
from marzban_bridge.feed.client import CollectorFeed, FeedPage
from marzban_bridge.feed.ledger_runs import last_shared_seq, learn, went_back
from marzban_bridge.metrics import Metrics
from marzban_bridge.quota.usage import CorrectedName
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.reconcile.trust.rollback_check import RollbackCheck
from marzban_bridge.reconcile.users.ledger_changes import Ask
from marzban_bridge.reconcile.work_queue import CorrectionQueue, WorkQueue
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)

FEED_WAIT_SECONDS = 25.0
CORRECTION_SECONDS = 1.0
"""Long poll while a correction is still pending, as during a reset."""
FEED_GATHER_SECONDS = 0.5
"""The shortest time between two reads of a feed that always has changes."""


class FollowsLedger(Protocol):
    """What changes the accounts of one panel because of the ledger, one user at a time."""

    async def correct(self, name: CorrectedName, ask: Ask) -> bool:
        """Have a name's user follow corrections; return whether that is done. Raises as `ask`."""

    async def hold_reported_after(self, seq: int) -> None:
        """Leave users with reports after a number of the ledger as they are: those were lost."""


class FeedReader:
    """The only reader of the feed. `run` follows it until cancelled; `to_end` reads to its end."""

    def __init__(
        self,
        *,
        store: Store,
        feed: CollectorFeed,
        rollback_check: RollbackCheck,
        settlers: Mapping[str, FollowsLedger],
        queues: Mapping[str, WorkQueue],
        corrections: CorrectionQueue,
        metrics: Metrics,
        standstill: Standstill,
    ) -> None:
        self._store = store
        self._feed = feed
        self.rollback_check = rollback_check
        self._settlers = settlers
        self._queues = queues
        self._corrections = corrections
        self._metrics = metrics
        self._standstill = standstill
        self.outage = Outage("collector", reason="not reached yet")

    async def run(self) -> None:
        """Read the feed and store its changes until cancelled."""
        wait_seconds = 0.0
        while True:
            try:
                async with self._standstill.step():
                    await self.rollback_check.check()
                    cursor = self._store.usage.cursor
                has_more = await self._step(cursor, wait_seconds=wait_seconds)
            except (CollectorUnavailableError, CollectorRefusedError) as error:
                self._metrics.soft_errors.labels(source="collector").inc()
                self._metrics.collector_up.set(0)
                wait_seconds = 0.0
                asked_seconds = None
                if isinstance(error, CollectorUnavailableError):
                    asked_seconds = error.retry_after_seconds
                pause_seconds = self.outage.failed(str(error), asked_seconds=asked_seconds)
                await self._standstill.sleep(pause_seconds)
                continue
            wait_seconds = FEED_WAIT_SECONDS
            if not self._corrections.is_empty:
                wait_seconds = CORRECTION_SECONDS
            if has_more:
                wait_seconds = 0.0
            if not has_more and self._store.usage.cursor != cursor:
                await asyncio.sleep(FEED_GATHER_SECONDS)

    async def _step(self, cursor: int, *, wait_seconds: float) -> bool:
        """Wait for one page and store it, unless the bridge was paused in between.

        The long poll itself is no step of the standstill, which would have to wait for its end.
        """
        times = self._standstill.times
        page = await self._feed.read(after=cursor, wait_seconds=wait_seconds)
        async with self._standstill.step():
            if self._standstill.times != times:
                return True
            return await self._take_in(cursor, page)

    async def to_end(self) -> None:
        """Read the feed to its current end. Raises the collector's error if it is unreachable."""
        await self.rollback_check.check()
        while await self.read(wait_seconds=0):
            pass

    async def read(self, *, wait_seconds: float) -> bool:
        """Read one page of the feed and store it; return whether another may follow at once."""
        cursor = self._store.usage.cursor
        return await self._take_in(
            cursor, await self._feed.read(after=cursor, wait_seconds=wait_seconds)
        )

    async def _take_in(self, cursor: int, page: FeedPage) -> bool:
        known_id = self._store.meta("ledger_id")
        if known_id is None:
            self._store.set_meta("ledger_id", page.ledger_id)
        elif known_id != page.ledger_id:
            raise CollectorRefusedError(
                f"the collector has another ledger now ({page.ledger_id}, was {known_id}): nothing "
                "is changed until `marzban-bridge rebase`, or until the old ledger is back"
            )
        self.outage.recovered()
        self._metrics.collector_up.set(1)
        known = self._store.usage.runs
        if went_back(known, page.runs, cursor=cursor, head=page.head):
            await self._begin_anew(cursor)
            return True
        if not page.changes:
            await self._correct()
            return False
        touched = self._store.usage.record(
            page.changes,
            cursor=page.cursor,
            runs=learn(known, page.runs, cursor=page.cursor),
        )
        self._corrections.add(each.username for each in page.changes if each.corrected_seq)
        try:
            await self._correct()  # first: no user is cut off for bytes that were taken back
        finally:
            for panel, keys in touched.items():
                if queue := self._queues.get(panel):
                    queue.add_if_needed(keys)
        return page.cursor < page.head

    async def _correct(self) -> None:
        """Apply pending corrections to the accounts of their names."""
        for username in self._corrections.waiting():
            self._corrections.get(username)
            is_done = False
            try:
                name = self._store.usage.corrected_name(username)
                is_done = name is None or await self._correct_name(name)
            finally:
                if not is_done:
                    self._corrections.add([username])
            await asyncio.sleep(0)  # at the start all names with corrections are pending

    async def _correct_name(self, name: CorrectedName) -> bool:
        panels = tuple(self._settlers) if self._store.shares_quotas else (name.panel,)
        is_done = True
        for panel in panels:
            if settler := self._settlers.get(panel):
                is_done &= await settler.correct(name, self._feed.corrected)
                self._queues[panel].add_if_needed([name.key])
        return is_done

    async def adopt_ledger(self) -> bool:
        """Read the feed from its start and accept its ledger; return whether the ledger is new."""
        cursor = self._store.usage.cursor
        page = await self._feed.read(after=cursor)
        is_new_ledger = self._store.meta("ledger_id") != page.ledger_id
        if self._store.suspended:
            pass  # `rebase` goes through all stored accounts
        elif is_new_ledger:
            await self._hold_reported_after(0)
        elif went_back(self._store.usage.runs, page.runs, cursor=cursor, head=page.head):
            await self._begin_anew(cursor)
        self._store.usage.forget(ledger_id=page.ledger_id)
        while await self.read(wait_seconds=0):
            pass
        for queue in self._queues.values():
            queue.clear()
        return is_new_ledger

    async def _begin_anew(self, cursor: int) -> None:
        """Hold the users of whom a restored ledger lost reports, and read all of it again.

        A total above the one that was read does not rule a loss out: it may have grown by other
        reports while the lost ones are still missing.
        """
        page = await self._feed.read(after=0)
        shared_seq = last_shared_seq(self._store.usage.runs, page.runs, head=page.head)
        log.error(
            "the ledger was read up to change %d, but it was set back to %d, as by a restored "
            "backup, and is at %d now; users whose reports were lost are held until "
            "`marzban-bridge rebase`; reading it from the start",
            cursor,
            shared_seq,
            page.head,
        )
        await self._hold_reported_after(shared_seq)
        self._store.usage.record((), cursor=0, runs=())

    async def _hold_reported_after(self, seq: int) -> None:
        for settler in self._settlers.values():
            await settler.hold_reported_after(seq)
