"""When the panel is asked again for an unknown name: with exponential backoff; pure.

A name that was unknown twice is asked for one pass later, then two, then four, up to an hour. A
report of the name shortens that to the next pass, a webhook to now. The search for users whose name
is equal without regard to case is expensive, and is not repeated after a mere report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

LONGEST_PAUSE = timedelta(hours=1)

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Question:
    due_at: datetime = _LONG_AGO
    pause: timedelta | None = None
    """None if there was a report or webhook of the name since the panel was last asked."""

    def asked(self, now: datetime, *, shortest: timedelta, longest: timedelta) -> _Question:
        if now < self.due_at:
            return self
        if self.pause is None:
            return _Question(now, timedelta(0))
        pause = min(longest, max(shortest, 2 * self.pause))
        return _Question(now + pause, pause)


@dataclass(frozen=True, slots=True)
class _Asked:
    exact: _Question = _Question()
    search: _Question = _Question()


class UnknownNames:
    """The backoff of names without a user; not stored."""

    def __init__(self, *, pass_seconds: float) -> None:
        self._pass = timedelta(seconds=pass_seconds)
        self._asked: dict[str, _Asked] = {}
        self._reported: set[str] = set()

    def is_new(self, key: str) -> bool:
        """Tell whether the panel was not asked for a name yet."""
        return key not in self._asked

    def is_due(self, key: str, *, now: datetime) -> bool:
        """Tell whether the panel is to be asked for a name."""
        return key in self._reported or now >= self._asked.get(key, _Asked()).exact.due_at

    def is_search_due(self, key: str, *, now: datetime) -> bool:
        """Tell whether users that are equal without case are to be searched for as well."""
        return now >= self._asked.get(key, _Asked()).search.due_at

    def note(
        self,
        key: str,
        *,
        now: datetime,
        is_searched: bool = True,
        longest: timedelta = LONGEST_PAUSE,
    ) -> None:
        """Record that the panel was asked and had no such user."""
        self._reported.discard(key)
        asked = self._asked.get(key, _Asked())
        exact, search = asked.exact.asked(now, shortest=self._pass, longest=longest), asked.search
        if is_searched:
            search = search.asked(now, shortest=self._pass, longest=LONGEST_PAUSE)
        self._asked[key] = _Asked(exact, search)

    def rest(self, key: str, *, now: datetime) -> None:
        """Record a name that was unknown before the process started: the search is delayed."""
        resting = _Question(now + LONGEST_PAUSE, LONGEST_PAUSE)
        self._asked[key] = _Asked(search=resting)

    def reported(self, keys: Iterable[str]) -> None:
        """Make names that were reported due in the next pass."""
        self._reported.update(key for key in keys if key in self._asked)

    def announced(self, keys: Iterable[str]) -> None:
        """Make names due at once, search included: the panel may have such users now."""
        self._asked.update((key, _Asked()) for key in keys)

    def forget(self, key: str) -> None:
        """Remove a name that has a user now."""
        self._asked.pop(key, None)
        self._reported.discard(key)
