"""The positions that readers of the feed report of their own stores.

A reader such as the bridge has a store of its own (quotas, starts of periods). A store that was
restored from an older backup cannot tell so itself. So the ledger keeps the position that the
reader reported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ReaderPosition:
    """The number of the newest entry of a reader's store, and a digest of that entry."""

    position: int
    mark: str
    panel: str = ""
    """A digest of the panel to whose users the store belongs; empty if not reported."""


def newer_of(known: ReaderPosition | None, told: ReaderPosition) -> ReaderPosition:
    """Return the position to store: the reported one, unless the known one is higher."""
    is_news = (
        known is None or told.position > known.position or replace(known, panel=told.panel) == told
    )
    return told if is_news or known is None else known
