"""Counts the rows and bytes of an import by outcome; pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from collector.reports.report import Refusal


@dataclass(slots=True)
class ImportTally:
    """Rows and bytes by outcome; `is_balanced` tells whether they add up to what was read."""

    rows: int = 0
    bytes_read: int = 0
    rows_of_nothing: int = 0
    rows_too_old: int = 0
    bytes_too_old: int = 0
    bytes_counted: int = 0
    bytes_billed: int = 0
    """Bytes billed to quotas."""
    bytes_there: int = 0
    """Bytes that an earlier import counted."""
    statements: int = 0
    statements_counted: int = 0
    users: Counter[str] = field(default_factory=Counter)
    """Counted bytes by user."""
    refused_rows: Counter[str] = field(default_factory=Counter)
    refused_bytes: Counter[str] = field(default_factory=Counter)
    first_refused: dict[str, int] = field(default_factory=dict)
    """By reason, the first row that is refused for it; the first row of the file is 1."""
    days: tuple[int, int] | None = None
    """The first and the last day in the file."""

    def refuse(
        self, refusal: Refusal, *, rows: int, amount_bytes: int, row: int | None = None
    ) -> None:
        """Note rows and bytes that are refused, and why."""
        reason = f"{refusal.field} {refusal.reason}"
        self.refused_rows[reason] += rows
        self.refused_bytes[reason] += amount_bytes
        if row is not None:
            self.first_refused.setdefault(reason, row)

    def note_day(self, day: int) -> None:
        """Extend the range of days by a day."""
        first, last = self.days or (day, day)
        self.days = min(first, day), max(last, day)

    @property
    def is_balanced(self) -> bool:
        """Tell whether every byte that was read is counted, was imported before, or is refused."""
        accounted = (
            self.bytes_counted + self.bytes_there + self.bytes_too_old + self.refused_bytes.total()
        )
        return accounted == self.bytes_read
