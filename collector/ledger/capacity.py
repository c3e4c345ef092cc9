"""How much each user's total may still grow: up to MAX_AMOUNT_BYTES, raw and billed; pure.

The limit is of one user alone, so a user whose total is full never keeps another's report out. To
look up the total of every user at every commit would cost more than storing. So a ledger knows of
few users: those that are nearly full. All others have room for all that is accepted between two
looks at the totals.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from collector.ledger import Batch
from collector.reports.billing import AS_REPORTED_MILLIS, MAX_RATIO_MILLIS
from collector.reports.report import MAX_AMOUNT_BYTES, Report

NEARLY_FULL_BYTES = MAX_AMOUNT_BYTES // 2
SPARE_BYTES = MAX_AMOUNT_BYTES - NEARLY_FULL_BYTES
"""All users that are not nearly full have at least so much room."""


class Amounts(NamedTuple):
    """A user's total since for ever, with what is stored and in no sum yet."""

    raw_bytes: int
    billed_bytes: int

    @property
    def is_nearly_full(self) -> bool:
        """Whether the user's total has to be looked at before it grows."""
        return max(self) > NEARLY_FULL_BYTES


TotalOf = Callable[[str], Amounts]
"""Reads a user's total; a user who was never reported has nothing."""


def raw_bytes_of(report: Report) -> int:
    """Return what a report adds to its user's raw total."""
    return report.upload_bytes + report.download_bytes


def billed_bytes_of(report: Report) -> int:
    """Return what a report adds to its user's billed total."""
    return raw_bytes_of(report) if report.billed_bytes is None else report.billed_bytes


class Capacity:
    """What is known of the users' totals since the last look at them.

    `spare_bytes` is how much may be accepted, over all users, before the next look.
    """

    def __init__(
        self, nearly_full: Mapping[str, Amounts], *, spare_bytes: int = SPARE_BYTES
    ) -> None:
        self.nearly_full = dict(nearly_full)
        self._spare_bytes = spare_bytes
        self._accepted_bytes = 0

    def is_ample(self, batches: Sequence[Batch]) -> bool:
        """Tell whether all reports fit, whichever users they are of."""
        return not self.nearly_full and self._has_spare(batches)

    def room(self, batches: Sequence[Batch], total_of: TotalOf) -> Room:
        """Return what decides about the reports of one commit, one by one."""
        return Room(self.nearly_full, has_spare=self._has_spare(batches), total_of=total_of)

    def note(self, *, raw_bytes: int, billed_bytes: int, room: Room | None = None) -> None:
        """Note what a commit stored."""
        self._accepted_bytes += max(raw_bytes, billed_bytes)
        if room is not None:
            self.nearly_full = room.nearly_full

    def _has_spare(self, batches: Sequence[Batch]) -> bool:
        raw_bytes = sum(
            report.upload_bytes + report.download_bytes
            for batch in batches
            for report in batch.reports
        )
        most_bytes = raw_bytes * MAX_RATIO_MILLIS // AS_REPORTED_MILLIS
        if self._accepted_bytes + most_bytes <= self._spare_bytes:
            return True
        billed_bytes = sum(billed_bytes_of(report) for batch in batches for report in batch.reports)
        return self._accepted_bytes + max(raw_bytes, billed_bytes) <= self._spare_bytes


class Room:
    """Decides report by report where some user's total may be too full for it."""

    def __init__(
        self, nearly_full: Mapping[str, Amounts], *, has_spare: bool, total_of: TotalOf
    ) -> None:
        self._totals = dict(nearly_full)
        self._has_spare = has_spare
        self._total_of = total_of

    @property
    def nearly_full(self) -> dict[str, Amounts]:
        """The users whose totals have to be looked at from now on."""
        return {name: total for name, total in self._totals.items() if total.is_nearly_full}

    def take(self, report: Report) -> bool:
        """Add a report to its user's total; False, and nothing is added, where it does not fit."""
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
