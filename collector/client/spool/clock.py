"""Corrects the time at which an item was queued, if the clock was set since; pure.

The clock since boot cannot be set. If an item was queued since the last boot, the time that passed
by that clock is subtracted from the present wall clock.
"""

from __future__ import annotations

from dataclasses import dataclass

STEP_MILLIS = 60_000
"""A smaller difference is drift, not a clock that was set: the stored time is kept."""


@dataclass(frozen=True, slots=True)
class SpoolClock:
    """The two clocks, read at one moment; milliseconds."""

    wall_millis: int
    boot_millis: int
    boot: str

    def corrected(
        self, queued_at_millis: int, boot: str | None, queued_boot_millis: int | None
    ) -> int:
        """Return the corrected time of queueing, given both clocks as stored at queueing."""
        if boot != self.boot or queued_boot_millis is None:
            return queued_at_millis
        moment_millis = self.wall_millis - (self.boot_millis - queued_boot_millis)
        is_step = abs(moment_millis - queued_at_millis) > STEP_MILLIS
        return moment_millis if is_step else queued_at_millis
