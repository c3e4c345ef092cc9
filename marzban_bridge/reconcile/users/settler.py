"""Settles one user: read, evaluate, plan a change, apply it, and evaluate again.

Each write is stored before it is sent, so that after a crash the next evaluation can tell the
bridge's write from an admin's edit.
"""

from __future__ import annotations

import logging
import time

from marzban_bridge.clock import Clock
from marzban_bridge.errors import UserNotFoundError
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.names import account_key
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelUser, is_same_creation
from marzban_bridge.quota.account import Account, Event
from marzban_bridge.quota.plan import Change, releasing
from marzban_bridge.quota.usage import CorrectedName, Totals
from marzban_bridge.reconcile.trust.panel_trust import PanelTrust
from marzban_bridge.reconcile.users.changes import Changes
from marzban_bridge.reconcile.users.chunk import UNREAD_AT
from marzban_bridge.reconcile.users.evaluation import Evaluator
from marzban_bridge.reconcile.users.intake import UserIntake
from marzban_bridge.reconcile.users.ledger_changes import Ask, LedgerChanges
from marzban_bridge.reconcile.users.locks import UserLocks
from marzban_bridge.reconcile.users.reader import UserReader
from marzban_bridge.reconcile.users.resets import UserResets
from marzban_bridge.reconcile.users.writes import AnsweredWrite, OpenedWrite, UserWrites
from marzban_bridge.reconcile.work_queue import OtherQueues
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)

DELETED = "the panel has no such user any more; its account is kept in case the user returns"
MAX_STEPS = 6
"""A user that needs more changes in a row is a conflict: something undoes the bridge's writes."""


class Settler:
    """Settles users against the panel; may be called concurrently for many users.

    A lock per user prevents settling it twice at a time. On a panel error, which passes through,
    the account stays as it was. A reported name without a user in the panel is listed as unknown.
    """

    def __init__(
        self,
        *,
        store: Store,
        panel: Panel,
        evaluator: Evaluator,
        reader: UserReader,
        trust: PanelTrust,
        intake: UserIntake,
        writes: UserWrites,
        resets: UserResets,
        locks: UserLocks,
        elsewhere: OtherQueues,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._panel = panel
        self._evaluator = evaluator
        self._reader = reader
        self._trust = trust
        self._intake = intake
        self._writes = writes
        self.resets = resets
        self._changes = Changes(
            store=store, panel=panel, resets=resets, clock=clock, metrics=metrics
        )
        self._ledger_changes = LedgerChanges(store=store, clock=clock)
        self._elsewhere = elsewhere
        self._clock = clock
        self._metrics = metrics
        self._locks = locks

    async def settle(
        self,
        key: str,
        user: PanelUser | None,
        *,
        read_at: float,
        fresh_until: float = UNREAD_AT,
    ) -> None:
        """Settle the user as read from the panel; `user` is None when the panel did not list it.

        `read_at`: when reading began (`time.monotonic`). If another task settled the user since
        then, the data is stale (from before a reset, perhaps), and the user is read again; so is
        one of UNREAD_AT, which was not read yet, and before a write one that is written to after
        `fresh_until`.
        """
        if self._trust.is_suspended:
            return
        owners: list[str] = []
        async with self._locks.of(key):
            evaluated_at = self._intake.evaluated_at(key)
            was_missing = user is None and read_at > evaluated_at
            if read_at <= evaluated_at:
                is_unread = read_at == UNREAD_AT
                user, read_at = None, time.monotonic() if is_unread else evaluated_at
            is_fresh = user is None or time.monotonic() < fresh_until
            try:
                user = user or await self._find(key, was_listed=was_missing)
                self._reader.unknown.forget(key)
                await self._settle(key, user, read_at=read_at, is_fresh=is_fresh)
            except UserNotFoundError:
                # The user was in the list and is gone now: a sample from before does not
                # help to decide whether only this user is gone.
                missing_at = read_at if was_missing else time.monotonic()
                if not await self._trust.census.is_untrusted(key, None, read_at=missing_at):
                    owners = await self._lose(key)
        for owner in owners:
            if self._store.placement.is_known(owner):  # this account was not in the list
                await self.settle(owner, None, read_at=UNREAD_AT)

    async def reset(self, username: str, *, cause: str, actor: str) -> Account:
        """Reset the user in the panel and here; return the account afterwards.

        Raises UserNotFoundError when the panel has no such user. After a crash or a panel error the
        next evaluation of the user continues the reset.
        """
        self._trust.refuse_suspended()
        key = account_key(username)
        async with self._locks.of(key):
            read_at = time.monotonic()
            user = await self._panel.get_user(username)
            await self._trust.demand(key, user, read_at=read_at)
            self._intake.recognize(key, user)
            account = self._intake.evaluate(key, user, self._store.usage.totals(key))
            if account.reset_request is None:
                account = self.resets.request(account, cause=cause, actor=actor)
            await self._settle(key, user, read_at=read_at, is_asked=True)
            settled = self._store.accounts.get(key)
            if settled is None:
                raise UserNotFoundError(user.username)
            return settled

    async def note_overwritten_edit(self, key: str, told: PanelUser) -> None:
        """Keep an admin's edit that a webhook tells of, where a write of ours went over it."""
        if self._store.suspended or self._store.suspension.reasons:
            return
        async with self._locks.of(key):
            account = self._store.accounts.get(key)
            if account is None or not is_same_creation(account.created_at, told.created_at):
                return
            if found := self._evaluator.with_overwritten_edit(account, told):
                account, event = found
                self._store.accounts.save(account, [event], at=self._clock())

    async def hold(self, key: str) -> None:
        """Hold the user until `rebase`: the ledger lost reports that are in its usage."""
        async with self._locks.of(key):
            self._ledger_changes.hold(key)

    async def hold_reported_after(self, seq: int) -> None:
        """Hold all users with reports after a change number: the ledger lost those reports."""
        for key in self._store.usage.keys_reported_after(seq):
            await self.hold(key)

    async def correct(self, name: CorrectedName, ask: Ask) -> bool:
        """Apply corrections of a name to its user; return whether that is complete."""
        async with self._locks.of(name.key):
            return await self._ledger_changes.correct(name, ask)

    async def _find(self, key: str, *, was_listed: bool) -> PanelUser:
        """Read a user; for a name without an account, the list that was read is sufficient."""
        if was_listed and not self._store.accounts.has(key):
            raise UserNotFoundError(key)
        return await self._panel.get_user(self._reader.name(key))

    async def release(self, account: Account) -> bool:
        """Restore the admin's quota and status in the panel; return whether it was written to."""
        self._trust.refuse_suspended()
        async with self._locks.of(account.key):
            read_at = time.monotonic()
            user = await self._panel.get_user(account.username)
            await self._trust.demand(account.key, user, read_at=read_at)
            totals = self._store.usage.totals(account.key)
            account = self._intake.evaluate(account.key, user, totals)
            change = releasing(account, user, text_of_admin=self._evaluator.text_of_admin(user))
            if change is None or change.update is None:
                return False
            after = await self._writes.write(account, user, change, change.update, adds_line=False)
            self._intake.evaluate(account.key, after, totals)
            return True

    async def _lose(self, key: str) -> list[str]:
        """Record that the panel has no such user; return the accounts its name is charged to."""
        account = self._store.accounts.get(key)
        if account:
            event = Event(kind="deleted", text=DELETED)
            self._store.departures.forget(key, event, username=account.username, at=self._clock())
            return []
        owners = await self._reader.lose(key)
        self._elsewhere.add_if_needed([key, *owners])
        return owners

    async def _settle(
        self,
        key: str,
        user: PanelUser,
        *,
        read_at: float,
        is_fresh: bool = False,
        is_asked: bool = False,
    ) -> None:
        """Settle the user; in observe mode only as far as `is_asked` allows."""
        totals = self._store.usage.totals(key)
        for step in range(MAX_STEPS):
            # The suspension, or the pause, may have begun while the panel answered.
            if await self._trust.is_untrusted(key, user, read_at=read_at) or self._store.suspended:
                return
            if step == 0:
                self._intake.recognize(key, user)
                # Reports that arrive meanwhile add the user to the queue again.
                totals = self._store.usage.totals(key)
            account, change, opened = self._decide(
                key, user, totals, is_fresh=is_fresh, is_asked=is_asked
            )
            if account.reset_request:
                waits = self.resets.wait_for_all or not self._evaluator.may_finish(account)
                if waits and not is_asked:
                    return
                user = await self.resets.finish(account)
                self._elsewhere.add_if_needed([key] if self._store.shares_quotas else [])
                is_fresh = True
                continue
            if change is None:
                return
            if not is_fresh:
                # The list may be seconds old, and an admin may have edited the user since.
                user = await self._panel.get_user(account.username)
                is_fresh = True
                continue
            named = self._store.placement.public_name(account.username)
            log.info("%s user=%s %s", change.kind, named, change.reason)
            if not opened:
                applying = self._changes.apply(account, user, change)
                user = await self._changes.counted(change, applying)
                continue
            answered = await self._changes.counted(change, self._writes.send(opened))
            if self._is_settled_by(answered, totals, is_asked=is_asked):
                return
            user = answered.user
        text = f"{MAX_STEPS} changes in a row did not settle the user: another program undoes them"
        log.error("conflict user=%s %s", self._store.placement.public_name(user.username), text)
        self._metrics.changes.labels(kind="any", result="unsettled").inc()
        event = Event(kind="conflict", text=text)
        self._store.events.record(user.username, event, at=self._clock())

    def _decide(
        self, key: str, user: PanelUser, totals: Totals, *, is_fresh: bool, is_asked: bool
    ) -> tuple[Account, Change | None, OpenedWrite | None]:
        """Evaluate the user; return the account, the next change, and its write, if it is fresh.

        The evaluation and what is to be written are one commit.
        """
        opened = change = None
        with self._store.transaction():
            account = self._intake.evaluate(key, user, totals)
            if (period := self._evaluator.must_follow(account)) is not None:
                account = self.resets.follow(account, period)
            if not account.reset_request:
                change = self._next_change(account, totals, is_asked=is_asked)
            if change and change.update and is_fresh:
                opened = self._writes.open(account, user, change, change.update)
        return account, change, opened

    def _next_change(self, account: Account, totals: Totals, *, is_asked: bool) -> Change | None:
        change = self._evaluator.plan(account, totals.billed_bytes)
        if change and is_asked:
            return self._evaluator.as_asked(change)
        return change if change and self._evaluator.allows(change) else None

    def _is_settled_by(self, answered: AnsweredWrite, totals: Totals, *, is_asked: bool) -> bool:
        """Store a write's answer and, if nothing but the write shows in it, its evaluation.

        Both are one commit. Returns whether nothing is left to do then.
        """
        user, key = answered.user, answered.account.key
        with self._store.transaction():
            self._writes.store(answered)
            if not self._trust.is_plain(answered.account, user):
                return False
            account = self._intake.evaluate(key, user, totals)
            is_reset = account.reset_request or self._evaluator.must_follow(account) is not None
            return not is_reset and self._next_change(account, totals, is_asked=is_asked) is None
