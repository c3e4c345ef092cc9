"""The figures of all accounts as last written; says when their sums and lists are due."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from collector.influx.delivery import Refused
from marzban_bridge.timeseries.figures import AccountId, UserFigures
from marzban_bridge.timeseries.summary import list_lines, reseller_lines

APART_SECONDS = 30.0
"""The shortest time between two writes of the lists over all users."""


class Summaries:
    """Holds the figures of every account that was written; nothing is due before all were.

    The sums of resellers are due once after each round over all accounts, the lists also when an
    account changes.
    """

    def __init__(self, panels: Iterable[str]) -> None:
        self._panels = tuple(panels)
        self._figures: dict[AccountId, UserFigures] = {}
        self._in_round: set[AccountId] = set()
        self._has_all = self._resellers_are_due = False
        self._written_at_seconds = -math.inf
        self.due_at_seconds = math.inf
        """When the next write is due, on the clock of the caller."""

    def note(self, figures: Mapping[AccountId, UserFigures]) -> None:
        """Store the figures of accounts that were written."""
        is_changed = any(
            self._figures.get(account_id) != each for account_id, each in figures.items()
        )
        self._figures |= figures
        self._in_round |= figures.keys()
        if is_changed:
            self._be_due()

    def forget(self, ids: Iterable[AccountId]) -> None:
        """Drop accounts that do not exist any more."""
        for account_id in ids:
            if self._figures.pop(account_id, None):
                self._be_due()

    def begin_round(self) -> None:
        """Note that a round begins, in which all accounts are written."""
        self._in_round.clear()

    def end_round(self) -> None:
        """Note that all accounts were written; drop those that were not."""
        self.forget(self._figures.keys() - self._in_round)
        self._has_all = self._resellers_are_due = True
        self.due_at_seconds = -math.inf

    def _be_due(self) -> None:
        if self._has_all:
            due_at_seconds = self._written_at_seconds + APART_SECONDS
            self.due_at_seconds = min(self.due_at_seconds, due_at_seconds)

    def work(self, *, at_millis: int) -> Callable[[], list[str | Refused]]:
        """Return a function that makes the lines that are due; another thread may call it."""
        users, with_resellers = list(self._figures.values()), self._resellers_are_due

        def lines() -> list[str | Refused]:
            found = list_lines(users, self._panels, at_millis=at_millis)
            return found + (reseller_lines(users, at_millis=at_millis) if with_resellers else [])

        return lines

    def written(self, *, at_seconds: float) -> None:
        """Note that InfluxDB stored the lines that were due."""
        self.due_at_seconds, self._written_at_seconds = math.inf, at_seconds
        self._resellers_are_due = False
