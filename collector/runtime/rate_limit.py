"""How often each caller may call: token buckets in bounded memory; pure, given a clock reading."""

from __future__ import annotations

from collections import OrderedDict

ALMOST_ONE = 1 - 1e-6
"""Tolerance, so that a call after exactly the announced wait is not refused by rounding."""


class RateLimit:
    """One bucket per caller, `burst` deep, refilled at `per_second`; 0 per second is no limit.

    The callers seen longest ago are forgotten first; a forgotten caller has a full bucket again.
    """

    def __init__(self, *, per_second: float, burst: float, remembered: int = 100_000) -> None:
        self._per_second = per_second
        self._burst = burst
        self._remembered = remembered
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, *, now_seconds: float) -> float:
        """Take one call; return 0 if it is allowed, else the seconds to wait."""
        if self._per_second <= 0:
            return 0.0
        level = self._level(caller, now_seconds)
        is_free = level >= ALMOST_ONE
        self._note(caller, max(0.0, level - 1) if is_free else level, now_seconds)
        return 0.0 if is_free else (1 - level) / self._per_second

    def give_back(self, caller: str, *, now_seconds: float) -> None:
        """Undo one call that was taken."""
        self._note(caller, min(self._burst, self._level(caller, now_seconds) + 1), now_seconds)

    def _level(self, caller: str, now_seconds: float) -> float:
        level, at_seconds = self._buckets.get(caller, (self._burst, now_seconds))
        elapsed_seconds = max(0.0, now_seconds - at_seconds)
        return min(self._burst, level + elapsed_seconds * self._per_second)

    def _note(self, caller: str, level: float, now_seconds: float) -> None:
        self._buckets.pop(caller, None)
        if level < self._burst:  # a full bucket need not be stored
            self._buckets[caller] = (level, now_seconds)
        if len(self._buckets) > self._remembered:
            self._buckets.popitem(last=False)
