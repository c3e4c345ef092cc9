"""`rebase --panel`: reads all users of a suspended panel, and accepts them as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from marzban_bridge.clock import Clock
from marzban_bridge.quota.account import Event
from marzban_bridge.quota.gone_accounts import GoneAccount
from marzban_bridge.quota.shared import forgive
from marzban_bridge.quota.trust.acceptance import (
    Acceptance,
    Fate,
    accept,
    event_of,
    keeps_recreated,
)
from marzban_bridge.quota.trust.panel_suspension import Reading, SuspensionKind, judge
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.reconcile.trust.census import Census
from marzban_bridge.reconcile.users.evaluation import Evaluator
from marzban_bridge.reconcile.users.reader import UserReader
from marzban_bridge.reconcile.work_queue import OtherQueues, WorkQueue
from marzban_bridge.store.store import Store

ACCEPTED = "the panel was accepted as it is"
REBASE_PANEL_PHRASE = "rebase panel"
"""Has to be typed to accept a panel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelRebasePlan:
    """How accepting a panel would change accounts; nothing is stored yet."""

    suspension_text: str | None
    """Why the panel is suspended; None where there is nothing to accept."""
    accounts: tuple[Acceptance, ...]


class _Seen(NamedTuple):
    reading: Reading
    gone: GoneAccount | None
    """The account that was kept for this user after it was deleted, if it is the one compared."""


class PanelRebase:
    """Accepts one panel as it is."""

    def __init__(
        self,
        *,
        store: Store,
        reader: UserReader,
        evaluator: Evaluator,
        census: Census,
        queue: WorkQueue,
        elsewhere: OtherQueues,
        clock: Clock,
        standstill: Standstill,
    ) -> None:
        self._store = store
        self._reader = reader
        self._evaluator = evaluator
        self._census = census
        self._queue, self._elsewhere = queue, elsewhere
        self._clock = clock
        self._standstill = standstill

    async def plan(self) -> PanelRebasePlan:
        """Read every user with an account, and compute how each account would change."""
        return self._plan_of(await self._read_all())

    async def apply(self, *, actor: str) -> PanelRebasePlan:
        """Accept the panel's users as they are, store the accounts, and begin a pass.

        Raises the panel's error when not all users can be read; nothing is changed then. A
        suspension for another reason (a second bridge, a twin panel) stays.
        """
        with self._standstill.action():
            return await self._apply(actor=actor)

    async def _apply(self, *, actor: str) -> PanelRebasePlan:
        seen = await self._read_all()
        if not self._suspension_text() and (kind := judge([each.reading for each in seen])):
            # No user is settled while all are read.
            self._census.begin(kind, [each.reading for each in seen])
            seen = await self._read_all()
        plan = self._plan_of(seen)
        if plan.suspension_text is None:
            return plan
        keeps = keeps_recreated([each.reading for each in seen])
        for each in seen:
            self._accept(each, keeps=keeps, actor=actor)
        for kind in SuspensionKind:
            self._census.end(kind, ACCEPTED, actor=actor)
        self._queue.add([each.before.key for each in plan.accounts if each.after])
        self._elsewhere.add_if_needed([each.before.key for each in plan.accounts])
        return plan

    def _suspension_text(self) -> str | None:
        """Return why the panel is suspended because of its users' data; None for other reasons."""
        kinds = set(SuspensionKind)
        texts = [each.text for each in self._store.suspension.reasons if each.kind in kinds]
        return "; ".join(texts) or None

    async def _read_all(self) -> list[_Seen]:
        seen: list[_Seen] = []
        async for keys in self._reader.chunks():
            for key, user in (await self._reader.read(keys)).items():
                gone = self._evaluator.returning(key, user) if user else None
                account = gone.account if gone else self._store.accounts.get(key)
                if account is not None:
                    seen.append(_Seen(self._census.reading(account, user), gone))
        return seen

    def _plan_of(self, seen: list[_Seen]) -> PanelRebasePlan:
        readings = [each.reading for each in seen]
        suspension_text, kind = self._suspension_text(), judge(readings)
        if kind and not suspension_text:
            suspension_text = self._census.text(kind, readings)
        keeps = keeps_recreated(readings)
        accounts = (
            [self._decided(each, keeps=keeps) for each in readings] if suspension_text else []
        )
        return PanelRebasePlan(suspension_text=suspension_text, accounts=tuple(accounts))

    def _decided(self, reading: Reading, *, keeps: bool) -> Acceptance:
        line = self._evaluator.lines(reading.user).own if reading.user else None
        totals = self._store.usage.totals(reading.account.key)
        return accept(reading, line=line, totals=totals, keeps_recreated=keeps)

    def _accept(self, seen: _Seen, *, keeps: bool, actor: str) -> None:
        now, reading = self._clock(), seen.reading
        if seen.gone:
            event = Event(kind="returned", text="the panel has this user again", actor=actor)
            account = self._store.departures.take_up(seen.gone, event, at=now)
            reading = self._census.reading(account, reading.user)
        accepted = self._decided(reading, keeps=keeps)
        before, event = accepted.before, event_of(accepted, actor=actor)
        if accepted.after is None:
            self._store.departures.forget(before.key, event, username=before.username, at=now)
            return
        if accepted.fate is Fate.REPLACED:
            self._store.departures.put_aside(before, at=now)
        if accepted.fate is not Fate.KEPT:
            shared = self._store.shared_quotas.get(before.key)
            if shared and accepted.lost_bytes:
                shared = forgive(shared, before, accepted.lost_bytes, panel=self._store.panel)
            self._store.accounts.save(accepted.after, [event], at=now, shared=shared)
