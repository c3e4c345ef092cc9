"""The work queue of a panel: users to settle before the next pass, in order.

Webhooks, the feed, settled users and admins' actions add names; the panel's loop takes them.
Users with something due (a limit, a release, a reset) come before users whose published limit only
moves. Within each of the two the order is first in, first out; a name is queued once.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

CROSSINGS_IN_A_ROW = 4
"""After so many batches of crossings comes one of the others, so that they are not starved."""


class Urgency(IntEnum):
    """Why a user is queued, most urgent first."""

    CROSSING = 0
    """A user has to be cut off, released or reset, or the panel sent a webhook about it."""
    PUBLISH = 1
    """Only the published limit has to follow the usage, or an unknown name has to be searched."""


class Users(Protocol):
    """The stored accounts, as the queue needs them."""

    def has_account(self, key: str) -> bool:
        """Tell whether a name is that of a user with an account."""
        ...

    def urgency(self, key: str) -> Urgency | None:
        """Return how urgently a user's account requires settling; None for not at all."""
        ...


class Names(Protocol):
    """The backoff of names without an account, as the queue needs it."""

    def announced(self, keys: Iterable[str]) -> None:
        """Make names due at once: the panel may have such users now."""
        ...

    def reported(self, keys: Iterable[str]) -> None:
        """Make names that were reported due in the next pass."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Users taken from the queue, and since when each was queued, by the queue's clock."""

    urgency: Urgency
    since_seconds: Mapping[str, float]
    gives_way: bool
    """Whether users that were not begun are requeued when a more urgent one is added."""


class WorkQueue:
    """The users of one panel that are queued to be settled."""

    def __init__(
        self,
        *,
        users: Users,
        names: Names,
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._users = users
        self._names = names
        self._monotonic_seconds = monotonic_seconds
        self._waiting: dict[Urgency, OrderedDict[str, float]] = {
            each: OrderedDict() for each in Urgency
        }
        """By urgency, since when each user is queued. A plain dictionary keeps the places of those
        taken from its head, and looks through them at each batch."""
        self._crossings_in_a_row = 0
        self._news = asyncio.Event()

    @property
    def is_empty(self) -> bool:
        """Whether no user is queued."""
        return not any(self._waiting.values())

    def has(self, urgency: Urgency) -> bool:
        """Tell whether a user is queued with this urgency."""
        return bool(self._waiting[urgency])

    def add(self, keys: Iterable[str], urgency: Urgency = Urgency.CROSSING) -> None:
        """Queue these; a name that is queued keeps its place, or gets a more urgent one.

        Names without an account are made due at once in the backoff of unknown names.
        """
        now_seconds = self._monotonic_seconds()
        crossings, publishes = self._waiting[Urgency.CROSSING], self._waiting[Urgency.PUBLISH]
        for key in keys:
            if not self._users.has_account(key):
                self._names.announced([key])
            if key in crossings:
                continue
            if urgency is Urgency.CROSSING:
                crossings[key] = publishes.pop(key, now_seconds)
            else:
                publishes.setdefault(key, now_seconds)
        self._news.set()

    def add_if_needed(self, keys: Iterable[str]) -> None:
        """Queue those of these whose account requires settling, with the urgency it has.

        Names without an account become due in the next pass.
        """
        for key in keys:
            if (urgency := self._users.urgency(key)) is not None:
                self.add([key], urgency)
            else:
                self._names.reported([key])

    def get(self, *, limit: int, few: int) -> Batch:
        """Take the next users, at most `limit`: crossings if there are any.

        After CROSSINGS_IN_A_ROW batches of them, take `few` others, which are not postponed. The
        caller has to report the batch with `done`.
        """
        has_both = all(self._waiting.values())
        if self.has(Urgency.CROSSING) and not (
            has_both and self._crossings_in_a_row >= CROSSINGS_IN_A_ROW
        ):
            self._crossings_in_a_row += 1
            return self._take(Urgency.CROSSING, limit, gives_way=False)
        self._crossings_in_a_row = 0
        count = few if has_both else limit
        return self._take(Urgency.PUBLISH, count, gives_way=not has_both)

    def _take(self, urgency: Urgency, count: int, *, gives_way: bool) -> Batch:
        waiting = self._waiting[urgency]
        taken = (waiting.popitem(last=False) for _ in range(min(count, len(waiting))))
        since_seconds = dict(taken)
        return Batch(urgency=urgency, since_seconds=since_seconds, gives_way=gives_way)

    def done(self, batch: Batch, *, left: Iterable[str] = ()) -> list[float]:
        """Report a batch as processed; return how many seconds each settled user was queued.

        Users in `left` are requeued at the head of their urgency with their original time; names
        in it that were not in the batch are queued with the current time.
        """
        now_seconds = self._monotonic_seconds()
        returned = {key: batch.since_seconds.get(key, now_seconds) for key in left}
        waiting = self._waiting[batch.urgency]
        for key, since_seconds in reversed(returned.items()):
            if not any(key in each for each in self._waiting.values()):
                waiting[key] = since_seconds
                waiting.move_to_end(key, last=False)
        settled = batch.since_seconds.items()
        return [now_seconds - at for key, at in settled if key not in returned]

    def clear(self) -> None:
        """Remove all users: the next pass covers them."""
        for waiting in self._waiting.values():
            waiting.clear()

    async def wait(self) -> None:
        """Return when a user is queued."""
        self._news.clear()
        if self.is_empty:
            await self._news.wait()


class OtherQueues:
    """The queues of the other panels, whose users of the same names may share quotas."""

    def __init__(self, queues: Iterable[WorkQueue]) -> None:
        self._queues = tuple(queues)

    def add_if_needed(self, keys: Iterable[str]) -> None:
        """Queue users of these names on the other panels, if their accounts require settling."""
        keys = list(keys)
        for queue in self._queues:
            queue.add_if_needed(keys)


class CorrectionQueue:
    """Reported names with corrections to apply to baselines; the feed reader takes them.

    A name is added when a correction is read, and when an account is created or restored to which
    corrections of its names were not applied.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = set(names)

    @property
    def is_empty(self) -> bool:
        """Whether no name is queued."""
        return not self._names

    def add(self, names: Iterable[str]) -> None:
        """Queue these names."""
        self._names.update(names)

    def waiting(self) -> list[str]:
        """Return the queued names, in order."""
        return sorted(self._names)

    def get(self, name: str) -> None:
        """Remove a name; the caller adds it again if its corrections are not complete."""
        self._names.discard(name)
