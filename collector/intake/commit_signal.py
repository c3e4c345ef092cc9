"""Wakes readers of the feed and the exporter when the ledger went on."""

from __future__ import annotations

import asyncio


class CommitSignal:
    """Wakes all tasks that wait for the next commit; used in one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.is_closed = False

    def notify(self) -> None:
        """Wake all who wait now."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    def close(self) -> None:
        """Wake all for the last time: readers return when it `is_closed`."""
        self.is_closed = True
        self.notify()

    def subscribe(self) -> asyncio.Event:
        """Return the event that the next commit sets; take it before looking, then wait on it."""
        return self._event
