"""The wall clock, as all that keeps moments takes it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the present moment, in UTC."""


def utc_now() -> datetime:
    """Read the wall clock."""
    return datetime.now(UTC)
