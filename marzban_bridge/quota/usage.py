"""External usage as in the ledger: billed bytes, which quotas limit, and raw bytes.

Quotas, baselines and all decisions use billed bytes. Raw bytes are for display.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

Seqs = tuple[tuple[str, int], ...]
"""Reported names, each with a change number of the ledger."""


def merged(seqs: Seqs, others: Seqs) -> Seqs:
    """Return the numbers of all names; for a name in both, that of `others`."""
    return tuple(sorted({**dict(seqs), **dict(others)}.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageChange:
    """One user's cumulative external usage, as in the collector's feed."""

    username: str
    total_bytes: int
    """Billed bytes."""
    raw_bytes: int
    """Raw bytes; equal to the billed ones without ratios."""
    change_seq: int
    corrected_bytes: int = 0
    """Billed bytes that corrections added (negative: took back); not included in the totals."""
    corrected_raw_bytes: int = 0
    corrected_seq: int = 0
    """The change number of the newest correction; 0 without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """An account's cumulative external usage at one time."""

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
    """A reported name with corrections, and the account it is charged to."""

    username: str
    panel: str
    key: str
    through_seq: int
    """The change number up to which the name's total was read."""
    corrected_seq: int
    """The change number of its newest correction."""
    counted_from_seq: int = 0
    """Reports up to this change number are not charged to the account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownName:
    """A reported name that the panel has no user of."""

    username: str
    first_seen_at: datetime
    total_bytes: int
    raw_bytes: int
    gone_at: datetime | None = None
    """When the user was found to be deleted; None if the panel never had it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageMark:
    """All that a user has ever used, panel and external traffic together, at one moment."""

    at: datetime
    total_bytes: int
