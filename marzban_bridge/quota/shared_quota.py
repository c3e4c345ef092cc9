"""What is kept of a quota that the users of one name share on several panels: values alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from marzban_bridge.quota.usage import Seqs, Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class Anew:
    """Where a period begins once every user of the name has been made anew."""

    start: Totals
    corrected_seqs: Seqs
    starts: Mapping[str, Totals] = field(default_factory=dict)
    """As in the shared quota, at that moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedQuota:
    """The quota and the period that the users of one name share."""

    quota_bytes: int | None
    panel: str
    """Whose data limit it is."""
    version: int = 1
    is_edited: bool = False
    """An admin has set it since, so that no panel's place in the order matters any more."""
    period: int = 0
    start: Totals | None = None
    """The sum of everything where the period began; None: as the accounts have it."""
    corrected_seqs: Seqs = ()
    """By reported name, up to which number of the ledger corrections are in `start`."""
    departed_bytes: int = 0
    """What users of the name counted on panels they are no longer on."""
    starts: Mapping[str, Totals] = field(default_factory=dict)
    """By panel, what it had counted and what had been reported for it where the period began."""
    began_at: datetime | None = None
    """When the reset that began the period was found; None where none began it."""
    known_bytes: int = 0
    """The sum of everything that was known of at that moment."""
    generation: int = 0
    """How often all users of the name have been made anew."""
    edited_generation: int = 0
    """That of the user whose data limit an admin set last."""
    anew: Anew | None = None
    """Where the first was made of those who are of the next generation already."""
