"""The positions that readers of the feed report: how far their own stores are.

A reader keeps a store of its own (the bridge: quotas, where periods began). When it is restored
from an older backup, only somebody else can tell: the ledger remembers its position.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ReaderPosition:
    """The number of the newest entry of a reader's store, and a mark of that entry."""

    position: int
    mark: str
    panel: str = ""
    """Whose users the store is of, as a digest; empty when the reader did not say."""


def newer_of(known: ReaderPosition | None, told: ReaderPosition) -> ReaderPosition:
    """Return which of two positions is to be remembered: never less than before."""
    is_news = (
        known is None or told.position > known.position or replace(known, panel=told.panel) == told
    )
    return told if is_news or known is None else known
