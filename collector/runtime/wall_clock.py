"""The wall clock, as stored moments are written."""

from __future__ import annotations

import time


def wall_clock_millis() -> int:
    """Return milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000
