"""Settles the users of one chunk, a few at the same time, and stops where the panel is away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from marzban_bridge.errors import (
    BridgeError,
    NotLeadingError,
    PanelFailingError,
    PanelLoginError,
    PanelUnavailableError,
)
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelUser

log = logging.getLogger(__name__)

CONCURRENT_USERS = 4
FAILING_USERS = 3
"""So many users of a chunk at whom the panel fails, and it is asked whether it fails at all."""


class Settle(Protocol):
    """Settles one user, as it was read by a moment of `time.monotonic`."""

    async def __call__(self, key: str, user: PanelUser | None, /, *, read_at: float) -> None:
        """Bring the user to where it should be. Panel errors pass through."""
        ...


class Chunk:
    """Some users to be settled once. `named` tells how a user is called in the log.

    `gives_way` tells whether those who are not begun yet are to be left for later.
    """

    def __init__(
        self,
        *,
        settle: Settle,
        panel: Panel,
        named: Callable[[str], str],
        gives_way: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settle = settle
        self._panel = panel
        self._named = named
        self._gives_way = gives_way
        self._gate = asyncio.Semaphore(CONCURRENT_USERS)
        self._outage: BridgeError | None = None
        self._failing = self._failures = 0
        self.left: list[str] = []
        """Users who gave way."""

    async def settle(self, users: Mapping[str, PanelUser | None], *, read_at: float) -> int:
        """Settle the users; return how many failed on their own account.

        Raises when the panel as a whole cannot be reached; those whose turn has not come by then
        are left alone.
        """
        results = await asyncio.gather(
            *(self._settle_one(key, user, read_at=read_at) for key, user in users.items()),
            return_exceptions=True,
        )
        for result in results:
            if result is not None:
                raise result
        return self._failures

    async def _settle_one(self, key: str, user: PanelUser | None, *, read_at: float) -> None:
        async with self._gate:
            if self._outage:
                raise self._outage
            if self._gives_way():
                self.left.append(key)
                return
            try:
                await self._settle(key, user, read_at=read_at)
            except PanelFailingError as error:
                self._note(key, error)
                await self._demand_there()
            except (NotLeadingError, PanelUnavailableError, PanelLoginError) as error:
                self._outage = error
                raise
            except BridgeError as error:
                self._note(key, error)

    def _note(self, key: str, error: BridgeError) -> None:
        self._failures += 1
        log.error("user=%s could not be settled: %s", self._named(key), error)

    async def _demand_there(self) -> None:
        """Raise when the panel, which has failed at some users now, fails at everything."""
        self._failing += 1
        if self._failing != FAILING_USERS:
            return
        try:
            await self._panel.demand_there()
        except PanelUnavailableError as error:
            self._outage = error
            raise
