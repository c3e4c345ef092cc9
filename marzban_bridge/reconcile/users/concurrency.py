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
from dataclasses import dataclass

from marzban_bridge.errors import PanelUnavailableError
from marzban_bridge.reconcile.work_queue import Urgency

FEWEST_USERS = 4
MOST_USERS = 32
"""Marzban answers in 40 threads, with up to 40 connections to its database."""
FEW_WAITING, MANY_WAITING = 1.0, 2.0
"""The limit grows while fewer users than this wait in the panel, and shrinks while more do."""
FEW_SHARE, MANY_SHARE = 1 / 8, 1 / 4
"""The same as shares of the users at once, where these are more: the bridge itself is late, too."""
RENEWAL_WRITES = 1000
"""After so many writes the shortest duration is measured again: the panel may have changed."""
SAME_SHARE = 0.25
"""Where it has changed by no more than this, the limit is then what it was."""
FIRST_WRITES = 8
"""The mean of so many, with the fewest users, is the first shortest one."""
MEAN_WRITES = 32
"""The mean of about so many writes is compared: single ones differ, however few there are."""
PLACES_FOR_EACH_LEFT_FREE = 16
"""Of so many places one is left to crossings: others that began together end together."""
CROSSINGS_IN_A_ROW = 16
"""After so many crossings that waited comes one of the others, so that they are not starved."""


@dataclass(slots=True, eq=False)
class _Write:
    """A write that is under way, and how many users were settled at once meanwhile, at most."""

    most_settled: int


class _Sample:
    """The mean duration of the last writes of those that began after the limit shrank."""

    def __init__(self) -> None:
        self.writes = 0
        self.mean_seconds = 0.0

    def add(self, seconds: float, *, most_writes: int) -> None:
        """Add a write; the mean is of about `most_writes`."""
        self.writes += 1
        self.mean_seconds += (seconds - self.mean_seconds) / min(self.writes, most_writes)

    def share_above(self, seconds: float) -> float:
        """Return which share of the mean exceeds a duration."""
        return 1 - seconds / self.mean_seconds if self.mean_seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """What was known of the panel when it was measured again."""

    users: int = FEWEST_USERS
    shortest_seconds: float = 0.0
    doubles: bool = True

    def is_still_true(self, mean_seconds: float) -> bool:
        """Tell whether a panel whose writes take so long is as it was."""
        return abs(mean_seconds - self.shortest_seconds) <= self.shortest_seconds * SAME_SHARE


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
        self._under_way: set[_Write] = set()
        self._sample = _Sample()
        self._writes = 0
        """How many ended since the panel was measured last began."""
        self._shortest_seconds = 0.0
        self._before = _Measured()
        self._doubles = True
        """Whether the limit grows with each write at it, until the first user waits."""

    @property
    def users_at_no_crossing(self) -> int:
        """How many of them may be at no crossing."""
        return self.users - self.users // PLACES_FOR_EACH_LEFT_FREE

    @contextlib.asynccontextmanager
    async def place(self, urgency: Urgency) -> AsyncIterator[None]:
        """Run the block, which settles one user, when the limit allows.

        Users wait by urgency, and within each first in, first out. After CROSSINGS_IN_A_ROW
        crossings comes one of the others. Others leave a few places to crossings that may come.
        """
        places = self.users if urgency is Urgency.CROSSING else self.users_at_no_crossing
        is_before = any(waiting for each, waiting in self._waiting.items() if each <= urgency)
        if self._settled >= places or is_before:
            await self._wait(urgency)
        else:
            self._enter()
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

    def _enter(self) -> None:
        self._settled += 1
        for write in self._under_way:
            write.most_settled = max(write.most_settled, self._settled)

    def _leave(self) -> None:
        self._settled -= 1
        self._admit()

    def _admit(self) -> None:
        while self._settled < self.users and (waiter := self._next_waiter()):
            self._enter()
            waiter.set_result(None)

    def _next_waiter(self) -> asyncio.Future[None] | None:
        for waiting in self._waiting.values():
            while waiting and waiting[0].done():  # one whose task was cancelled is done
                waiting.popleft()
        crossings, others = self._waiting[Urgency.CROSSING], self._waiting[Urgency.PUBLISH]
        if crossings and not (others and self._crossings_in_a_row >= CROSSINGS_IN_A_ROW):
            self._crossings_in_a_row += 1
            return crossings.popleft()
        if not others or not (crossings or self._settled < self.users_at_no_crossing):
            return None
        self._crossings_in_a_row = 0
        return others.popleft()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Run the block, which writes to one user within its place, and adapt the limit."""
        limit, sample = self.users, self._sample
        write = _Write(most_settled=self._settled)
        self._under_way.add(write)
        began_at = self._monotonic_seconds()
        try:
            yield
        except PanelUnavailableError:
            self._before = _Measured()
            self._measure()
            raise
        finally:
            self._under_way.discard(write)
        if sample is self._sample:  # else it may have waited in the panel's queue
            self._note(self._monotonic_seconds() - began_at, write.most_settled, limit=limit)

    def _note(self, seconds: float, users: int, *, limit: int) -> None:
        """Adapt the limit to a write that began at that limit, beside so many users at most."""
        self._writes += 1
        if self._writes >= RENEWAL_WRITES:
            self._before = _Measured(
                users=self.users, shortest_seconds=self._shortest_seconds, doubles=self._doubles
            )
            self._measure()
            return
        sample = self._sample
        sample.add(seconds, most_writes=max(users, FIRST_WRITES) if self._doubles else MEAN_WRITES)
        if sample.writes < FIRST_WRITES:
            return
        if self._writes == FIRST_WRITES:
            self._shortest_seconds = sample.mean_seconds
            if self._before.is_still_true(sample.mean_seconds):
                self._doubles = self._before.doubles
                self._set(self._before.users)
                return
        elif self._doubles or sample.writes >= MEAN_WRITES:
            self._shortest_seconds = min(self._shortest_seconds, sample.mean_seconds)
        self._adapt(users, limit=limit)

    def _adapt(self, users: int, *, limit: int) -> None:
        waiting = users * self._sample.share_above(self._shortest_seconds)
        is_full = users >= limit - limit // PLACES_FOR_EACH_LEFT_FREE
        few, many = max(FEW_WAITING, users * FEW_SHARE), max(MANY_WAITING, users * MANY_SHARE)
        if waiting >= few:
            self._doubles = False
        if waiting > many and self.users > users - waiting + few:
            self._sample = _Sample()
            self._set(round(users - waiting + few))
        elif waiting < few and is_full and (self._doubles or limit == self.users):
            self._set(self.users + 1)

    def _measure(self) -> None:
        """Measure with few users what the panel takes."""
        self._sample = _Sample()
        self._writes, self._doubles = 0, True
        self._set(FEWEST_USERS)

    def _set(self, users: int) -> None:
        self.users = max(FEWEST_USERS, min(MOST_USERS, users))
        self._admit()
