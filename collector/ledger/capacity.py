"""Keeps each user's total within MAX_AMOUNT_BYTES, raw and billed; pure.

The limit is per user, so one user's full total does not affect others. Reading the totals of all
users at every commit would cost more than storing. So only the users whose totals are nearly full
are cached. All others have room for everything that is accepted until the totals are read again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from collector.ledger import Batch
from collector.reports.billing import AS_REPORTED_MILLIS, MAX_RATIO_MILLIS
from collector.reports.columns import amount_of
from collector.reports.report import MAX_AMOUNT_BYTES, Report

NEARLY_FULL_BYTES = MAX_AMOUNT_BYTES // 2
SPARE_BYTES = MAX_AMOUNT_BYTES - NEARLY_FULL_BYTES
"""The least room of each user that is not nearly full."""


class Amounts(NamedTuple):
    """A user's total, with stored reports that are not added up yet."""

    raw_bytes: int
    billed_bytes: int

    @property
    def is_nearly_full(self) -> bool:
        """Whether each report of the user has to be checked against the total."""
        return max(self) > NEARLY_FULL_BYTES


TotalOf = Callable[[str], Amounts]
"""Reads a user's total; zero for an unknown user."""


def raw_bytes_of(report: Report) -> int:
    """Return what a report adds to its user's raw total."""
    return report.upload_bytes + report.download_bytes


def billed_bytes_of(report: Report) -> int:
    """Return what a report adds to its user's billed total."""
    return raw_bytes_of(report) if report.billed_bytes is None else report.billed_bytes


class Capacity:
    """The users that are nearly full, as of the last read of the totals.

    `spare_bytes` is how much may be accepted, over all users, before the totals are read again.
    """

    def __init__(
        self, nearly_full: Mapping[str, Amounts], *, spare_bytes: int = SPARE_BYTES
    ) -> None:
        self.nearly_full = dict(nearly_full)
        self._spare_bytes = spare_bytes
        self._accepted_bytes = 0

    def is_ample(self, batches: Sequence[Batch]) -> bool:
        """Tell whether all reports fit, without checking each user."""
        return not self.nearly_full and self._has_spare(batches)

    def is_ample_for(self, offered: Amounts) -> bool:
        """Tell the same of reports with so many bytes together."""
        return not self.nearly_full and self._accepted_bytes + max(offered) <= self._spare_bytes

    def room(self, batches: Sequence[Batch], total_of: TotalOf) -> Room:
        """Return the Room that checks the reports of one commit one by one."""
        return Room(self.nearly_full, has_spare=self._has_spare(batches), total_of=total_of)

    def note(self, *, raw_bytes: int, billed_bytes: int, room: Room | None = None) -> None:
        """Note the bytes that a commit stored."""
        self._accepted_bytes += max(raw_bytes, billed_bytes)
        if room is not None:
            self.nearly_full = room.nearly_full

    def _has_spare(self, batches: Sequence[Batch]) -> bool:
        raw_bytes = sum(amount_of(batch.reports) for batch in batches)
        most_bytes = raw_bytes * MAX_RATIO_MILLIS // AS_REPORTED_MILLIS
        if self._accepted_bytes + most_bytes <= self._spare_bytes:
            return True
        billed_bytes = sum(billed_bytes_of(report) for batch in batches for report in batch.reports)
        return self._accepted_bytes + max(raw_bytes, billed_bytes) <= self._spare_bytes


class Room:
    """Checks report by report whether it fits its user's total."""

    def __init__(
        self, nearly_full: Mapping[str, Amounts], *, has_spare: bool, total_of: TotalOf
    ) -> None:
        self._totals = dict(nearly_full)
        self._has_spare = has_spare
        self._total_of = total_of

    @property
    def nearly_full(self) -> dict[str, Amounts]:
        """The users that are nearly full from now on."""
        return {name: total for name, total in self._totals.items() if total.is_nearly_full}

    def take(self, report: Report) -> bool:
        """Add a report to its user's total; return False, without adding it, if it does not fit."""
        total = self._totals.get(report.username)
        if total is None:
            if self._has_spare:
                return True
            total = self._total_of(report.username)
        grown = Amounts(
            total.raw_bytes + raw_bytes_of(report), total.billed_bytes + billed_bytes_of(report)
        )
        fits = max(grown) <= MAX_AMOUNT_BYTES
        self._totals[report.username] = grown if fits else total
        return fits
