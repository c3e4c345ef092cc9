"""Which users of a panel are settled before the next pass, and in which order.

Webhooks, the feed, settled users and what admins ask for add names; the panel's loop takes them.
Users of whom something is due (a limit, a release, a reset) come before users whose published limit
only moves. Within either, first come, first served; a name waits once, however often it is added.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from typing import Protocol

CROSSINGS_IN_A_ROW = 4
"""So many times users of whom something is due, then a few of the others: a flood starves none."""


class Urgency(IntEnum):
    """What a look at a user is for, the most urgent first."""

    CROSSING = 0
    """Somebody is to be shut out, let in or reset, or the panel says that something happened."""
    PUBLISH = 1
    """Only the limit in the panel is to follow the usage, or a name is to be looked up."""


class Users(Protocol):
    """What is known of the names that are added."""

    def has_account(self, key: str) -> bool:
        """Tell whether a name is that of a user with an account."""
        ...

    def urgency(self, key: str) -> Urgency | None:
        """Tell how urgently what is stored of a user calls for the panel; None for not at all."""
        ...


class Names(Protocol):
    """What is asked of the panel by names without an account."""

    def announced(self, keys: Iterable[str]) -> None:
        """Have names asked for as if they were new: the panel may have them now."""
        ...

    def reported(self, keys: Iterable[str]) -> None:
        """Have names that were reported again asked for with the next pass."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Users whose turn it is, and since when each waits, by the queue's clock."""

    urgency: Urgency
    since_seconds: Mapping[str, float]
    gives_way: bool
    """Whether those of them that are not begun wait again when something more urgent comes."""


class WorkQueue:
    """The users of one panel that wait to be settled."""

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
        self._waiting: dict[Urgency, dict[str, float]] = {each: {} for each in Urgency}
        self._crossings_in_a_row = 0
        self._news = asyncio.Event()

    @property
    def is_empty(self) -> bool:
        """Whether no user waits."""
        return not any(self._waiting.values())

    def has(self, urgency: Urgency) -> bool:
        """Tell whether a user waits with this urgency."""
        return bool(self._waiting[urgency])

    def add(self, keys: Iterable[str], urgency: Urgency = Urgency.CROSSING) -> None:
        """Have these settled; one that waits already keeps its place, or gets a more urgent one.

        Names without an account are asked for as if they were new.
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
        """Have those of these settled for whom what is stored calls for it, as urgently as it does.

        Of the others, names without an account are asked for with the next pass.
        """
        for key in keys:
            if (urgency := self._users.urgency(key)) is not None:
                self.add([key], urgency)
            else:
                self._names.reported([key])

    def get(self, *, limit: int, few: int) -> Batch:
        """Take out the next users, at most `limit`: crossings if there are any.

        After CROSSINGS_IN_A_ROW of them it is `few` others, which give way to none. What is taken
        is either settled or waits again: say so with `done`.
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
        keys = list(islice(waiting, count))
        since_seconds = {key: waiting.pop(key) for key in keys}
        return Batch(urgency=urgency, since_seconds=since_seconds, gives_way=gives_way)

    def done(self, batch: Batch, *, left: Iterable[str] = ()) -> list[float]:
        """End the turn of a batch; return how many seconds each user that was settled had waited.

        Those that are `left` wait again, before all others of their urgency and since when they
        did; so do names in it that were not in the batch, which wait since now.
        """
        now_seconds = self._monotonic_seconds()
        returned = {key: batch.since_seconds.get(key, now_seconds) for key in left}
        known = set().union(*self._waiting.values())
        waits = {key: at for key, at in returned.items() if key not in known}
        self._waiting[batch.urgency] = waits | self._waiting[batch.urgency]
        settled = batch.since_seconds.items()
        return [now_seconds - at for key, at in settled if key not in returned]

    def clear(self) -> None:
        """Forget who waits: the next pass looks at everybody."""
        for waiting in self._waiting.values():
            waiting.clear()

    def wake(self) -> None:
        """Have `wait` return though nobody waits."""
        self._news.set()

    async def wait(self, until_seconds: float) -> None:
        """Return when a user waits, after `wake`, or at this moment of the queue's clock."""
        self._news.clear()
        if not self.is_empty:
            return
        pause_seconds = max(0.01, until_seconds - self._monotonic_seconds())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_seconds):
                await self._news.wait()


class OtherQueues:
    """Those of the other panels, whose users of the same names may share their quotas."""

    def __init__(self, queues: Iterable[WorkQueue]) -> None:
        self._queues = tuple(queues)

    def add_if_needed(self, keys: Iterable[str]) -> None:
        """Have users of these names settled there, where what is stored of them calls for it."""
        keys = list(keys)
        for queue in self._queues:
            queue.add_if_needed(keys)


class CorrectionQueue:
    """Reported names whose corrections may not be in all baselines; the feed's reader takes them.

    Names are added where a correction is read, and where an account begins or goes on that has not
    followed those of its names.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = set(names)

    @property
    def is_empty(self) -> bool:
        """Whether no name waits."""
        return not self._names

    def add(self, names: Iterable[str]) -> None:
        """Have the corrections of these names followed."""
        self._names.update(names)

    def waiting(self) -> list[str]:
        """Return the names that wait now, in order."""
        return sorted(self._names)

    def get(self, name: str) -> None:
        """Take a name out, to be added again where that is not done to its end."""
        self._names.discard(name)
