"""Deletes old events from the store's audit trail, page by page.

Each published limit adds an event. Changes of quotas stay, and so does what is still needed: events
that InfluxDB does not have yet, and the one by whose number and digest the collector recognises the
store (`RollbackCheck`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from marzban_bridge.clock import Clock
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.reconcile.trust.rollback_check import RollbackCheck
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)

CHECK_SECONDS = 600.0
PAGE_PAUSE_SECONDS = 0.1


class EventsPurge:
    """The purge of one store. `written_through`: the number of the last event in InfluxDB."""

    def __init__(
        self,
        *,
        store: Store,
        rollback_check: RollbackCheck,
        written_through: Callable[[], int] | None,
        retention: timedelta,
        standstill: Standstill,
        clock: Clock,
    ) -> None:
        self._store = store
        self._rollback_check = rollback_check
        self._written_through = written_through
        self._retention = retention
        self._standstill = standstill
        self._clock = clock
        self._purged_through = 0

    async def run(self) -> None:
        """Purge until cancelled."""
        while True:
            async with self._standstill.step():
                has_more = self.purge_page()
            await asyncio.sleep(PAGE_PAUSE_SECONDS if has_more else CHECK_SECONDS)

    def purge_page(self) -> bool:
        """Delete a page of old events; return whether another may follow at once."""
        if self._store.suspended:
            return False
        through = self._rollback_check.confirmed_position - 1
        if self._written_through is not None:
            through = min(through, self._written_through())
        done = self._store.events.purge(
            after=self._purged_through, through=through, before=self._clock() - self._retention
        )
        if done == self._purged_through:
            return False
        log.info("purged events up to number %d", done)
        self._purged_through = done
        return True
