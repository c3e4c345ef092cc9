"""What became of reports that were sent; values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rejected:
    """A report the collector refuses for good, and why."""

    report_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the collector did: `accepted` and `duplicates` are on its disk.

    `ignored` were of zero bytes. `rejected` will not be taken however often they are sent.
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
