"""Notices that the bridge's store was restored from an older backup, or is gone.

A store cannot tell by itself that it is an old one. So the bridge reports to the collector which is
the newest entry of its audit trail, which grows with every reset, quota change and published limit;
a store that has no such entry is older, or went another way since. A store that begins where the
collector knows of one for the same panel is in the place of one that was lost. A copy made by
`backup` says so itself: that tells it when the ledger was restored along with it. Each way the
store is suspended, and no user is changed until `marzban-bridge rebase`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from marzban_bridge.clock import Clock
from marzban_bridge.errors import CollectorRefusedError, CollectorUnavailableError
from marzban_bridge.feed.client import CollectorFeed, KnownStore
from marzban_bridge.quota.account import Event
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
RETRY_SECONDS = 5.0


class RollbackCheck:
    """Compares the store with the position that the collector was told of it last."""

    def __init__(self, *, store: Store, feed: CollectorFeed, clock: Clock, panel: str) -> None:
        self._store = store
        self._panel = panel
        self._feed = feed
        self._clock = clock
        self._confirmed_position = -1
        self.is_behind = False
        """Whether the collector knows of entries that this store does not have."""
        self._checked = asyncio.Event()

    @property
    def is_checked(self) -> bool:
        """Whether the collector was asked since the process began."""
        return self._checked.is_set()

    async def wait_checked(self, *, longest_seconds: float) -> None:
        """Wait until the collector was asked, but not for ever: it may be away for long."""
        try:
            async with asyncio.timeout(longest_seconds):
                await self._checked.wait()
        except TimeoutError:
            log.warning("the collector cannot vouch for the store yet; going on without")

    def check_store(self) -> None:
        """Suspend a store that says of itself that it is a copy."""
        if copied_at := self._store.identity.copied_at:
            self.suspend(
                f"the bridge's store is the backup of {copied_at}; the panel has moved on since. "
                "No user is changed until `marzban-bridge rebase`"
            )

    def suspend(self, text: str) -> None:
        """Have no user changed, and say why; once."""
        if self._store.suspended is None:
            log.error("%s", text)
            self._store.suspend(text, Event(kind="conflict", text=text), at=self._clock())

    async def check(self) -> None:
        """Ask the collector once whether the store is the newest; suspend it if not.

        Raises CollectorUnavailableError or CollectorRefusedError.
        """
        if self.is_checked:
            return
        identity = self._store.identity
        if identity.is_new:
            self._check_new_store(await self._feed.known_stores())
        known = await self._feed.position_of(identity.name)
        if known and identity.entry_digest(known.position) != known.mark:
            self.is_behind = True
            self.suspend(
                f"the bridge's store is older than what the collector knows of it (entry "
                f"{known.position} is missing or another, {identity.newest()[0]} is the newest), "
                "as after a restored backup: resets, quota changes and limits since are not in "
                "it. No user is changed until the newer store is back, or until "
                "`marzban-bridge rebase`"
            )
        self._checked.set()

    def _check_new_store(self, known: Sequence[KnownStore]) -> None:
        """Suspend a store that begins where the collector knows of one of the same panel.

        One that holds nothing is no loss. One of another panel may be this panel's under an older
        address: then nobody but the operator can tell.
        """
        known = [each for each in known if each.position > 0]
        if any(each.panel in {"", self._panel} for each in known):
            self.suspend(
                "the bridge's store is a new one, and the collector knows of another for this "
                "panel: it was lost, or BRIDGE_STORE names another file. The panel shows only what "
                "is left of each quota, so that nobody is changed until the store is back, from a "
                "backup if need be, or until `marzban-bridge rebuild`, which takes the quotas from "
                "the users' notes, or `marzban-bridge rebase`, which takes what the panel shows"
            )
        elif known:
            log.warning(
                "the store is a new one, and the collector knows of one for a panel on another "
                "host. If that is this panel under another address, stop the bridge, put the store "
                "back, and start again"
            )

    async def report_position(self) -> None:
        """Tell the collector how far the store is, if there is news and it is not suspended."""
        position, mark = self._store.identity.newest()
        if self._store.suspended or not self.is_checked or position == self._confirmed_position:
            return
        await self._feed.report_position(
            self._store.identity.name, position=position, mark=mark, panel=self._panel
        )
        self._confirmed_position = position

    async def run(self) -> None:
        """Report the position whenever there is news, until cancelled."""
        while True:
            pause_seconds = LOOK_SECONDS
            try:
                await self.report_position()
            except (CollectorUnavailableError, CollectorRefusedError):
                pause_seconds = RETRY_SECONDS  # the feed says so, once
            await asyncio.sleep(pause_seconds)
