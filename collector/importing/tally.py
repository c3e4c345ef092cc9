"""What became of every row and byte of an import; pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from collector.reports.report import Refusal


@dataclass(slots=True)
class ImportTally:
    """Rows and bytes by what became of them; `is_balanced` says whether none got lost."""

    rows: int = 0
    bytes_read: int = 0
    rows_of_nothing: int = 0
    rows_too_old: int = 0
    bytes_too_old: int = 0
    bytes_counted: int = 0
    bytes_billed: int = 0
    """What of it counts toward quotas."""
    bytes_there: int = 0
    """Counted by an import before."""
    statements: int = 0
    statements_counted: int = 0
    users: Counter[str] = field(default_factory=Counter)
    """What was counted, by user."""
    refused_rows: Counter[str] = field(default_factory=Counter)
    refused_bytes: Counter[str] = field(default_factory=Counter)
    days: tuple[int, int] | None = None
    """The first and last day that something was read of."""

    def refuse(self, refusal: Refusal, *, rows: int, amount_bytes: int) -> None:
        """Note why something is not counted."""
        reason = f"{refusal.field} {refusal.reason}"
        self.refused_rows[reason] += rows
        self.refused_bytes[reason] += amount_bytes

    def note_day(self, day: int) -> None:
        """Widen the days to one more."""
        first, last = self.days or (day, day)
        self.days = min(first, day), max(last, day)

    @property
    def is_balanced(self) -> bool:
        """Tell whether every byte that was read is counted, was there, or is refused."""
        accounted = (
            self.bytes_counted + self.bytes_there + self.bytes_too_old + self.refused_bytes.total()
        )
        return accounted == self.bytes_read
