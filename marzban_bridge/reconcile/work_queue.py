"""Which users are to be looked at before the next pass, and in which order; pure.

Users of whom something is due (a limit, a release, a reset) come before users whose published limit
only moves. Within either, first come, first served; a user is in it once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice

CROSSINGS_IN_A_ROW = 4
"""So many times users of whom something is due, then a few of the others: a flood starves none."""


class Urgency(IntEnum):
    """What a look at a user is for, the most urgent first."""

    CROSSING = 0
    """Somebody is to be shut out, let in or reset, or the panel says that something happened."""
    PUBLISH = 1
    """Only the limit in the panel is to follow the usage, or a name is to be looked up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Users whose turn it is, and since when each waits, by the queue's clock."""

    since_seconds: Mapping[str, float]
    gives_way: bool
    """Whether those of them that are not begun wait again when something more urgent comes."""


class WorkQueue:
    """Users that wait to be looked at."""

    def __init__(self) -> None:
        self._waiting: dict[Urgency, dict[str, float]] = {each: {} for each in Urgency}
        self._crossings_in_a_row = 0

    def __bool__(self) -> bool:
        return any(self._waiting.values())

    def has(self, urgency: Urgency) -> bool:
        """Tell whether somebody waits with this urgency."""
        return bool(self._waiting[urgency])

    def add(self, keys: Iterable[str], urgency: Urgency, *, now_seconds: float) -> None:
        """Have these looked at; one that waits already keeps its place, or gets a more urgent."""
        crossings, publishes = self._waiting[Urgency.CROSSING], self._waiting[Urgency.PUBLISH]
        for key in keys:
            if key in crossings:
                continue
            if urgency is Urgency.CROSSING:
                crossings[key] = publishes.pop(key, now_seconds)
            else:
                publishes.setdefault(key, now_seconds)

    def put_back(self, since_seconds: Mapping[str, float], urgency: Urgency) -> None:
        """Have these wait again, before all others of their urgency, since when they did."""
        known = set().union(*self._waiting.values())
        returned = {key: at for key, at in since_seconds.items() if key not in known}
        self._waiting[urgency] = returned | self._waiting[urgency]

    def take(self, *, limit: int, few: int) -> tuple[Urgency, Batch]:
        """Take out the next users, at most `limit`: crossings if there are any.

        After CROSSINGS_IN_A_ROW of them it is `few` others, which give way to nobody.
        """
        has_both = all(self._waiting.values())
        if self.has(Urgency.CROSSING) and not (
            has_both and self._crossings_in_a_row >= CROSSINGS_IN_A_ROW
        ):
            self._crossings_in_a_row += 1
            return Urgency.CROSSING, self._take(Urgency.CROSSING, limit, gives_way=False)
        self._crossings_in_a_row = 0
        count = few if has_both else limit
        return Urgency.PUBLISH, self._take(Urgency.PUBLISH, count, gives_way=not has_both)

    def _take(self, urgency: Urgency, count: int, *, gives_way: bool) -> Batch:
        waiting = self._waiting[urgency]
        keys = list(islice(waiting, count))
        return Batch(since_seconds={key: waiting.pop(key) for key in keys}, gives_way=gives_way)

    def clear(self) -> None:
        """Forget who waits: the next pass looks at everybody."""
        for waiting in self._waiting.values():
            waiting.clear()
