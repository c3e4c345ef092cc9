"""A detected reset of all users of one admin."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetAll:
    """A reset of all users of one owner, as one of them proved it."""

    seen_at: datetime
    after: datetime
    """The time of that user's evaluation before the one that proved it: the reset came later."""
