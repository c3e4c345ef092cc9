"""Exponential backoff with jitter; pure, given its randomness."""

from __future__ import annotations

from collections.abc import Callable

LONGEST_RETRY_AFTER_SECONDS = 3600.0


class Pace:
    """Doubles the wait with each setback up to a longest one, with jitter; success resets it.

    `chance` returns a number from 0 to 1; without it there is no jitter. A wait that the other
    side asks for is never undercut.
    """

    def __init__(
        self,
        *,
        chance: Callable[[], float] | None = None,
        first_seconds: float = 1.0,
        longest_seconds: float = 60.0,
    ) -> None:
        self._chance = chance
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._setbacks = 0

    def succeed(self) -> None:
        """Reset the backoff to the shortest wait."""
        self._setbacks = 0

    def wait_seconds(self, *, asked_seconds: float | None = None) -> float:
        """Return how long to wait after one more setback."""
        doubled = self._first_seconds * 2.0 ** min(self._setbacks, 32)
        self._setbacks += 1
        own_seconds = min(self._longest_seconds, doubled)
        asked = min(asked_seconds or 0.0, LONGEST_RETRY_AFTER_SECONDS)
        if self._chance is None:
            return max(own_seconds, asked)
        # Jitter: senders that were refused at the same time must not retry at the same time.
        return max(own_seconds * (0.5 + self._chance() / 2), asked * (1 + self._chance() / 10))
