"""Detects that two configured panels are one, before users are settled and in each pass.

`panels.identity` decides. Of two entries for one panel, one is suspended, and the other continues.
For a panel that does not answer, the users it had last are compared; these are stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

import msgspec

from marzban_bridge.clock import Clock
from marzban_bridge.errors import PanelError, SettingsError
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.identity import (
    Entry,
    PanelUsers,
    UserMark,
    have_same_users,
    is_one_panel,
    share_a_user,
    superfluous,
    text_of_one_panel,
)
from marzban_bridge.panels.port import Panel
from marzban_bridge.quota.trust.suspension import SuspensionReason
from marzban_bridge.store.metas import APART, PANEL_USERS
from marzban_bridge.store.store import Store
from marzban_bridge.store.suspension import ONE_PANEL

log = logging.getLogger(__name__)

PAGE = 25
"""The number of users that are compared."""
FIRST_CHECK_SECONDS = 2.0
"""The longest time that the first check of a panel waits for the other panels' answers."""


class TwinPanels:
    """Knows which entries are one panel; with one panel it asks nothing.

    `on_newest` is called with a panel and its newest users, whenever they were read.
    """

    def __init__(
        self,
        panels: Mapping[str, Panel],
        *,
        store: Store,
        clock: Clock,
        metrics: Mapping[str, Metrics],
        on_newest: Callable[[str, PanelUsers], None] | None = None,
    ) -> None:
        self._panels = panels
        self._on_newest = on_newest
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._has_compared = False
        self._newest: dict[str, PanelUsers] = {}

    async def check(self, panel: str) -> None:
        """Check whether another entry is the same panel; suspend or resume accordingly.

        For a panel that does not answer now, nothing changes.
        """
        if len(self._panels) == 1:
            self._end(panel, "it is the only panel")
            return
        await self._compare_all()
        if not await self._ask(panel):
            return
        if twins := await self._twin_of(panel):
            self._leave_alone(*twins)
        else:
            self._end(panel, "it shows other users than each of the other panels")
            self._keep(panel)

    async def demand_different(self) -> None:
        """Raise SettingsError for two entries that are one panel, one of which has no accounts.

        Called before the start; panels that do not answer are checked later, by `check`.
        """
        await self._compare_all()
        for panel in self._newest:
            if twins := await self._twin_of(panel):
                stays, left = twins
                if not self._accounts(left):
                    raise SettingsError(text_of_one_panel(stays, left))

    async def _twin_of(self, panel: str) -> tuple[str, str] | None:
        """Return which of two entries continues and which is suspended; None for no twin."""
        for other in self._panels:
            if other != panel and await self._are_one(panel, other):
                left = self._superfluous(panel, other)
                return (other if left == panel else panel), left
        return None

    async def _compare_all(self) -> None:
        """Read the users of all panels that answer and were not read yet."""
        async with self._lock:
            if not self._has_compared:
                await asyncio.gather(*(self._ask_soon(panel) for panel in self._panels))
                self._has_compared = True

    async def _ask_soon(self, panel: str) -> None:
        try:
            async with asyncio.timeout(FIRST_CHECK_SECONDS):
                await self._ask(panel)
        except TimeoutError:
            log.info("panel %s did not return its users yet", panel)

    async def _ask(self, panel: str) -> bool:
        """Read a panel's newest users; return whether it answered."""
        try:
            found = await self._panels[panel].newest_users(limit=PAGE)
        except PanelError as error:
            log.debug("panel %s did not return its users: %s", panel, error)
            return False
        self._newest[panel] = found
        if self._on_newest:
            self._on_newest(panel, found)
        return True

    async def _are_one(self, panel: str, other: str) -> bool:
        mine, theirs = self._newest[panel].marks, self._marks(other)
        if self._is_apart(panel, other) or not share_a_user(mine, theirs):
            return False
        try:
            first, second, third = [
                await self._panels[each].heaviest_users(limit=PAGE)
                for each in (panel, other, panel)
            ]
        except PanelError:
            return have_same_users(mine, theirs)  # until the other panel answers with counters
        return is_one_panel(first, second, third)

    def _marks(self, panel: str) -> Mapping[str, UserMark]:
        if found := self._newest.get(panel):
            return found.marks
        return self._kept(panel)

    def _superfluous(self, panel: str, other: str) -> str:
        order = list(self._panels)
        entries = [
            Entry(
                name=each,
                place=order.index(each),
                accounts=self._accounts(each),
                is_as_before=have_same_users(self._kept(each), self._marks(each)),
            )
            for each in (panel, other)
        ]
        return superfluous(*entries)

    def _accounts(self, panel: str) -> int:
        return self._store.of(panel).counts()["accounts"]

    def _leave_alone(self, stays: str, left: str) -> None:
        self._end(stays, f"panel {left} is suspended instead")
        now = self._clock()
        reason = SuspensionReason(kind=ONE_PANEL, text=text_of_one_panel(stays, left), since=now)
        if self._store.of(left).suspension.begin(reason, at=now):
            log.error("%s", reason.text)
        self._note(left)

    def _end(self, panel: str, text: str) -> None:
        if self._store.of(panel).suspension.end(ONE_PANEL, text, at=self._clock()):
            log.warning("panel %s is a separate panel: %s", panel, text)
        self._note(panel)

    def _note(self, panel: str) -> None:
        is_left = self._store.of(panel).suspension.is_another_entrys_panel
        self._metrics[panel].panel_suspended.labels(reason=ONE_PANEL).set(int(is_left))

    def _is_apart(self, one: str, other: str) -> bool:
        """Tell whether the operator said that these are two panels."""
        return self._store.meta(APART + " ".join(sorted((one, other)))) is not None

    def _kept(self, panel: str) -> Mapping[str, UserMark]:
        stored = self._store.meta(PANEL_USERS + panel)
        return {} if stored is None else msgspec.json.decode(stored, type=dict[str, UserMark])

    def _keep(self, panel: str) -> None:
        """Store the users of a panel that has no twin."""
        marks = self._newest[panel].marks
        if marks and marks != self._kept(panel):
            self._store.set_meta(PANEL_USERS + panel, msgspec.json.encode(marks).decode())
