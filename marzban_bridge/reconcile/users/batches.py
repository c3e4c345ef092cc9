"""Settles batches of one panel's users: chunks of a pass, and users taken from the work queue.

Users are read in lists, and those of whom nothing is due are stored in one commit. A queued user
whose stored account calls for a change is read by itself instead: it has to be read once more
right before a write, which makes the list superfluous.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from marzban_bridge.clock import Clock
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelUser
from marzban_bridge.reconcile.users.chunk import UNREAD_AT, Chunk
from marzban_bridge.reconcile.users.concurrency import ConcurrencyLimit
from marzban_bridge.reconcile.users.evaluation import Evaluator
from marzban_bridge.reconcile.users.online import OnlineUsers
from marzban_bridge.reconcile.users.reader import CHUNK, UserReader
from marzban_bridge.reconcile.work_queue import Batch, Urgency, WorkQueue

USERS_FOR_EACH_PLACE = 4
"""How many users are taken from the queue for each that may be settled at once: only while the
last ones of a batch are settled, fewer are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenIn:
    """What is left to do for users that were read in a list."""

    others: Mapping[str, PanelUser | None]
    """Those who are to be settled one by one."""
    moving: Sequence[str] = ()
    """Those of them whose published limit only has to move."""


class SettlesUsers(Protocol):
    """What settles the users of a panel once they are read from it."""

    def take_in(self, users: Mapping[str, PanelUser | None], *, read_at: float) -> TakenIn:
        """Settle those users of whom nothing is due; return the others."""

    async def settle(self, key: str, user: PanelUser | None, *, read_at: float) -> None:
        """Settle one user; None when the panel did not list it, or at UNREAD_AT.

        Raises the panel's errors.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of a batch, in numbers of users."""

    evaluated: int = 0
    failures: int = 0
    left: tuple[str, ...] = ()
    """Users that were not begun when a more urgent one was queued."""


class BatchSettler:
    """Settles the users of one panel; a chunk of a pass and a batch of the queue at a time.

    Each method raises when the panel as a whole cannot be reached or refuses the sign-in; users
    that were begun are settled, or have failed, by then.
    """

    def __init__(
        self,
        *,
        panel: Panel,
        settler: SettlesUsers,
        reader: UserReader,
        evaluator: Evaluator,
        queue: WorkQueue,
        limit: ConcurrencyLimit,
        named: Callable[[str], str],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._panel = panel
        self._settler = settler
        self._reader = reader
        self._evaluator = evaluator
        self._queue = queue
        self._limit = limit
        self._named = named
        self._clock = clock
        self._metrics = metrics
        self._in_pass: frozenset[str] = frozenset()
        self._in_queue: frozenset[str] = frozenset()
        self.online = OnlineUsers()
        """Those whom a pass has read."""

    async def settle_pass(self, keys: Sequence[str], *, leaves_queued: bool = False) -> Settled:
        """Settle a chunk of a pass; users whose published limit only moves are queued instead.

        `leaves_queued`: users of the queue's batch are left out, since they are being settled.
        """
        if leaves_queued:
            keys = [key for key in keys if key not in self._in_queue]
        self._in_pass = frozenset(keys)
        try:
            read_at = time.monotonic()
            users = await self._read(keys)
            self.online.add(users.values(), now=self._clock())
            taken = self._settler.take_in(users, read_at=read_at)
            self._queue.add(taken.moving, Urgency.PUBLISH)
            moving = frozenset(taken.moving)
            others = {key: user for key, user in taken.others.items() if key not in moving}
            settled = await self._settle(others, read_at=read_at)
        finally:
            self._in_pass = frozenset()
        return Settled(evaluated=len(users), failures=settled.failures)

    def get_queued(self) -> Batch:
        """Take the next users from the queue."""
        limit = max(CHUNK, USERS_FOR_EACH_PLACE * self._limit.users)
        return self._queue.get(limit=limit, few=self._limit.users)

    async def settle_queued(self, batch: Batch) -> Settled:
        """Settle users taken from the queue.

        One whose limit was to move, and has moved meanwhile, is not read.
        """
        due = list(filter(self._evaluator.calls_for_change, batch.since_seconds))
        alone = dict.fromkeys(filter(self._reader.can_read_alone, due))
        listed = [key for key in batch.since_seconds if key not in alone]
        if batch.urgency is Urgency.PUBLISH:
            listed = [key for key in listed if key in due or not self._is_settled(key)]
        self._in_queue = frozenset((*alone, *listed))
        try:
            results = await asyncio.gather(
                self._settle(alone, read_at=UNREAD_AT, gives_way=batch.gives_way),
                self._settle_listed(listed, gives_way=batch.gives_way),
                return_exceptions=True,
            )
        finally:
            self._in_queue = frozenset()
        settled: list[Settled] = []
        for each in results:
            if isinstance(each, BaseException):
                raise each
            settled.append(each)
        return Settled(
            evaluated=sum(each.evaluated for each in settled),
            failures=sum(each.failures for each in settled),
            left=tuple(key for each in settled for key in each.left),
        )

    def _is_settled(self, key: str) -> bool:
        """Tell whether a user of whom nothing is due was settled, or is now, by a pass."""
        return key in self._in_pass or self._evaluator.is_adopted(key)

    async def _settle_listed(self, keys: Sequence[str], *, gives_way: bool) -> Settled:
        read_at = time.monotonic()
        users = await self._read(keys)
        others = self._settler.take_in(users, read_at=read_at).others
        settled = await self._settle(others, read_at=read_at, gives_way=gives_way)
        return replace(settled, evaluated=len(users))

    async def _read(self, keys: Iterable[str]) -> dict[str, PanelUser | None]:
        """Read those of the users that are to be requested now."""
        due = [key for key in keys if self._reader.is_due(key)]
        users = await self._reader.read(due) if due else {}
        self._metrics.evaluations.inc(len(due))
        return users

    async def _settle(
        self, users: Mapping[str, PanelUser | None], *, read_at: float, gives_way: bool = False
    ) -> Settled:
        chunk = Chunk(
            settle=self._settler.settle,
            panel=self._panel,
            named=self._named,
            limit=self._limit,
            gives_way=lambda: gives_way and self._queue.has(Urgency.CROSSING),
        )
        failures = await chunk.settle(users, read_at=read_at)
        self._metrics.soft_errors.labels(source="user").inc(failures)
        evaluated = len(users) - len(chunk.left)
        if read_at == UNREAD_AT:
            self._metrics.evaluations.inc(evaluated)
        return Settled(evaluated=evaluated, failures=failures, left=tuple(chunk.left))
