"""How much of a `Retry-After` the bridge heeds; pure.

A server that asks for hours has made a mistake, and limits are to hold.
"""

from __future__ import annotations

from datetime import datetime

from collector.runtime.http.retry_after import retry_after_seconds

LONGEST_SECONDS = 300.0


def bounded_seconds(text: str | None, *, now: datetime) -> float | None:
    """Return how many seconds to wait because of a `Retry-After`, 0 to LONGEST_SECONDS."""
    asked_seconds = retry_after_seconds(text, now=now)
    return None if asked_seconds is None else min(asked_seconds, LONGEST_SECONDS)
