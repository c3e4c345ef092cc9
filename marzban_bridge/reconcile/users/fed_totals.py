"""Totals of users as the feed brought them, for a minute; in memory.

A reset of a user who used nothing on the panel's nodes shows in its webhook alone, which says when
it happened. What was reported before that, since the last look at the user, is to be forgiven too.
After a restart the last look's totals hold.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta

from marzban_bridge.quota.account import TotalsAt
from marzban_bridge.quota.usage import Totals

MAX_KEPT = 12
APART = timedelta(seconds=5)
"""Totals that came closer together are one: the older of them is dropped."""
KEPT_FOR = timedelta(minutes=2)


class FedTotals:
    """The newest totals of users who used nothing on the panel's nodes, each with its time."""

    def __init__(self) -> None:
        self._of: dict[str, deque[TotalsAt]] = {}
        """By account key, the one that changed last at the end."""

    def note(self, key: str, totals: Totals, *, at: datetime) -> None:
        """Keep what the feed has just brought of a user, and drop what is old of all."""
        kept = self._of.pop(key, None) or deque(maxlen=MAX_KEPT)
        if len(kept) > 1 and kept[-1].at - kept[-2].at < APART:
            kept.pop()
        kept.append(TotalsAt(at=at, totals=totals))
        self._of[key] = kept
        while (oldest := next(iter(self._of))) and self._of[oldest][-1].at < at - KEPT_FOR:
            del self._of[oldest]

    def of(self, key: str) -> tuple[TotalsAt, ...]:
        """Return what is kept of a user, oldest first."""
        return tuple(self._of.get(key, ()))
