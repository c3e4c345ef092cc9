"""The values of a poll: cumulative counters, and the start time of the source."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

START_TOLERANCE_SECONDS = 2.0
"""How much two values of one start time may differ if computed from an uptime."""
_FIRST_EPOCH_SECONDS = 1_000_000_000.0
"""Smaller numbers are not times but, for example, counts of restarts."""


@dataclass(frozen=True, slots=True)
class Counter:
    """A cumulative counter of one user of a source.

    `name` is unique within the source, `user` is the user's name there. Upload is what the user
    sent.
    """

    name: str
    user: str
    upload_bytes: int
    download_bytes: int


@dataclass(frozen=True, slots=True)
class Collections:
    """The garbage collections of a Go process: how many so far, and when the last ones ended.

    Times are nanoseconds since 1970 by the clock of the process, which may be set back.
    """

    count: int
    last_nanos: int
    recent_nanos: frozenset[int] = frozenset()
    """When the last 256 ended; empty if that is not known, as in a stored sample."""

    def are_of_another_run(self, before: Collections) -> bool:
        """Tell whether the process is certainly not the one with the collections before."""
        if self.count <= before.count:
            return (self.count, self.last_nanos) != (before.count, before.last_nanos)
        is_forgotten = self.count - before.count >= len(self.recent_nanos)
        return not is_forgotten and before.last_nanos not in self.recent_nanos | {0}


@dataclass(frozen=True, slots=True)
class PollTime:
    """When a sample was taken, by a clock that is never set (seconds since the machine's boot)."""

    boot: str
    """The id of that boot; times of two boots cannot be compared."""
    began_seconds: float
    ended_seconds: float


@dataclass(frozen=True, slots=True)
class Life:
    """A run of a source between two restarts, as far as the source tells it."""

    started: str | None = None
    """When the run began, as the source states it: differs after a restart. If it is stated, no
    counter falls within a run."""
    ticks: int | None = None
    """A number that only grows within a run, such as an uptime. It does not exclude that another
    tool resets counters within the run."""
    uptime_seconds: int | None = None
    """For how long the run has lasted, rounded down."""
    collections: Collections | None = None
    sums: tuple[int, ...] = ()
    """Sums over all users, including removed ones. Within a run they only grow; a restart sets them
    to zero, or to what the source last wrote to a file."""

    def is_after(self, other: Life) -> bool:
        """Tell whether this is certainly a later run than the other.

        Start times that differ by less than the tolerance are taken for the same run: two restarts
        so close to each other lose next to no traffic.
        """
        if None not in (self.started, other.started) and not self.has_start_of(other):
            return True
        if self.ticks is not None and other.ticks is not None and self.ticks < other.ticks:
            return True
        if any(2 * now < before for now, before in self._sums_beside(other)):
            return True
        if self.collections is None or other.collections is None:
            return False
        return self.collections.are_of_another_run(other.collections)

    def is_restored(self, other: Life) -> bool:
        """Tell whether the sums fell, but not by as much as if they had begun at zero."""
        return not self.is_after(other) and any(
            now < before for now, before in self._sums_beside(other)
        )

    def _sums_beside(self, other: Life) -> list[tuple[int, int]]:
        if len(self.sums) != len(other.sums):
            return []
        return list(zip(self.sums, other.sums, strict=True))

    def began_between(self, before: PollTime | None, now: PollTime | None) -> bool:
        """Tell whether the uptime is shorter than the time since the sample before."""
        if before is None or now is None or before.boot != now.boot:
            return False
        between_seconds = now.began_seconds - before.ended_seconds - START_TOLERANCE_SECONDS
        return self.uptime_seconds is not None and self.uptime_seconds < between_seconds

    def has_start_of(self, other: Life) -> bool:
        """Tell whether both have the same start time."""
        if self.started is None or other.started is None:
            return False
        if self.started == other.started:
            return True
        one, two = _moment_seconds(self.started), _moment_seconds(other.started)
        return one is not None and two is not None and abs(one - two) <= START_TOLERANCE_SECONDS

    def says_less_than(self, other: Life) -> bool:
        """Tell whether the other has a start or uptime that this one lacks."""
        lacks_start = self.started is None and other.started is not None
        return lacks_start or (self.ticks is None and other.ticks is not None)


def _moment_seconds(text: str) -> float | None:
    """Return the time in a text, in seconds since 1970; None if it has none."""
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        return seconds if seconds >= _FIRST_EPOCH_SECONDS else None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


@dataclass(frozen=True, slots=True)
class Sample:
    """All counters of a source at one moment; `skipped` rows could not be parsed."""

    counters: tuple[Counter, ...]
    life: Life = Life()
    skipped: int = 0
    is_of_one_process: bool = False
    """Whether all counters begin at zero with the process: if one fell or is missing, all did."""
    polled: PollTime | None = None


class Tally:
    """Builds a Sample from rows that hold one direction or part of a counter each."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[str, int, int]] = {}
        self.skipped = 0

    def add(self, user: str, *, upload: object = 0, download: object = 0, name: str = "") -> None:
        """Add to a user's counter; an invalid amount or name is skipped and counted."""
        up, down = amount(upload), amount(download)
        key = name or user
        if up is None or down is None or not user or not _is_storable(key + user):
            self.skipped += 1
            return
        _, had_up, had_down = self._sums.get(key, (user, 0, 0))
        if amount(had_up + up) is None or amount(had_down + down) is None:
            self.skipped += 1
            return
        self._sums[key] = (user, had_up + up, had_down + down)

    def sample(self, life: Life | None = None, *, is_of_one_process: bool = False) -> Sample:
        """Return the sample."""
        counters = (Counter(name, *each) for name, each in self._sums.items())
        return Sample(tuple(counters), life or Life(), self.skipped, is_of_one_process)


def amount(value: object) -> int | None:
    """Return a number of bytes, given as an integer or as digits; None for anything else."""
    is_digits = isinstance(value, str) and value.isascii() and value.isdecimal()
    if isinstance(value, str) and is_digits and len(value) <= 19:
        return amount(int(value))
    if isinstance(value, float) and value.is_integer():
        return amount(int(value))
    if type(value) is int and 0 <= value < 2**62:
        return value
    return None


def _is_storable(text: str) -> bool:
    """Tell whether a text is valid Unicode; JSON can also encode half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
