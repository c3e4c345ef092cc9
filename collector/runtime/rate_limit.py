"""How often somebody may call: token buckets in bounded memory; pure, given a clock reading."""

from __future__ import annotations

from collections import OrderedDict


class RateLimit:
    """One bucket per caller, `burst` deep, refilled at `per_second`; 0 per second is no limit.

    The callers seen longest ago are forgotten first, which only ever forgives them.
    """

    def __init__(self, *, per_second: float, burst: float, remembered: int = 100_000) -> None:
        self._per_second = per_second
        self._burst = burst
        self._remembered = remembered
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, *, now_seconds: float) -> float:
        """Take one call; return 0 if it may go on, else after how many seconds to come again."""
        if self._per_second <= 0:
            return 0.0
        level = self._level(caller, now_seconds)
        wait_seconds = 0.0 if level >= 1 else (1 - level) / self._per_second
        self._note(caller, level - 1 if level >= 1 else level, now_seconds)
        return wait_seconds

    def give_back(self, caller: str, *, now_seconds: float) -> None:
        """Undo one call that was taken."""
        self._note(caller, min(self._burst, self._level(caller, now_seconds) + 1), now_seconds)

    def _level(self, caller: str, now_seconds: float) -> float:
        level, at_seconds = self._buckets.get(caller, (self._burst, now_seconds))
        elapsed_seconds = max(0.0, now_seconds - at_seconds)
        return min(self._burst, level + elapsed_seconds * self._per_second)

    def _note(self, caller: str, level: float, now_seconds: float) -> None:
        self._buckets.pop(caller, None)
        self._buckets[caller] = (level, now_seconds)
        if len(self._buckets) > self._remembered:
            self._buckets.popitem(last=False)
