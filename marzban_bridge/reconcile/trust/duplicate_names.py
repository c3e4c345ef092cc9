"""Finds names that are users of several panels: new users in each pass, all users periodically.

With shared quotas such users are settled on each panel, even without reports. Otherwise an
unscoped name is charged to only one of its users, which an event says. With one panel nothing is
read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from datetime import datetime

from marzban_bridge.clock import Clock
from marzban_bridge.errors import PanelError
from marzban_bridge.panels.http.pages import once, past_failures
from marzban_bridge.panels.identity import PanelUsers
from marzban_bridge.panels.names import account_key
from marzban_bridge.panels.port import Panel
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.reconcile.work_queue import WorkQueue
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 600.0
RETRY_SECONDS = 30.0
PAGE = 200
PAUSE_SECONDS = 0.05
"""Pause between two pages, since the scan is not urgent and loads the panel."""


class DuplicateNameScan:
    """Keeps the names on each panel as of the last complete reading."""

    def __init__(
        self,
        panels: Mapping[str, Panel],
        *,
        store: Store,
        standstill: Standstill,
        clock: Clock,
        queues: Mapping[str, WorkQueue],
    ) -> None:
        self._clock = clock
        self._panels = panels
        self._queues = queues
        self._store = store
        self._standstill = standstill
        self._names: dict[str, frozenset[str]] = {}
        self._unread: dict[str, int] = {}
        """By panel, the number of users whose name cannot be parsed."""
        self._again = {panel: asyncio.Event() for panel in panels}

    async def run(self, panel: str) -> None:
        """Read the names of one panel periodically until cancelled."""
        while True:
            pause_seconds = INTERVAL_SECONDS
            try:
                await self._ask(panel)
            except PanelError:
                pause_seconds = RETRY_SECONDS  # the panel's loop logs the outage
            else:
                async with self._standstill.step():
                    self._compare(at=self._clock())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_seconds):
                    await self._again[panel].wait()

    def take_newest(self, panel: str, users: PanelUsers) -> None:
        """Add a panel's newest users, which are read with each pass.

        This finds users on two panels that have no reports yet. If the panel has more users than
        names are known, all names are read again soon.
        """
        known = self._names.get(panel)
        if known is None or len(self._panels) == 1:
            return
        news = users.marks.keys() - known
        self._names[panel] = known | news
        missing = users.total - len(self._names[panel])
        if panel not in self._unread:
            self._unread[panel] = missing
        elif missing > self._unread[panel]:
            self._again[panel].set()
        if news:
            self._compare(at=self._clock())

    async def once(self, *, at: datetime) -> None:
        """Read the names of all panels once; for an unreachable one the last known names stay."""
        results = await asyncio.gather(
            *(self._ask(panel) for panel in self._panels), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, PanelError):
                raise result
        self._compare(at=at)

    async def _ask(self, panel: str) -> None:
        asked = self._panels[panel]
        self._again[panel].clear()

        async def ask(offset: int, limit: int) -> list[str]:
            return await asked.usernames(offset=offset, limit=limit)

        names: set[str] = set()
        prove, offset = once(asked.demand_there), 0
        while True:
            page = await past_failures(ask, prove, offset=offset, limit=PAGE)
            names.update(account_key(name) for name in page if name)
            if len(page) < PAGE:
                break
            offset += PAGE
            await asyncio.sleep(PAUSE_SECONDS)
        self._names[panel] = frozenset(names)
        self._unread.pop(panel, None)

    def _compare(self, *, at: datetime) -> None:
        """Find names on several panels; store them, queue their users, log ambiguous ones."""
        on_panels: dict[str, list[str]] = {}
        for panel, names in self._names.items():
            if self._store.of(panel).suspension.is_another_entrys_panel:
                continue
            for name in names:
                on_panels.setdefault(name, []).append(panel)
        found = {name: panels for name, panels in on_panels.items() if len(panels) > 1}
        is_all = len(self._names) == len(self._panels)
        news = self._store.duplicate_names.record(found, is_all=is_all)
        if not self._store.shares_quotas:
            for name in self._store.duplicate_names.tell_ambiguous(at=at):
                log.warning("user=%r is on several panels and is reported without a panel", name)
            return
        for panel in self._panels:
            self._queues[panel].add([name for name in news if panel in found[name]])
