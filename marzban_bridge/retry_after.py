"""How long an answer asks to wait: its `Retry-After` header, in either of HTTP's forms; pure.

Whoever asks for hours has made a mistake, and limits are to hold: `heeded` bounds it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

MAX_DIGITS = 9
LONGEST_SECONDS = 300.0


def retry_after_seconds(text: str | None, *, now: datetime) -> float | None:
    """Return the seconds a `Retry-After` asks for, at least 0; None without a readable one."""
    text = (text or "").strip()
    if not text:
        return None
    if text.isascii() and text.isdecimal():
        return float(text) if len(text) <= MAX_DIGITS else None
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, OverflowError):
        return None


def heeded_seconds(text: str | None, *, now: datetime) -> float | None:
    """Return how many seconds to wait because of a `Retry-After`, 0 to LONGEST_SECONDS."""
    asked_seconds = retry_after_seconds(text, now=now)
    return None if asked_seconds is None else min(asked_seconds, LONGEST_SECONDS)
