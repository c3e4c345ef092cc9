"""Watches for commits that wait for a synchronous standby, and reports them to operators."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from collector.errors import CollectorError
from collector.metrics import Metrics
from collector.runtime.outage import Outage

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0


class StandbyWatch:
    """Polls the number of sessions that wait for a synchronous standby of the ledger's server."""

    def __init__(self, count_waiting: Callable[[], Awaitable[int]], *, metrics: Metrics) -> None:
        self._count_waiting = count_waiting
        self._metrics = metrics
        self._outage = Outage(
            "standby",
            fails="%s",
            works="the synchronous standby confirms commits again",
            log=log,
        )

    @property
    def problem(self) -> str | None:
        """Why stored reports are not acknowledged; None if they are."""
        return self._outage.reason

    async def run(self) -> None:
        """Poll every few seconds, until cancelled."""
        while True:
            await self.poll()
            await asyncio.sleep(POLL_SECONDS)

    async def poll(self) -> None:
        """Poll once; the ingest reports a server that cannot be reached."""
        try:
            waiting = await self._count_waiting()
        except CollectorError:
            waiting = 0
        self._metrics.standby_waiting.set(waiting)
        if not waiting:
            self._outage.recovered()
            return
        self._outage.failed(
            f"the synchronous standby does not confirm commits ({waiting} of ours wait): start it, "
            "or take it out of synchronous_standby_names. Until then no report is acknowledged"
        )
