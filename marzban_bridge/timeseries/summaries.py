"""The figures of all accounts as last written, and when their sums and lists are due."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from collector.influx.delivery import Refused
from marzban_bridge.timeseries.figures import UserFigures
from marzban_bridge.timeseries.summary import list_lines, reseller_lines

APART_SECONDS = 30.0
"""The shortest time between two writes of the lists over all users."""
Place = tuple[str, str]
"""A panel and the key of an account on it."""


class Summaries:
    """Is told of every account that is written; nothing is due before all were written once.

    The sums of resellers are due once after each round of all accounts, the rest also when an
    account changes.
    """

    def __init__(self, panels: Iterable[str]) -> None:
        self._panels = tuple(panels)
        self._figures: dict[Place, UserFigures] = {}
        self._in_round: set[Place] = set()
        self._knows_everybody = self._resellers_are_due = False
        self._written_at_seconds = -math.inf
        self.due_at_seconds = math.inf
        """When the next write is due, on the clock of the caller."""

    def note(self, figures: Mapping[Place, UserFigures]) -> None:
        """Take the figures of accounts that were written."""
        is_changed = any(self._figures.get(place) != each for place, each in figures.items())
        self._figures |= figures
        self._in_round |= figures.keys()
        if is_changed:
            self._be_due()

    def forget(self, places: Iterable[Place]) -> None:
        """Drop accounts that are no more."""
        for place in places:
            if self._figures.pop(place, None):
                self._be_due()

    def begin_round(self) -> None:
        """Note that from now on all accounts are written, one after the other."""
        self._in_round.clear()

    def end_round(self) -> None:
        """Note that all accounts were written; the others are no more."""
        self.forget(self._figures.keys() - self._in_round)
        self._knows_everybody = self._resellers_are_due = True
        self.due_at_seconds = -math.inf

    def _be_due(self) -> None:
        if self._knows_everybody:
            due_at_seconds = self._written_at_seconds + APART_SECONDS
            self.due_at_seconds = min(self.due_at_seconds, due_at_seconds)

    def work(self, *, at_millis: int) -> Callable[[], list[str | Refused]]:
        """Return what makes the lines that are due: it may run in another thread."""
        users, with_resellers = list(self._figures.values()), self._resellers_are_due

        def lines() -> list[str | Refused]:
            found = list_lines(users, self._panels, at_millis=at_millis)
            return found + (reseller_lines(users, at_millis=at_millis) if with_resellers else [])

        return lines

    def written(self, *, at_seconds: float) -> None:
        """Note that what was due is written."""
        self.due_at_seconds, self._written_at_seconds = math.inf, at_seconds
        self._resellers_are_due = False
