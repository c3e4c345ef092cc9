"""Detects that the bridge's store was restored from an older backup, or was lost.

A store alone cannot tell that it is an old copy. So the bridge reports its position to the
collector: the number and digest of the newest event, of which every reset, quota change and
published limit adds one. A store without that event is older, or diverged after a restore. An empty
store, where the collector has the position of one for the same panel, replaces a lost one. A copy
made by `backup` is marked as a copy, which is detected even if the ledger was restored with it. In
each case the store is suspended: no user is changed until `marzban-bridge rebase`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from marzban_bridge.clock import Clock
from marzban_bridge.errors import CollectorRefusedError, CollectorUnavailableError
from marzban_bridge.feed.client import CollectorFeed, ReportedPosition
from marzban_bridge.quota.account import Event
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
RETRY_SECONDS = 5.0


class RollbackCheck:
    """Compares the store with the position that was last reported to the collector."""

    def __init__(self, *, store: Store, feed: CollectorFeed, clock: Clock, panel: str) -> None:
        self._store = store
        self._panel = panel
        self._feed = feed
        self._clock = clock
        self.confirmed_position = -1
        """The last position that this process reported; -1 before the first."""
        self.is_behind = False
        """Whether the collector has the position of an event that this store does not have."""
        self._checked = asyncio.Event()

    @property
    def is_checked(self) -> bool:
        """Whether the position was compared since the process began."""
        return self._checked.is_set()

    async def wait_checked(self, *, longest_seconds: float) -> None:
        """Wait until the position was compared, at most `longest_seconds`."""
        try:
            async with asyncio.timeout(longest_seconds):
                await self._checked.wait()
        except TimeoutError:
            log.warning(
                "the store's position could not be compared with the collector's yet; continuing"
            )

    def check_store(self) -> None:
        """Suspend a store that is marked as a copy."""
        if copied_at := self._store.identity.copied_at:
            self.suspend(
                f"the bridge's store is the backup of {copied_at}; the panel has changed since. "
                "No user is changed until `marzban-bridge rebase`"
            )

    def suspend(self, text: str) -> None:
        """Suspend the store, unless it is; store and log why."""
        if self._store.suspended is None:
            log.error("%s", text)
            self._store.suspend(text, Event(kind="conflict", text=text), at=self._clock())

    async def check(self) -> None:
        """Compare the store with the position that the collector has; suspend it if it is older.

        Raises CollectorUnavailableError or CollectorRefusedError.
        """
        if self.is_checked:
            return
        identity = self._store.identity
        if identity.is_new:
            self._check_new_store(await self._feed.reported_positions())
        known = await self._feed.position_of(identity.name)
        if known and not identity.has_had(known.position, known.mark):
            self.is_behind = True
            self.suspend(
                f"the bridge's store is older than the position that the collector has of it "
                f"(event {known.position} is missing or differs; the newest is "
                f"{identity.newest()[0]}), as after a restored backup: later resets, quota changes "
                "and limits are missing. No user is changed until the newer store is back, or "
                "until `marzban-bridge rebase`"
            )
        self._checked.set()

    def _check_new_store(self, known: Sequence[ReportedPosition]) -> None:
        """Suspend a new store if the collector has the position of one for the same panel.

        A position of 0 is ignored: that store was empty. A store of another panel may be this
        panel's under an older address, which only the operator can decide: that is logged.
        """
        known = [each for each in known if each.position > 0]
        if any(each.panel in {"", self._panel} for each in known):
            self.suspend(
                "the bridge's store is new, and the collector knows of another one for this panel: "
                "it was lost, or BRIDGE_STORE names another file. The panel shows only what is "
                "left of each quota, so no user is changed until the store is back (from a backup, "
                "if necessary), or until `marzban-bridge rebuild`, which takes the quotas from "
                "users' notes, or `marzban-bridge rebase`, which takes the limits in the panel"
            )
        elif known:
            log.warning(
                "the store is new, and the collector knows of one for a panel on another host. If "
                "that is this panel under another address, stop the bridge, put the store back, "
                "and start again"
            )

    async def report_position(self) -> None:
        """Report the store's position to the collector, if it grew and is not suspended."""
        position, mark = self._store.identity.newest()
        if self._store.suspended or not self.is_checked or position == self.confirmed_position:
            return
        await self._feed.report_position(
            self._store.identity.name, position=position, mark=mark, panel=self._panel
        )
        self.confirmed_position = position

    async def run(self) -> None:
        """Report the position whenever it grew, until cancelled."""
        while True:
            pause_seconds = POLL_SECONDS
            try:
                await self.report_position()
            except (CollectorUnavailableError, CollectorRefusedError):
                pause_seconds = RETRY_SECONDS  # the feed reader logs the outage
            await asyncio.sleep(pause_seconds)
