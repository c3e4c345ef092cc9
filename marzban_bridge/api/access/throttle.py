"""How often the same one may do the same thing; pure, given a clock reading."""

from __future__ import annotations

from collections import OrderedDict


class Throttle:
    """Counts what each name took: `burst` at once, then one per `refill_seconds`.

    The names heard longest ago are forgotten first, which only ever forgives them.
    """

    def __init__(self, *, burst: int, refill_seconds: float, remembered: int = 10_000) -> None:
        self._burst = burst
        self._refill_seconds = refill_seconds
        self._remembered = remembered
        self._tried: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, *, now_seconds: float) -> float:
        """Take one; return 0 if it may go on, else after how many seconds to come again."""
        tried = self._tried_of(name, now_seconds)
        wait_seconds = max(0.0, (tried + 1 - self._burst) * self._refill_seconds)
        self._note(name, tried if wait_seconds else tried + 1, now_seconds)
        return wait_seconds

    def give_back(self, name: str, *, now_seconds: float) -> None:
        """Forget one that was taken."""
        self._note(name, max(0.0, self._tried_of(name, now_seconds) - 1), now_seconds)

    def _tried_of(self, name: str, now_seconds: float) -> float:
        tried, at_seconds = self._tried.get(name, (0.0, now_seconds))
        return max(0.0, tried - max(0.0, now_seconds - at_seconds) / self._refill_seconds)

    def _note(self, name: str, tried: float, now_seconds: float) -> None:
        self._tried.pop(name, None)
        if tried > 0:
            self._tried[name] = (tried, now_seconds)
        if len(self._tried) > self._remembered:
            self._tried.popitem(last=False)
