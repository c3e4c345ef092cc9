"""Brings one user to where it should be: look, fold into the account, plan, apply, look again.

Whatever is about to be written is stored first, so that after a crash the next look can tell our
own write from an admin's edit.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from weakref import WeakValueDictionary

from marzban_bridge import reset_requests
from marzban_bridge.accounts import (
    REMEMBERED_LIMITS,
    Account,
    Enforcement,
    Event,
    account_key,
)
from marzban_bridge.errors import PanelRefusedError, StoreDoubtError, UserNotFoundError
from marzban_bridge.metrics import Metrics
from marzban_bridge.observe import Observation, adopt, hold, observe
from marzban_bridge.panel import Panel, PanelUser, Status, UserUpdate
from marzban_bridge.plan import Change, ChangeKind, event_of, plan
from marzban_bridge.policy import POLICIES
from marzban_bridge.store import Store
from marzban_bridge.usage import NOTHING, Totals

log = logging.getLogger(__name__)

MAX_STEPS = 6
"""More changes in a row than any real course of events needs: something undoes our writes."""

Clock = Callable[[], datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a look shows and what would be done, without doing it."""

    account: Account
    total_bytes: int
    change: Change | None


class Settler:
    """Settles users one by one against the panel; safe to call for many users at once.

    A user is never settled twice at the same time. Panel errors pass through to the caller, with
    the account as it was; a user the panel does not know becomes an orphan.
    """

    def __init__(
        self,
        *,
        store: Store,
        panel: Panel,
        enforcement: Enforcement,
        keeps_next_plan: bool,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._panel = panel
        self._enforcement = enforcement
        self._allows = POLICIES[enforcement]
        self._keeps_next_plan = keeps_next_plan
        self._clock = clock
        self._metrics = metrics
        self._looked_at: dict[str, float] = {}
        self.hurry: Callable[[list[str]], None] = lambda _: None
        """Called with accounts that ought to be looked at soon."""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def needs_look(self, key: str) -> bool:
        """Tell from what is stored whether new usage of this account calls for the panel."""
        account = self._store.account(key)
        if account is None:
            return not self._store.is_orphan(key)
        total_bytes = self._store.total_bytes(key)
        if total_bytes < account.seen_total_bytes:
            return not account.is_held
        change = self._plan(account, total_bytes)
        return change is not None and self._allows(change)

    def preview(self, key: str, user: PanelUser) -> Preview:
        """Work out what settling the user would do first; stores and writes nothing."""
        totals = self._store.totals(key)
        account, _ = self._fold(key, user, totals)
        return Preview(
            account=account,
            total_bytes=totals.billed_bytes,
            change=self._plan(account, totals.billed_bytes),
        )

    def take_in(
        self, users: Mapping[str, PanelUser | None], *, read_at: float
    ) -> dict[str, PanelUser | None]:
        """Settle those users whose look reveals nothing and calls for nothing; return the others.

        Nobody else runs meanwhile, so one commit for all is the same as one for each.
        """
        if self._store.doubt:
            return {}
        quiet = {key: self._quiet_look(key, user, read_at) for key, user in users.items()}
        self._store.save_all([account for account in quiet.values() if account])
        now_seconds = time.monotonic()
        self._looked_at.update((key, now_seconds) for key, account in quiet.items() if account)
        return {key: user for key, user in users.items() if quiet[key] is None}

    def _quiet_look(self, key: str, user: PanelUser | None, read_at: float) -> Account | None:
        """Return the account after a look that has no consequences; None after any other."""
        lock = self._locks.get(key)
        is_old = read_at <= self._looked_at.get(key, float("-inf"))
        if user is None or is_old or (lock and lock.locked()):
            return None
        totals = self._store.totals(key)
        account, seen = self._fold(key, user, totals)
        if seen is None or seen.events or seen.reset:
            return None
        change = self._plan(account, totals.billed_bytes)
        return None if change and self._allows(change) else account

    async def settle(self, key: str, user: PanelUser | None, *, read_at: float) -> None:
        """Settle the user as read from the panel; None when the panel did not list it.

        `read_at`: when the reading began, by `time.monotonic`. What was read before somebody else
        settled the user meanwhile is old, might look like a reset undone, and is read anew.
        """
        if self._store.doubt:
            return
        async with self._lock_of(key):
            if read_at <= self._looked_at.get(key, float("-inf")):
                user = None
            try:
                if user:
                    await self._settle(key, user)
                else:
                    await self._settle(key, await self._find(key), is_fresh=True)
            except UserNotFoundError:
                self._lose(key)

    async def reset(self, username: str, *, cause: str, actor: str) -> Account:
        """Reset the user in the panel and here; return the account afterwards.

        Raises UserNotFoundError when the panel has no such user. After a crash or a panel error the
        next look at the user finishes what was begun.
        """
        self.refuse_in_doubt()
        key = account_key(username)
        async with self._lock_of(key):
            user = await self._panel.get_user(username)
            account = self._look(key, user, self._store.totals(key))
            if account.reset_request is None:
                account = self.request_reset(account, cause=cause, actor=actor)
            await self._settle(key, user)
            settled = self._store.account(key)
            if settled is None:
                raise UserNotFoundError(user.username)
            return settled

    def _lock_of(self, key: str) -> asyncio.Lock:
        """Return what keeps a user to one at a time; it lasts as long as somebody holds it."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock

    def refuse_in_doubt(self) -> None:
        """Raise StoreDoubtError while the store must not be acted on."""
        if self._store.doubt:
            raise StoreDoubtError(self._store.doubt)

    async def hold(self, key: str) -> None:
        """Leave the user as it is until `rebase`: reports that are in its usage were lost."""
        async with self._lock_of(key):
            account = self._store.account(key)
            if account is None or account.is_held:
                return
            held, event = hold(account, seen=self._store.totals(key))
            self._store.save(held, [event], at=self._clock())
            log.error("%s user=%s %s", event.kind, account.username, event.text)

    async def _find(self, key: str) -> PanelUser:
        *others, last = self.spellings(key)
        for name in others:
            with suppress(UserNotFoundError):
                return await self._panel.get_user(name)
        return await self._panel.get_user(last)

    def request_reset(self, account: Account, *, cause: str, actor: str) -> Account:
        """Store that the user is to be reset, at the total of now; `settle` carries it out."""
        requested = reset_requests.begin(
            account,
            totals=self._store.totals(account.key),
            cause=cause,
            actor=actor,
            now=self._clock(),
            keeps_next_plan=self._keeps_next_plan,
        )
        self._store.save(requested, at=self._clock())
        return requested

    async def release(self, account: Account) -> bool:
        """Give the panel back the admin's quota and status; return whether that took a write."""
        self.refuse_in_doubt()
        async with self._lock_of(account.key):
            user = await self._panel.get_user(account.username)
            totals = self._store.totals(account.key)
            account = self._look(account.key, user, totals)
            shown_bytes, quota_bytes = user.data_limit_bytes, account.quota_bytes
            is_limit_ours = quota_bytes is not None and shown_bytes != quota_bytes
            if not is_limit_ours and not account.is_disabled_by_us:
                return False
            update = UserUpdate(
                username=user.username,
                data_limit_bytes=quota_bytes if is_limit_ours else None,
                status=Status.ACTIVE if account.is_disabled_by_us else None,
            )
            change = Change(
                kind=ChangeKind.RELEASE,
                username=user.username,
                reason="the bridge lets go of the user",
                update=update,
            )
            after = await self._write(account, user, change, update)
            self._look(account.key, after, totals)
            return True

    def spellings(self, key: str) -> list[str]:
        """Return the names under which the panel may know an account, the likeliest first.

        Marzban on MySQL compares names without regard to case; on SQLite it does not, so a name
        that was reported in another case than the panel's is found only by trying.
        """
        account = self._store.account(key)
        if account:
            return [account.username]
        return list(dict.fromkeys([*self._store.spellings(key), key]))

    def _plan(self, account: Account, total_bytes: int) -> Change | None:
        # To observe is to plan as if limits were published, and then to change nothing.
        return plan(
            account, total_bytes=total_bytes, enforcement=self._enforcement, now=self._clock()
        )

    def _fold(
        self, key: str, user: PanelUser, totals: Totals
    ) -> tuple[Account, Observation | None]:
        """Return the account after this look, and what the look revealed."""
        now = self._clock()
        account = self._store.account(key)
        if account is None:
            # What was reported while the panel had no such user is not this user's traffic.
            baseline = totals if self._store.is_orphan(key) else NOTHING
            return adopt(user, baseline=baseline, totals=totals, now=now), None
        if account.reset_request:
            return account, None
        seen = observe(
            account,
            user,
            totals=totals,
            now=now,
            was_announced=self._store.is_announced(key),
            reset_all_at=self._store.reset_all_at(user.admin),
            keeps_next_plan=self._keeps_next_plan,
        )
        return seen.account, seen

    def _look(self, key: str, user: PanelUser, totals: Totals) -> Account:
        """Fold a look into the account and store it."""
        now = self._clock()
        self._looked_at[key] = time.monotonic()
        account, seen = self._fold(key, user, totals)
        if seen is None and account.reset_request:
            return account
        events = seen.events if seen else (Event(kind="adopted", text="the user is accounted for"),)
        if seen and seen.reset:
            self._metrics.resets.labels(cause=seen.reset.cause.name.lower()).inc()
            if seen.reset.wiped_log:
                self._note_reset_all(user.admin, key, now)
        self._store.save(account, events, at=now)
        for event in events:
            log.info("%s user=%s %s", event.kind, account.username, event.text)
        return account

    def _note_reset_all(self, admin: str | None, key: str, now: datetime) -> None:
        """Remember a reset of all users, unless this user may be late news of the one known."""
        noted_at = self._store.reset_all_at(admin)
        before = self._store.account(key)
        if noted_at is None or (before and before.sighting.seen_at > noted_at):
            self._store.record_reset_all(admin, at=now)
            log.info("reset_all owner=%s all users of this owner were reset in the panel", admin)
            self.hurry(self._store.keys_of_owner(admin))

    def _lose(self, key: str) -> None:
        now = self._clock()
        account = self._store.account(key)
        if account:
            event = Event(kind="deleted", text="the panel has no such user any more")
            self._store.forget(key, event, username=account.username, at=now)
            return
        username = self.spellings(key)[0]
        event = Event(kind="orphan", text="traffic is reported for a name the panel does not know")
        if self._store.record_orphan(key, username=username, event=event, at=now):
            log.warning("orphan user=%r: %s", username, event.text)

    async def _settle(self, key: str, user: PanelUser, *, is_fresh: bool = False) -> None:
        # Traffic that arrives meanwhile is for the next time; it comes with its own hint to look.
        totals = self._store.totals(key)
        for _ in range(MAX_STEPS):
            if self._store.doubt:  # it may have begun while the panel was asked
                return
            account = self._look(key, user, totals)
            if account.reset_request:
                user = await self._finish_reset(account)
                is_fresh = True
                continue
            change = self._plan(account, totals.billed_bytes)
            if change is None or not self._allows(change):
                return
            if not is_fresh:
                # The list this user came from may be seconds old; an admin may have edited since.
                user = await self._panel.get_user(account.username)
                is_fresh = True
                continue
            user = await self._apply(account, user, change)
        text = f"{MAX_STEPS} changes in a row did not settle the user: something undoes them"
        log.error("conflict user=%s %s", user.username, text)
        self._metrics.changes.labels(kind="any", result="unsettled").inc()
        self._store.record_event(user.username, Event(kind="conflict", text=text), at=self._clock())

    async def _apply(self, account: Account, user: PanelUser, change: Change) -> PanelUser:
        """Carry out one change and return the user as the panel shows it then."""
        log.info("%s user=%s %s", change.kind, account.username, change.reason)
        try:
            if change.kind is ChangeKind.RESET:
                self.request_reset(account, cause=change.reason, actor="bridge")
            elif change.kind is ChangeKind.FIRE_NEXT_PLAN:
                asked = replace(account, fire_attempts=account.fire_attempts + 1)
                self._store.save(asked, at=self._clock())
                await self._panel.fire_next_plan(account.username)
                user = await self._panel.get_user(account.username)
            elif change.update:
                user = await self._write(account, user, change, change.update)
        except PanelRefusedError as error:
            self._metrics.changes.labels(kind=change.kind.value, result="refused").inc()
            if not isinstance(error, UserNotFoundError):
                event = Event(kind="conflict", text=f"{change.kind} was refused: {error}")
                self._store.record_event(account.username, event, at=self._clock())
            raise
        self._metrics.changes.labels(kind=change.kind.value, result="applied").inc()
        return user

    async def _write(
        self, account: Account, user: PanelUser, change: Change, update: UserUpdate
    ) -> PanelUser:
        is_ours_to_set = change.kind is not ChangeKind.RESTORE or update.status is Status.ACTIVE
        intended = replace(
            account,
            intended_bytes=update.data_limit_bytes,
            intended_status=update.status if is_ours_to_set else None,
        )
        self._store.save(intended, at=self._clock())
        after = await self._panel.update_user(
            replace(update, next_plan=update.next_plan or user.next_plan)
        )
        remembered = intended.remembered_limits
        if update.data_limit_bytes is not None:
            remembered = (*remembered, update.data_limit_bytes)[-REMEMBERED_LIMITS:]
        written = replace(
            intended, needs_readd=False, restoration=None, remembered_limits=remembered
        )
        self._store.save(written, [event_of(change, user, after)], at=self._clock())
        return after

    async def _finish_reset(self, account: Account) -> PanelUser:
        user = await self._panel.get_user(account.username)
        if reset_requests.is_call_needed(account, user):
            await self._panel.reset_user(account.username)
            account = reset_requests.panel_called(account)
            self._store.save(account, at=self._clock())
            user = await self._panel.get_user(account.username)
        now = self._clock()
        completed, event = reset_requests.complete(account, user, now=now)
        self._store.save(completed, [event], at=now)
        self._metrics.resets.labels(cause="request").inc()
        log.info("reset user=%s by=%s %s", account.username, event.actor, event.text)
        return user
