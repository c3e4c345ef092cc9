"""Reads a sample of a panel's users before a suspicious change of one of them is accepted.

`quota.trust.panel_suspension` decides; this module reads the panel, and stores a suspension.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

from marzban_bridge.errors import PanelSuspendedError
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.names import account_key
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelUser
from marzban_bridge.quota.account import Account
from marzban_bridge.quota.plan import limit_text
from marzban_bridge.quota.trust.panel_suspension import (
    Reading,
    Shown,
    SuspensionKind,
    accounts_showing,
    is_limit_ours,
    is_over,
    judge,
    text_of,
)
from marzban_bridge.quota.trust.suspension import SuspensionReason
from marzban_bridge.quota.writes.note_line import NoteLine
from marzban_bridge.quota.writes.open_writes import is_open
from marzban_bridge.reconcile.panel_store import PanelStore

log = logging.getLogger(__name__)

SAMPLE = 50
"""The size of a sample, which is read in one request."""
EMPTY_LATELY = timedelta(hours=1)
"""After a panel lost all of its users, its names are not passed to the next panel for so long."""
IS_OVER = "the panel shows its users as they were before; they are settled again"


class Census:
    """Suspends and resumes one panel.

    One list of users that was read causes at most one sample, however many of them changed.
    """

    def __init__(
        self,
        *,
        store: PanelStore,
        panel: Panel,
        clock: Callable[[], datetime],
        metrics: Metrics,
        own_line: Callable[[PanelUser], NoteLine | None],
    ) -> None:
        self._own_line = own_line
        self._store = store
        self._panel = panel
        self._clock = clock
        self._metrics = metrics
        self._lock = asyncio.Lock()
        self._readings: list[Reading] = []
        self._sampled_at = float("-inf")
        self._sampled_owners: set[str | None] = set()
        self._published: dict[tuple[str, int], bool] = {}
        self.note()

    def refuse_suspended(self) -> None:
        """Raise PanelSuspendedError while no account of the panel may be changed."""
        if text := self._store.suspension.text:
            raise PanelSuspendedError(text)

    async def is_untrusted(self, key: str, user: PanelUser | None, *, read_at: float) -> bool:
        """Tell whether the panel's data of a user must not be used.

        `user`: read at or after `read_at` (`time.monotonic`); None when the panel has no such user.
        Where several users changed alike, or one user's counters went back, the panel is suspended.
        """
        if self._store.suspension.reasons:
            return True
        kind, readings = await self._find_out(key, user, read_at=read_at)
        if kind:
            self.begin(kind, readings)
        # It may have begun with another user while the panel was asked.
        if self._store.suspension.reasons:
            return True
        return self._is_first_asked(key, user) and self._is_nobody_left(readings)

    def is_as_before(self, account: Account, user: PanelUser) -> bool:
        """Tell whether a user's data calls for no sample."""
        return self.reading(account, user).shown is Shown.AS_BEFORE

    async def preview(self, key: str, user: PanelUser | None, *, read_at: float) -> str | None:
        """Return why the panel would be suspended; stores nothing."""
        kind, readings = await self._find_out(key, user, read_at=read_at)
        return None if kind is None else self.text(kind, readings)

    async def evaluate_again(self) -> bool:
        """While the panel is suspended, read another sample; return whether it stays suspended."""
        for reason in self._store.suspension.reasons:
            if reason.kind not in set(SuspensionKind):
                continue  # `SecondBridge` or `TwinPanels` ends it
            keys = [*reason.witnesses, *self._store.accounts.sample(admin=None, limit=SAMPLE)]
            readings = await self._read(list(dict.fromkeys(keys))[:SAMPLE])
            if is_over(reason, readings):
                self.end(reason.kind, IS_OVER)
            elif kind := judge(readings):
                self.begin(kind, readings, known=reason)
        return bool(self._store.suspension.reasons)

    def end(self, kind: str, text: str, *, actor: str = "bridge") -> None:
        """Remove one reason for the suspension."""
        if self._store.suspension.end(kind, text, actor=actor, at=self._clock()):
            log.warning("panel %s is not suspended any more: %s", self._store.panel, text)
        self.note()

    def note(self) -> None:
        """Set the metric to what is stored."""
        kinds = {each.kind for each in self._store.suspension.reasons}
        for kind in {*SuspensionKind, *kinds}:
            self._metrics.panel_suspended.labels(reason=str(kind)).set(int(kind in kinds))

    async def _find_out(
        self, key: str, user: PanelUser | None, *, read_at: float
    ) -> tuple[SuspensionKind | None, list[Reading]]:
        account = self._store.accounts.get(key)
        if account is None:
            readings = await self._sample(None, read_at) if self._is_first_asked(key, user) else []
            return judge(readings), readings
        subject = self.reading(account, user)
        # A held account does not change unless its user was deleted or replaced.
        is_left_alone = account.is_held and subject.shown not in {Shown.GONE, Shown.RECREATED}
        if subject.shown is Shown.AS_BEFORE or is_left_alone:
            return None, []
        others = (
            [] if subject.shown is Shown.WENT_BACK else await self._sample(account.admin, read_at)
        )
        readings = [subject, *(each for each in others if each.account.key != key)]
        return judge(readings), readings

    def _is_first_asked(self, key: str, user: PanelUser | None) -> bool:
        """Tell whether an unscoped name would pass to another panel because it is not on this."""
        is_missing = user is None and self._store.accounts.get(key) is None
        return (
            is_missing and len(self._store.panels) > 1 and not self._store.placement.is_missing(key)
        )

    def _is_nobody_left(self, readings: list[Reading]) -> bool:
        """Tell whether a panel has lost all users with accounts, now or lately (EMPTY_LATELY)."""
        if readings:
            return all(each.shown in {Shown.GONE, Shown.RECREATED} for each in readings)
        return self._store.accounts.has_lost_all_since(self._clock() - EMPTY_LATELY)

    async def _sample(self, admin: str | None, read_at: float) -> list[Reading]:
        """Read a sample of users, half of it this admin's, or return one read since `read_at`."""
        async with self._lock:
            if self._sampled_at < read_at or admin not in self._sampled_owners:
                is_further = self._sampled_at >= read_at
                self._sampled_at = time.monotonic()
                keys = self._store.accounts.sample(admin=admin, limit=SAMPLE)
                self._readings = await self._read(keys)
                owners = self._sampled_owners if is_further else set()
                self._sampled_owners = {*owners, admin}
            return self._readings

    async def _read(self, keys: Iterable[str]) -> list[Reading]:
        accounts: Mapping[str, Account] = {
            key: account for key in keys if (account := self._store.accounts.get(key))
        }
        if not accounts:
            return []
        listed = await self._panel.get_users([each.username for each in accounts.values()])
        found = {account_key(user.username): user for user in listed.users}
        aside = set(map(account_key, listed.aside))  # they exist, but cannot be parsed
        # An account that was settled while the panel answered may be newer than the answer, and is
        # left out. That a user is missing counts all the same.
        return [
            self.reading(account, found.get(key))
            for key, account in accounts.items()
            if (key not in found or self._store.accounts.get(key) == account) and key not in aside
        ]

    def reading(self, account: Account, user: PanelUser | None) -> Reading:
        """Compare a user as just read with its account."""
        line, seen = (self._own_line(user) if user else None), account.seen_line
        return Reading(
            account=account,
            user=user,
            read_at=self._clock(),
            dialect=self._panel.dialect,
            is_line_older=bool(
                line
                and seen
                and line.number < seen.number
                and not is_open(account.open_writes, line.number)
            ),
            was_published=user is not None and line is None and self._was_published(account, user),
        )

    def _was_published(self, account: Account, user: PanelUser) -> bool:
        """Tell whether a limit that is not the published one now was published earlier.

        A suspended panel is not written to, so the result is cached until the suspension ends.
        """
        limit_bytes = user.data_limit_bytes
        if limit_bytes is None or is_limit_ours(account, user, dialect=self._panel.dialect):
            return False
        if not self._store.suspension.reasons:
            self._published.clear()
        asked = (account.username, limit_bytes)
        if asked not in self._published:
            shown = limit_text(limit_bytes)
            self._published[asked] = self._store.events.has_published(*asked, shown=shown)
        return self._published[asked]

    def text(self, kind: SuspensionKind, readings: list[Reading]) -> str:
        """Return the message that says why the panel is suspended."""
        count = max(1, len(accounts_showing(kind, readings)))
        return text_of(kind, panel=self._store.panel, count=count, sampled=len(readings))

    def begin(
        self,
        kind: SuspensionKind,
        readings: list[Reading],
        *,
        known: SuspensionReason | None = None,
    ) -> None:
        """Suspend the panel: none of its accounts is changed from now on."""
        witnesses = accounts_showing(kind, readings)
        now = self._clock()
        reason = SuspensionReason(
            kind=kind, text=self.text(kind, readings), since=now, witnesses=witnesses
        )
        if known and known.kind == kind:
            both = dict.fromkeys((*known.witnesses, *witnesses))
            reason = SuspensionReason(
                kind=kind, text=known.text, since=known.since, witnesses=tuple(both)[:SAMPLE]
            )
        if self._store.suspension.begin(reason, at=now):
            log.error("%s", reason.text)
        self.note()
