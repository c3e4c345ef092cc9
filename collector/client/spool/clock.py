"""When an item was queued, although the clock was wrong then and has been set right since; pure.

The clock of the machine's run cannot be set. Where an item was queued in the same run, the time
that has passed by that clock says when it was, in terms of the clock on the wall as it is now.
"""

from __future__ import annotations

from dataclasses import dataclass

STEP_MILLIS = 60_000
"""A clock that moves by less was not set, it drifted: moments stay as they were written down."""


@dataclass(frozen=True, slots=True)
class SpoolClock:
    """The two clocks, read at one moment; milliseconds."""

    wall_millis: int
    boot_millis: int
    boot: str

    def corrected(
        self, queued_at_millis: int, boot: str | None, queued_boot_millis: int | None
    ) -> int:
        """Return when something was queued that was written down with its own reading."""
        if boot != self.boot or queued_boot_millis is None:
            return queued_at_millis
        moment_millis = self.wall_millis - (self.boot_millis - queued_boot_millis)
        is_step = abs(moment_millis - queued_at_millis) > STEP_MILLIS
        return moment_millis if is_step else queued_at_millis
