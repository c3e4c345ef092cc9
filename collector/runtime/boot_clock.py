"""A clock that only goes forward, also while the machine sleeps.

`time.monotonic` stops then: after a suspend, a process that measured a lease by it would believe
that it still holds the lease.
"""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def seconds_now() -> float:
    """Read the clock, in seconds since the machine began to run."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


def millis_now() -> int:
    """Read the clock, in whole milliseconds since the machine began to run."""
    nanos = time.monotonic_ns() if _CLOCK is None else time.clock_gettime_ns(_CLOCK)
    return nanos // 1_000_000
