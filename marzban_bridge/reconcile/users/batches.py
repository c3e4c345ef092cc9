"""Settles batches of one panel's users: chunks of a pass, and users taken from the work queue.

Users are read in lists, and those of whom nothing is due are stored in one commit. Queued users
whose stored account calls for a change are not stored from a list first. One at a crossing is read
by itself right before it is settled. Of those whose limit has to move, as many as may be settled at
once are read in one list, and written right after its answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from marzban_bridge.clock import Clock
from marzban_bridge.errors import BridgeError
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelUser
from marzban_bridge.reconcile.users.chunk import UNREAD_AT, Chunk, TakenIn
from marzban_bridge.reconcile.users.concurrency import ConcurrencyLimit
from marzban_bridge.reconcile.users.evaluation import Evaluator
from marzban_bridge.reconcile.users.list_turn import ListTurn
from marzban_bridge.reconcile.users.online import OnlineUsers
from marzban_bridge.reconcile.users.reader import CHUNK, UserReader
from marzban_bridge.reconcile.work_queue import Batch, Urgency, WorkQueue

USERS_FOR_EACH_PLACE = 4
"""How many users are taken from the queue for each that may be settled at once: only while the
last ones of a batch are settled, fewer are."""
FRESH_SECONDS = 0.5
"""How long after the answer a user from a list may be written to; later it is read once more."""


class TakesUsersIn(Protocol):
    """What stores users as they were read from the panel."""

    def take_in(self, users: Mapping[str, PanelUser | None], *, read_at: float) -> TakenIn:
        """Store those users of whom nothing is due; return the others."""


class SettlesUsers(Protocol):
    """What settles the users of a panel, each by itself."""

    async def settle(
        self,
        key: str,
        user: PanelUser | None,
        *,
        read_at: float,
        fresh_until: float = UNREAD_AT,
    ) -> None:
        """Settle one user; None when the panel did not list it, or at UNREAD_AT.

        Until `fresh_until` it may be written to without being read again. Raises the panel's
        errors.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of a batch, in numbers of users."""

    evaluated: int = 0
    failures: int = 0

    def __add__(self, other: Settled) -> Settled:
        return Settled(
            evaluated=self.evaluated + other.evaluated, failures=self.failures + other.failures
        )


class BatchSettler:
    """Settles the users of one panel; a chunk of a pass and a batch of the queue at a time.

    Each method raises when the panel as a whole cannot be reached or refuses the sign-in; users
    that were begun are settled, or have failed, by then.
    """

    def __init__(
        self,
        *,
        panel: Panel,
        intake: TakesUsersIn,
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
        self._intake = intake
        self._settler = settler
        self._reader = reader
        self._evaluator = evaluator
        self._queue = queue
        self._limit = limit
        self._named = named
        self._clock = clock
        self._metrics = metrics
        self._in_pass: frozenset[str] = frozenset()
        self._in_queue: Counter[str] = Counter()
        """Users of the queue's batches under way."""
        self._list_turn = ListTurn()
        self._chunks: set[Chunk] = set()
        """Those under way."""
        self.online = OnlineUsers()
        """Those whom a pass has read."""

    async def settle_pass(self, keys: Sequence[str], *, leaves_queued: bool = False) -> Settled:
        """Settle a chunk of a pass; users whose published limit only moves are queued instead.

        `leaves_queued`: users of the queue's batches are left out, since they are being settled.
        """
        if leaves_queued:
            keys = [key for key in keys if key not in self._in_queue]
        self._in_pass = frozenset(keys)
        try:
            read_at = time.monotonic()
            users = await self._read(keys)
            self.online.add(users.values(), now=self._clock())
            taken = self._intake.take_in(users, read_at=read_at)
            self._queue.add(taken.moving, Urgency.PUBLISH)
            moving = frozenset(taken.moving)
            others = {key: user for key, user in taken.others.items() if key not in moving}
            failures = await self._settle(others, read_at=read_at, urgency=Urgency.PUBLISH)
        finally:
            self._in_pass = frozenset()
        return Settled(evaluated=len(users), failures=failures)

    def get_queued(self, urgency: Urgency) -> Batch:
        """Take the next users of an urgency from the queue."""
        return self._queue.get(urgency, limit=max(CHUNK, USERS_FOR_EACH_PLACE * self._limit.users))

    async def settle_queued(self, batch: Batch) -> Settled:
        """Settle users taken from the queue; several batches may be settled beside each other.

        One whose limit was to move, and has moved meanwhile, is not read.
        """
        due = list(filter(self._evaluator.calls_for_change, batch.since_seconds))
        alone = dict.fromkeys(filter(self._reader.can_read_alone, due))
        listed = [key for key in batch.since_seconds if key not in alone]
        if batch.urgency is Urgency.PUBLISH:
            listed = [key for key in listed if key in due or not self._is_settled(key)]
        settle_due = (
            self._settle_alone if batch.urgency is Urgency.CROSSING else self._settle_moving
        )
        begun = Counter((*alone, *listed))
        self._in_queue += begun
        try:
            results = await asyncio.gather(
                settle_due(list(alone)),
                self._settle_listed(listed, urgency=batch.urgency),
                return_exceptions=True,
            )
        finally:
            self._in_queue -= begun
        settled = Settled()
        for each in results:
            if isinstance(each, BaseException):
                raise each
            settled += each
        return settled

    def _is_settled(self, key: str) -> bool:
        """Tell whether a user of whom nothing is due was settled, or is now, by a pass."""
        return key in self._in_pass or self._evaluator.is_adopted(key)

    async def _settle_alone(
        self, keys: Sequence[str], *, urgency: Urgency = Urgency.CROSSING
    ) -> Settled:
        """Settle users each of whom is read by itself."""
        unread = dict.fromkeys(keys)
        failures = await self._settle(unread, read_at=UNREAD_AT, urgency=urgency)
        self._metrics.evaluations.inc(len(unread))
        return Settled(evaluated=len(unread), failures=failures)

    async def _settle_moving(self, keys: Sequence[str]) -> Settled:
        """Settle users whose limit has to move, each list of them right after it was read."""
        settled, left = Settled(), list(keys)
        while left:
            async with self._list_turn.taken() as to_begin:
                count = self._limit.users_at_no_crossing
                group, left = left[:count], left[count:]
                if len(group) == 1:
                    to_begin.end()
                    settled += await self._settle_alone(group, urgency=Urgency.PUBLISH)
                    continue
                read_at = time.monotonic()
                users = await self._reader.read(group)
                self._metrics.evaluations.inc(len(group))
                to_begin.listed(len(users))
                failures = await self._settle(
                    users,
                    read_at=read_at,
                    fresh_until=time.monotonic() + FRESH_SECONDS,
                    urgency=Urgency.PUBLISH,
                    on_begin=to_begin.begin,
                )
                settled += Settled(evaluated=len(users), failures=failures)
        return settled

    async def _settle_listed(self, keys: Sequence[str], *, urgency: Urgency) -> Settled:
        read_at = time.monotonic()
        users = await self._read(keys)
        others = self._intake.take_in(users, read_at=read_at).others
        failures = await self._settle(others, read_at=read_at, urgency=urgency)
        return Settled(evaluated=len(users), failures=failures)

    async def _read(self, keys: Iterable[str]) -> dict[str, PanelUser | None]:
        """Read those of the users that are to be requested now."""
        due = self._reader.due(list(keys))
        users = await self._reader.read(due) if due else {}
        self._metrics.evaluations.inc(len(due))
        return users

    async def _settle(
        self,
        users: Mapping[str, PanelUser | None],
        *,
        read_at: float,
        urgency: Urgency,
        fresh_until: float = UNREAD_AT,
        on_begin: Callable[[], None] = lambda: None,
    ) -> int:
        """Settle users one by one, as many at once as the limit allows; return how many failed."""

        async def settle(key: str, user: PanelUser | None, *, read_at: float) -> None:
            on_begin()
            await self._settler.settle(key, user, read_at=read_at, fresh_until=fresh_until)

        chunk = Chunk(
            settle=settle,
            panel=self._panel,
            named=self._named,
            limit=self._limit,
            urgency=urgency,
            on_outage=self._stop_chunks,
        )
        self._chunks.add(chunk)
        try:
            failures = await chunk.settle(users, read_at=read_at)
        finally:
            self._chunks.discard(chunk)
        self._metrics.soft_errors.labels(source="user").inc(failures)
        return failures

    def _stop_chunks(self, outage: BridgeError) -> None:
        for chunk in self._chunks:
            chunk.stop(outage)
