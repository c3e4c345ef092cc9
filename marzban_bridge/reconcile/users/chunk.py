"""Settles the users of one chunk concurrently, and stops when the panel is unavailable.

A chunk is what a list of users, once it is taken in, leaves to be settled one by one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from marzban_bridge.reconcile.work_queue import Urgency

log = logging.getLogger(__name__)

UNREAD_AT = float("-inf")
"""When a user was read that was not read yet."""
FAILING_USERS = 3
"""After so many users for which the panel failed, check whether it fails for all requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenIn:
    """What is left to do for users that were read in a list."""

    others: Mapping[str, PanelUser | None]
    """Those who are to be settled one by one."""
    moving: Sequence[str] = ()
    """Those of them whose published limit only has to move."""


class Settle(Protocol):
    """Settles one user, as read at `read_at` (`time.monotonic`), or UNREAD_AT."""

    async def __call__(self, key: str, user: PanelUser | None, /, *, read_at: float) -> None:
        """Settle the user. Panel errors pass through."""
        ...


class Chunk:
    """Users to be settled once. `named` returns a user's name for the log.

    `on_outage` is called with the error when the panel as a whole cannot be reached.
    """

    def __init__(
        self,
        *,
        settle: Settle,
        panel: Panel,
        named: Callable[[str], str],
        limit: ConcurrencyLimit,
        urgency: Urgency,
        on_outage: Callable[[BridgeError], None],
    ) -> None:
        self._settle = settle
        self._panel = panel
        self._named = named
        self._limit = limit
        self._urgency = urgency
        self._on_outage = on_outage
        self._outage: BridgeError | None = None
        self._failing = self._failures = 0

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

    def stop(self, outage: BridgeError) -> None:
        """Settle no user who is not begun: the panel cannot be reached, as another chunk found."""
        self._outage = self._outage or outage

    async def _settle_one(self, key: str, user: PanelUser | None, *, read_at: float) -> None:
        async with self._limit.place(self._urgency):
            if self._outage:
                raise self._outage
            try:
                await self._settle(key, user, read_at=read_at)
            except PanelFailingError as error:
                self._note(key, error)
                await self._demand_there()
            except (NotLeadingError, PanelUnavailableError, PanelLoginError) as error:
                self._on_outage(error)
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
            self._on_outage(error)
            raise
