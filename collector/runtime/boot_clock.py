"""A clock that only goes forward, also while the machine sleeps.

`time.monotonic` stands still then: who reckoned a lease by it would wake up believing that it is
still the leader.
"""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def seconds_now() -> float:
    """Read the clock, in seconds since some moment in the past."""
    return time.clock_gettime(_CLOCK)
