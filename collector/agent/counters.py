"""What a source says when it is asked: cumulative counters, and since when they count."""

from __future__ import annotations

from dataclasses import dataclass


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
    """Differs from life to life."""
    ticks: int | None = None
    """Never falls within a life."""

    def is_after(self, other: Life) -> bool:
        """Tell whether this is certainly a later life than the other."""
        if None not in (self.started, other.started) and self.started != other.started:
            return True
        return self.ticks is not None and other.ticks is not None and self.ticks < other.ticks


@dataclass(frozen=True, slots=True)
class Reading:
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
        """Add to a user's counter; what is no amount of bytes is skipped and counted."""
        up, down = amount(upload), amount(download)
        if up is None or down is None or not user:
            self.skipped += 1
            return
        _, had_up, had_down = self._sums.get(name or user, (user, 0, 0))
        self._sums[name or user] = (user, had_up + up, had_down + down)

    def reading(self, life: Life | None = None) -> Reading:
        """Return what was gathered."""
        counters = (Counter(name, *each) for name, each in self._sums.items())
        return Reading(tuple(counters), life or Life(), self.skipped)


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
