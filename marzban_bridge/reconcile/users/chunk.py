"""Settles the users of one chunk concurrently, and stops when the panel is unavailable."""

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
from marzban_bridge.reconcile.users.concurrency import ConcurrencyLimit

log = logging.getLogger(__name__)

UNREAD_AT = float("-inf")
"""When a user was read that was not read yet."""
FAILING_USERS = 3
"""After so many users for which the panel failed, check whether it fails for all requests."""


class Settle(Protocol):
    """Settles one user, as read at `read_at` (`time.monotonic`), or UNREAD_AT."""

    async def __call__(self, key: str, user: PanelUser | None, /, *, read_at: float) -> None:
        """Settle the user. Panel errors pass through."""
        ...


class Chunk:
    """Users to be settled once. `named` returns a user's name for the log.

    `gives_way` returns True when users that were not begun are to be postponed.
    """

    def __init__(
        self,
        *,
        settle: Settle,
        panel: Panel,
        named: Callable[[str], str],
        limit: ConcurrencyLimit,
        gives_way: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settle = settle
        self._panel = panel
        self._named = named
        self._gives_way = gives_way
        self._limit = limit
        self._outage: BridgeError | None = None
        self._failing = self._failures = 0
        self.left: list[str] = []
        """Users that were postponed."""

    async def settle(self, users: Mapping[str, PanelUser | None], *, read_at: float) -> int:
        """Settle the users; return how many failed.

        Raises when the panel as a whole cannot be reached; users that were not begun by then are
        not settled.
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
        async with self._limit.place():
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
        """Raise if the panel, after failures for single users, fails for any request."""
        self._failing += 1
        if self._failing != FAILING_USERS:
            return
        try:
            await self._panel.demand_there()
        except PanelUnavailableError as error:
            self._outage = error
            raise
