"""The quota that the users of one name share on several panels, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from marzban_bridge.quota.usage import Seqs, Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class Anew:
    """The beginning of the next period, for when every user of the name was recreated."""

    start: Totals
    corrected_seqs: Seqs
    starts: Mapping[str, Totals] = field(default_factory=dict)
    """As in the shared quota, at that time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedQuota:
    """The quota and the period that the users of one name share."""

    quota_bytes: int | None
    panel: str
    """The panel whose user's data limit is the quota."""
    version: int = 1
    is_edited: bool = False
    """Whether an admin has set it since; then the order of panels does not matter any more."""
    period: int = 0
    start: Totals | None = None
    """The sum of all totals when the period began; None: derived from the accounts."""
    corrected_seqs: Seqs = ()
    """By reported name, the change number up to which corrections are in `start`."""
    departed_bytes: int = 0
    """Bytes that departed users of the name had used on their panels."""
    starts: Mapping[str, Totals] = field(default_factory=dict)
    """By panel, its counted and reported bytes when the period began."""
    began_at: datetime | None = None
    """When the reset that began the period was detected; None if no reset began it."""
    known_bytes: int = 0
    """The sum of all totals known at that time."""
    generation: int = 0
    """How often all users of the name were recreated."""
    edited_generation: int = 0
    """The generation of the user whose data limit an admin set last."""
    anew: Anew | None = None
    """The totals when the first user of the next generation was created."""

    def moved_since(self, before: SharedQuota) -> Totals | None:
        """Return by how much the beginning of the period was moved; None for another period."""
        if self.start is None or before.start is None or self.period != before.period:
            return None
        return Totals(
            billed_bytes=self.start.billed_bytes - before.start.billed_bytes,
            raw_bytes=self.start.raw_bytes - before.start.raw_bytes,
            seqs=self.start.seqs,
        )
