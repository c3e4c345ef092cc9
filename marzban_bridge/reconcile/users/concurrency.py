"""How many users of one panel are settled at once: as many as it serves without letting them wait.

A panel that takes 200 ms for an answer because it is far away serves 30 users in the time of 4. One
that takes as long because it works on one request after the other serves no more of them, and the
admins who use it wait behind the bridge's requests. Which one it is shows in the duration of
writes: what their mean exceeds the shortest mean is time in a queue of the panel's. TCP Vegas
limits what is under way in a network in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from marzban_bridge.errors import PanelUnavailableError
from marzban_bridge.reconcile.work_queue import Urgency

FEWEST_USERS = 4
MOST_USERS = 32
"""Marzban answers in 40 threads, with up to 40 connections to its database."""
FEW_WAITING, MANY_WAITING = 1.0, 2.0
"""The limit grows while fewer users than this wait in the panel, and shrinks while more do."""
RENEWAL_WRITES = 1000
"""After so many writes the shortest duration is measured again: the panel may have changed."""
FIRST_WRITES = 8
"""The mean of so many, with the fewest users, is the first shortest one."""
MEAN_WRITES = 32
"""The mean of about so many writes is compared: single ones differ, however few there are."""
CROSSINGS_IN_A_ROW = 16
"""After so many crossings that waited comes one of the others, so that they are not starved."""


class ConcurrencyLimit:
    """Limits how many users of one panel are settled at once; shared by all that settle them.

    It begins with FEWEST_USERS, and again when the panel was unavailable.
    """

    def __init__(self, *, monotonic_seconds: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_seconds = monotonic_seconds
        self.users = FEWEST_USERS
        """The limit."""
        self._settled = 0
        """How many users are being settled; after the limit shrank, it may be more."""
        self._waiting: dict[Urgency, deque[asyncio.Future[None]]] = {
            each: deque() for each in Urgency
        }
        self._crossings_in_a_row = 0
        self._measurement = self._writes = 0
        self._mean_seconds = self._shortest_seconds = 0.0
        self._doubles = True
        """Whether the limit grows with each write at it, until the first user waits."""

    @contextlib.asynccontextmanager
    async def place(self, urgency: Urgency) -> AsyncIterator[None]:
        """Run the block, which settles one user, when the limit allows.

        Users wait by urgency, and within each first in, first out. After CROSSINGS_IN_A_ROW
        crossings comes one of the others.
        """
        if self._settled >= self.users or any(self._waiting.values()):
            await self._wait(urgency)
        else:
            self._settled += 1
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, urgency: Urgency) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[urgency].append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # it was admitted, and is cancelled before it began
                self._leave()
            raise

    def _leave(self) -> None:
        self._settled -= 1
        self._admit()

    def _admit(self) -> None:
        while self._settled < self.users and (waiter := self._next_waiter()):
            self._settled += 1
            waiter.set_result(None)

    def _next_waiter(self) -> asyncio.Future[None] | None:
        for waiting in self._waiting.values():
            while waiting and waiting[0].done():  # one whose task was cancelled is done
                waiting.popleft()
        crossings, others = self._waiting[Urgency.CROSSING], self._waiting[Urgency.PUBLISH]
        if crossings and not (others and self._crossings_in_a_row >= CROSSINGS_IN_A_ROW):
            self._crossings_in_a_row += 1
            return crossings.popleft()
        self._crossings_in_a_row = 0
        return others.popleft() if others else None

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Run the block, which writes to one user within its place, and adapt the limit."""
        users, limit, measurement = self._settled, self.users, self._measurement
        began_at = self._monotonic_seconds()
        try:
            yield
        except PanelUnavailableError:
            self._start_over()
            raise
        if measurement == self._measurement:  # else it may have waited in the panel's queue
            self._note(self._monotonic_seconds() - began_at, users, limit=limit)

    def _note(self, seconds: float, users: int, *, limit: int) -> None:
        """Adapt the limit to a write that began beside so many users, at that limit."""
        self._writes += 1
        if self._writes >= RENEWAL_WRITES:
            self._start_over()
            return
        self._mean_seconds += (seconds - self._mean_seconds) / min(self._writes, MEAN_WRITES)
        if self._writes < FIRST_WRITES:
            self._shortest_seconds = self._mean_seconds
            return
        self._shortest_seconds = min(self._shortest_seconds, self._mean_seconds)
        waited_share = (
            1 - self._shortest_seconds / self._mean_seconds if self._mean_seconds else 0.0
        )
        waiting = users * waited_share
        if waiting >= FEW_WAITING:
            self._doubles = False
        if waiting > MANY_WAITING and self.users > users - waiting + FEW_WAITING:
            self._set(self.users - 1)
        elif waiting < FEW_WAITING and users >= (limit if self._doubles else self.users):
            self._set(self.users + 1)

    def _start_over(self) -> None:
        self._measurement += 1
        self._writes, self._mean_seconds, self._doubles = 0, 0.0, True
        self._set(FEWEST_USERS)

    def _set(self, users: int) -> None:
        self.users = max(FEWEST_USERS, min(MOST_USERS, users))
        self._admit()
