"""Tells operators that commits wait for a synchronous standby."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from collector.errors import CollectorError
from collector.metrics import Metrics

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0


class StandbyWatch:
    """What a collector with a shared ledger knows of the sessions that wait on its server."""

    def __init__(self, look: Callable[[], Awaitable[int]], *, metrics: Metrics) -> None:
        self._look = look
        self._metrics = metrics
        self.problem: str | None = None
        """Why nothing that is stored is acknowledged, for people."""

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once; a server that is away is told of by whoever stores there."""
        try:
            waiting = await self._look()
        except CollectorError:
            waiting = 0
        self._metrics.standby_waiting.set(waiting)
        was_told = self.problem is not None
        self.problem = None
        if waiting:
            self.problem = (
                f"the synchronous standby does not confirm commits ({waiting} of ours wait): start "
                "it, or take it out of synchronous_standby_names. Nothing is acknowledged meanwhile"
            )
        if waiting and not was_told:
            log.error("%s", self.problem)
        if was_told and not waiting:
            log.warning("the synchronous standby confirms commits again")
