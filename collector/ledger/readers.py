"""What readers of the feed had on file when they were last heard of.

A reader keeps books of its own (the bridge: quotas, where periods began). When they are restored
from an older backup, only somebody else can tell: the ledger remembers how far they were.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a reader's own books were, and a mark of the entry there."""

    position: int
    mark: str
    panel: str = ""
    """Whose users the books are of, as a digest; empty when the reader did not say."""


def newer_of(known: Standing | None, told: Standing) -> Standing:
    """Return which of two standings is to be remembered: never less than before."""
    is_news = (
        known is None or told.position > known.position or replace(known, panel=told.panel) == told
    )
    return told if is_news or known is None else known
