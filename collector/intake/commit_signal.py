"""Wakes readers of the feed and the exporter when the sums have changed."""

from __future__ import annotations

import asyncio


class CommitSignal:
    """Wakes all tasks that wait for the next commit; used in one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.is_closed = False

    def notify(self) -> None:
        """Set the events of all present subscribers."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    def close(self) -> None:
        """Set the events for the last time; waiting readers return when `is_closed`."""
        self.is_closed = True
        self.notify()

    def subscribe(self) -> asyncio.Event:
        """Return the event that the next commit sets; subscribe before reading the ledger."""
        return self._event
