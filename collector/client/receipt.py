"""What the collector did with reports that were sent; values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rejected:
    """A report the collector refuses for good, and why."""

    report_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """How many reports were stored: `accepted` are new, `duplicates` were stored before.

    `ignored` had zero bytes. `rejected` are refused for good: a retry is refused as well.
    """

    accepted: int = 0
    duplicates: int = 0
    ignored: int = 0
    rejected: tuple[Rejected, ...] = ()

    def __add__(self, other: Receipt) -> Receipt:
        return Receipt(
            self.accepted + other.accepted,
            self.duplicates + other.duplicates,
            self.ignored + other.ignored,
            self.rejected + other.rejected,
        )
