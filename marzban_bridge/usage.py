"""External usage as the ledger has it: what counts against quotas, and the bytes that were used.

Quotas, baselines and everything that is decided are in billed bytes. Raw bytes are for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageChange:
    """One user's cumulative external usage, as the collector's feed gives it."""

    username: str
    total_bytes: int
    """What it counts for: billed bytes."""
    raw_bytes: int
    """The bytes themselves; the same where no server has a ratio."""
    change_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """An account's external usage since for ever, at one moment."""

    billed_bytes: int
    raw_bytes: int


NOTHING = Totals(billed_bytes=0, raw_bytes=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphan:
    """A name that was reported and that the panel does not know."""

    username: str
    first_seen_at: datetime
    total_bytes: int
    raw_bytes: int
    gone_at: datetime | None = None
    """When the panel was found to have this user no more; None for a name it never had."""
