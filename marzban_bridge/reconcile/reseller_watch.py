"""Finds the users of resellers, begins their periods, and queues the users of one cut off or not.

A user without external traffic has no account until its reseller has a quota: a pass begins with a
list of the names of each such admin's users, and those that are not counted yet are queued, which
gives them accounts. Without resellers none of this is done.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from marzban_bridge.clock import Clock
from marzban_bridge.errors import PanelRefusedError
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.http.pages import once, past_failures
from marzban_bridge.panels.names import account_key
from marzban_bridge.panels.port import Panel
from marzban_bridge.quota.resellers.reseller import Reseller
from marzban_bridge.reconcile.set_aside import SetAside
from marzban_bridge.reconcile.work_queue import WorkQueue
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)

PAGE = 200
MOST_IN_METRICS = 200
"""How many resellers have metrics, the fullest first."""


class ResellerWatch:
    """The resellers of one panel, as its loop sees them."""

    def __init__(
        self,
        *,
        store: Store,
        panel: Panel,
        queue: WorkQueue,
        set_aside: SetAside,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._panel = panel
        self._queue = queue
        self._set_aside = set_aside
        self._clock = clock
        self._metrics = metrics
        self._shown: list[Reseller] = []
        self._cut_off: frozenset[str] = frozenset()
        self.warnings: tuple[str, ...] = ()
        """One sentence for each reseller whose users the panel does not list."""

    async def begin_pass(self) -> None:
        """Begin periods that are due, and queue users of resellers that are not counted yet.

        Panel errors pass through, except that the panel refuses to list an admin's users: that is
        a warning.
        """
        if self._store.resellers.is_empty:
            self.warnings = ()
            self.note_changes()
            return
        self._store.resellers.renew(at=self._clock())
        self.note_changes()
        warnings = []
        for each in self._store.resellers.all():
            try:
                await self._list(each.admin)
            except PanelRefusedError as error:
                warnings.append(f"the users of reseller {each.admin!r} cannot be listed: {error}")
        for text in warnings:
            if text not in self.warnings:
                log.warning("%s", text)
        self.warnings = tuple(warnings)

    async def _list(self, admin: str) -> None:
        began_at, missing = self._clock(), list[str]()
        async for names in names_of_owner(self._panel, admin):
            missing += [key for key in map(account_key, names) if self._is_missing(key, admin)]
        if missing:
            self._queue.add(missing)
        else:
            self._store.resellers.note_listed(admin, at=began_at)

    def _is_missing(self, key: str, admin: str) -> bool:
        """Tell whether a listed user has no account, or is not counted as this admin's yet.

        A name may have the account of another admin's user, who was moved or deleted since.
        """
        store = self._store
        is_known = store.accounts.has(key) and store.resellers.is_counted(key, admin)
        return not is_known and key not in self._set_aside

    def note_changes(self) -> None:
        """Queue the users of resellers that are cut off since, or are not any more."""
        resellers = self._store.resellers.all()
        if resellers == self._shown:
            return
        self._shown = resellers
        cut_off = frozenset(each.admin for each in resellers if each.is_cut_off)
        for admin in sorted(cut_off ^ self._cut_off):
            keys = self._store.accounts.keys_of_owner(admin)
            what = "are cut off" if admin in cut_off else "are not cut off any more"
            log.info("reseller=%s its %d users %s", admin, len(keys), what)
            self._queue.add(keys)
        self._cut_off = cut_off
        fullest = sorted(resellers, key=lambda each: -each.used_ratio)[:MOST_IN_METRICS]
        self._metrics.show_resellers(fullest)


async def names_of_owner(panel: Panel, admin: str) -> AsyncIterator[list[str]]:
    """Yield the names of an admin's users in pages. The panel's errors pass through."""

    async def ask(offset: int, limit: int) -> list[str]:
        return await panel.usernames(offset=offset, limit=limit, admin=admin)

    prove, offset = once(panel.demand_there), 0
    while True:
        page = await past_failures(ask, prove, offset=offset, limit=PAGE)
        if names := [name for name in page if name]:
            yield names
        if len(page) < PAGE:
            return
        offset += PAGE
