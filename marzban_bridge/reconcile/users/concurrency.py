"""How many users of one panel are settled at once: as many as it serves without letting them wait.

A panel that takes 200 ms for an answer because it is far away serves 30 users in the time of 4. One
that takes as long because it works on one request after the other serves no more of them, and the
admins who use it wait behind the bridge's requests. Which one it is shows in the duration of
writes: what exceeds the shortest one is time in a queue of the panel's. TCP Vegas limits what is
under way in a network in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

from marzban_bridge.errors import PanelUnavailableError

FEWEST_USERS = 4
MOST_USERS = 32
"""Marzban answers in 40 threads, with up to 40 connections to its database."""
FEW_WAITING, MANY_WAITING = 2.0, 4.0
"""The limit grows while fewer users than this wait in the panel, and shrinks while more do."""
RENEWAL_WRITES = 1000
"""After so many writes the shortest duration is measured again: the panel may have changed."""


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
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._writes = 0
        self._shortest_seconds = math.inf

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Run the block, which settles one user, when the limit allows: first in, first out."""
        if self._waiting or self._settled >= self.users:
            await self._wait()
        else:
            self._settled += 1
        try:
            yield
        finally:
            self._leave()

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
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
        while self._waiting and self._settled < self.users:
            waiter = self._waiting.popleft()
            if not waiter.done():  # one whose task was cancelled is done
                self._settled += 1
                waiter.set_result(None)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Run the block, which writes to one user within its place, and adapt the limit."""
        users, began_at = self._settled, self._monotonic_seconds()
        try:
            yield
        except PanelUnavailableError:
            self._start_over()
            raise
        self._note(self._monotonic_seconds() - began_at, users)

    def _note(self, seconds: float, users: int) -> None:
        self._writes += 1
        if self._writes >= RENEWAL_WRITES:
            self._start_over()
            return
        self._shortest_seconds = min(self._shortest_seconds, seconds)
        waiting = users * (1 - self._shortest_seconds / seconds) if seconds else 0.0
        if waiting > MANY_WAITING:
            self._set(self.users - 1)
        elif waiting < FEW_WAITING and users >= self.users:
            self._set(self.users + 1)

    def _start_over(self) -> None:
        self._writes, self._shortest_seconds = 0, math.inf
        self._set(FEWEST_USERS)

    def _set(self, users: int) -> None:
        self.users = max(FEWEST_USERS, min(MOST_USERS, users))
        self._admit()
