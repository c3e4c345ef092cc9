"""What a source says when it is asked: cumulative counters, and since when they count."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

WAVER_SECONDS = 2.0
"""So much two tellings of one start may differ, where it is worked out from an uptime."""
_FIRST_EPOCH_SECONDS = 1_000_000_000.0
"""Smaller numbers are no moments, but counts of restarts and the like."""


@dataclass(frozen=True, slots=True)
class Counter:
    """What a source has counted of one of its users since it began.

    `name` tells counters of a source apart, `user` is who it is there; the user's view decides
    which direction is up.
    """

    name: str
    user: str
    upload_bytes: int
    download_bytes: int


@dataclass(frozen=True, slots=True)
class Life:
    """How a source's present life can be told from the one before, where it says so at all."""

    started: str | None = None
    """Differs from life to life; within one, no counter falls."""
    ticks: int | None = None
    """Never falls within a life. Counters may: another tool can reset them."""

    def is_after(self, other: Life) -> bool:
        """Tell whether this is certainly a later life than the other.

        Where a start wavers, what was counted between two starts so near is too little to matter.
        """
        if None not in (self.started, other.started) and not self.has_start_of(other):
            return True
        return self.ticks is not None and other.ticks is not None and self.ticks < other.ticks

    def has_start_of(self, other: Life) -> bool:
        """Tell whether both say that they began at the same moment."""
        if self.started is None or other.started is None:
            return False
        if self.started == other.started:
            return True
        one, two = _moment_seconds(self.started), _moment_seconds(other.started)
        return one is not None and two is not None and abs(one - two) <= WAVER_SECONDS

    def says_less_than(self, other: Life) -> bool:
        """Tell whether the other says something of itself that this one does not."""
        lacks_start = self.started is None and other.started is not None
        return lacks_start or (self.ticks is None and other.ticks is not None)


def _moment_seconds(text: str) -> float | None:
    """Return the moment a text names, in seconds since 1970; None for what is no moment."""
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
    """All counters of a source at one moment; `skipped` rows made no sense."""

    counters: tuple[Counter, ...]
    life: Life = Life()
    skipped: int = 0


class Tally:
    """Gathers counters whose directions, or parts, come one by one."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[str, int, int]] = {}
        self.skipped = 0

    def add(self, user: str, *, upload: object = 0, download: object = 0, name: str = "") -> None:
        """Add to a user's counter; what is no amount of bytes, or no text, is skipped."""
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

    def sample(self, life: Life | None = None) -> Sample:
        """Return what was gathered."""
        counters = (Counter(name, *each) for name, each in self._sums.items())
        return Sample(tuple(counters), life or Life(), self.skipped)


def amount(value: object) -> int | None:
    """Return a number of bytes, given as a number or in digits; None for anything else."""
    is_digits = isinstance(value, str) and value.isascii() and value.isdecimal()
    if isinstance(value, str) and is_digits and len(value) <= 19:
        return amount(int(value))
    if isinstance(value, float) and value.is_integer():
        return amount(int(value))
    if type(value) is int and 0 <= value < 2**62:
        return value
    return None


def _is_storable(text: str) -> bool:
    """Tell whether a text is Unicode; half of a surrogate pair, as JSON can name it, is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
