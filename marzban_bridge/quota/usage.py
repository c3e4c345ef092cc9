"""External usage as the ledger has it: what counts against quotas, and the bytes that were used.

Quotas, baselines and everything that is decided are in billed bytes. Raw bytes are for people.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

Seqs = tuple[tuple[str, int], ...]
"""Reported names, each with a number of the ledger."""


def merged(seqs: Seqs, others: Seqs) -> Seqs:
    """Return the numbers of all names; where both have one, the other's."""
    return tuple(sorted({**dict(seqs), **dict(others)}.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageChange:
    """One user's cumulative external usage, as the collector's feed gives it."""

    username: str
    total_bytes: int
    """What it counts for: billed bytes."""
    raw_bytes: int
    """The bytes themselves; the same where no server has a ratio."""
    change_seq: int
    corrected_bytes: int = 0
    """What corrections added to what it counts for, negative for what was taken back; the totals
    are without it."""
    corrected_raw_bytes: int = 0
    corrected_seq: int = 0
    """The number of the newest line of a correction; 0 where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """An account's external usage since for ever, at one moment."""

    billed_bytes: int
    raw_bytes: int
    seqs: Seqs | None = field(default=None, compare=False)
    """Up to which number of the ledger each reported name is in it; None where that is not known.
    What is reported of a name after its number is not in these totals."""


NOTHING = Totals(billed_bytes=0, raw_bytes=0)


def corrected_at(baseline: Totals, totals: Totals) -> Seqs:
    """Return up to which number of each name corrections are in a new account's baseline.

    All are of a name that is whole in the period; of one that counts from a number on, those up to
    that number.
    """
    begins_at = dict(baseline.seqs or ())
    return tuple((name, begins_at.get(name) or seq) for name, seq in totals.seqs or ())


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectedName:
    """A reported name whose bytes were corrected, and whose they are."""

    username: str
    panel: str
    key: str
    through_seq: int
    """Up to which number of the ledger the name's total was read."""
    corrected_seq: int
    """The number of the newest line of a correction of it."""
    counted_from_seq: int = 0
    """What was reported up to this number does not count for the account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownName:
    """A name that was reported and that the panel does not know."""

    username: str
    first_seen_at: datetime
    total_bytes: int
    raw_bytes: int
    gone_at: datetime | None = None
    """When the panel was found to have this user no more; None for a name it never had."""
