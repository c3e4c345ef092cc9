"""The work queue of a panel: users to settle before the next pass, by urgency and in order.

Webhooks, the feed, settled users and admins' actions add names; the panel's loops take them, some
those with something due (a limit, a release, a reset), some those whose published limit only moves.
Within each of the two the order is first in, first out; a name is queued once.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


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
        self._news = {each: asyncio.Event() for each in Urgency}

    def has(self, urgency: Urgency) -> bool:
        """Tell whether a user is queued with this urgency."""
        return bool(self._waiting[urgency])

    def most_urgent(self) -> Urgency | None:
        """Return the urgency of the user to settle first; None if no user is queued."""
        return next(filter(self.has, Urgency), None)

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
        self._news[urgency].set()

    def add_if_needed(self, keys: Iterable[str]) -> None:
        """Queue those of these whose account requires settling, with the urgency it has.

        Names without an account become due in the next pass.
        """
        for key in keys:
            if (urgency := self._users.urgency(key)) is not None:
                self.add([key], urgency)
            else:
                self._names.reported([key])

    def get(self, urgency: Urgency, *, limit: int) -> Batch:
        """Take the next users of an urgency, at most `limit`.

        The caller has to report the batch with `done` or `put_back`.
        """
        waiting = self._waiting[urgency]
        taken = (waiting.popitem(last=False) for _ in range(min(limit, len(waiting))))
        return Batch(urgency=urgency, since_seconds=dict(taken))

    def done(self, batch: Batch) -> list[float]:
        """Report a batch as settled; return how many seconds each user of it was queued."""
        now_seconds = self._monotonic_seconds()
        return [now_seconds - at for at in batch.since_seconds.values()]

    def put_back(self, batch: Batch) -> None:
        """Requeue the users of a batch at the head of its urgency, with their original times."""
        waiting = self._waiting[batch.urgency]
        for key, since_seconds in reversed([*batch.since_seconds.items()]):
            if not any(key in each for each in self._waiting.values()):
                waiting[key] = since_seconds
                waiting.move_to_end(key, last=False)

    def clear(self) -> None:
        """Remove all users: the next pass covers them."""
        for waiting in self._waiting.values():
            waiting.clear()

    async def wait(self, urgency: Urgency) -> None:
        """Return when a user is queued with this urgency; it may be taken by another loop first."""
        news = self._news[urgency]
        news.clear()
        if not self.has(urgency):
            await news.wait()


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
