"""How long an answer asks to wait: its `Retry-After` header, in either of HTTP's forms; pure.

Each caller limits how much of that it waits.
"""

from __future__ import annotations

from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

MAX_DIGITS = 9


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
            moment = moment.replace(tzinfo=timezone.utc)
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, OverflowError):
        return None
