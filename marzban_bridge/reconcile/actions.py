"""The actions of admins: the same from the command line, the API and a dashboard."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from marzban_bridge.clock import Clock
from marzban_bridge.errors import ObservingError, PanelRefusedError
from marzban_bridge.feed.client import CollectorFeed
from marzban_bridge.panels.names import account_key
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.users import PanelAdmin, PanelUser
from marzban_bridge.quota.account import Account, Enforcement, Event, shifted
from marzban_bridge.quota.balance import Balance, balance_with_raw, effective_total_bytes, trusted
from marzban_bridge.quota.resets import requests as reset_requests
from marzban_bridge.quota.restore import recover
from marzban_bridge.quota.usage import Totals
from marzban_bridge.quota.writes.line_recovery import recovered_from
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.reconcile.trust.panel_trust import PanelTrust
from marzban_bridge.reconcile.users.evaluation import Evaluator
from marzban_bridge.reconcile.users.reader import UserReader
from marzban_bridge.reconcile.users.resets import UserResets
from marzban_bridge.reconcile.users.writes import UserWrites
from marzban_bridge.reconcile.work_queue import WorkQueue
from marzban_bridge.sizes import human_bytes
from marzban_bridge.store.store import Store

HOW_TO_CHANGE = (
    "to change the panel in this mode, add ?change_panel=true (API) or --change-the-panel "
    "(command line), or tick the box on the confirm page"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UserUsage:
    """Quota and usage of one panel user; `account` is None without external traffic."""

    user: PanelUser
    balance: Balance
    account: Account | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminUsage:
    """The bytes that an admin's users used since the admin's usage was last reset."""

    admin: PanelAdmin
    external_bytes: int
    users: int

    @property
    def used_bytes(self) -> int:
        """The panel's counter plus external traffic."""
        return self.admin.used_bytes + self.external_bytes


class ResetsUsers(Protocol):
    """Resets and releases single users, each under the user's lock."""

    async def reset(self, username: str, *, cause: str, actor: str) -> Account:
        """Reset a user in the panel and here; UserNotFoundError when the panel has none."""

    async def release(self, account: Account) -> bool:
        """Give a user its quota and status back; return whether that took a write."""


class Actions:
    """Actions of admins on one panel. Panel errors pass through to the caller."""

    def __init__(
        self,
        *,
        store: Store,
        panel: Panel,
        feed: CollectorFeed,
        settler: ResetsUsers,
        reader: UserReader,
        evaluator: Evaluator,
        trust: PanelTrust,
        writes: UserWrites,
        resets: UserResets,
        queue: WorkQueue,
        enforcement: Enforcement,
        clock: Clock,
        standstill: Standstill,
    ) -> None:
        self._store = store
        self._panel = panel
        self._feed = feed
        self._settler = settler
        self._reader = reader
        self._evaluator = evaluator
        self._trust = trust
        self._writes = writes
        self._resets = resets
        self._queue = queue
        self._enforcement = enforcement
        self._clock = clock
        self._standstill = standstill

    def user_usage(self, user: PanelUser) -> UserUsage:
        """Return a user's quota and usage, from the user as read from the panel and the store."""
        key = account_key(user.username)
        account = self._store.accounts.get(key)
        if account is None:
            totals, before = self._store.usage.totals(key), self._store.openings.of_new_account(key)
            found = Balance(
                quota_bytes=user.data_limit_bytes,
                panel_bytes=user.used_bytes,
                external_bytes=totals.billed_bytes - before.billed_bytes,
                external_raw_bytes=totals.raw_bytes - before.raw_bytes,
            )
        else:
            account = self.shown(account)
            found = balance_with_raw(account, self._store.usage.totals(key))
            found = replace(found, panel_bytes=user.used_bytes)
        return UserUsage(user=user, account=account, balance=found)

    def shown(self, account: Account) -> Account:
        """Return an account for display: also held while store or panel is suspended."""
        return trusted(account, is_store_suspended=bool(self._store.suspended))

    def _effective_total_bytes(self, account: Account) -> int:
        total_bytes = self._store.usage.total_bytes(account.key)
        return effective_total_bytes(self.shown(account), total_bytes=total_bytes)

    def admin_usage(self, admin: PanelAdmin) -> AdminUsage:
        """Sum the external traffic of an admin's users since the admin's usage was reset."""
        accounts = list(self._store.accounts.all(admin=admin.username))
        external_bytes = sum(
            self._effective_total_bytes(each) - each.admin_baseline_bytes for each in accounts
        )
        return AdminUsage(admin=admin, external_bytes=external_bytes, users=len(accounts))

    def _demand_change(self, what: str, *, changes_panel: bool) -> None:
        """Raise ObservingError in observe mode, unless `changes_panel`."""
        if self._enforcement is Enforcement.OBSERVE and not changes_panel:
            raise ObservingError(
                f"nothing was done: {what} would change the panel, and BRIDGE_ENFORCEMENT=observe "
                f"forbids that; {HOW_TO_CHANGE}"
            )

    async def reset_user(
        self, username: str, *, actor: str, changes_panel: bool = False
    ) -> UserUsage:
        """Reset a user's traffic, the panel's and external; UserNotFoundError when unknown.

        Raises ObservingError in observe mode, unless `changes_panel`; so do all methods that have
        this parameter.
        """
        self._demand_change("a reset", changes_panel=changes_panel)
        cause = "a reset was requested"
        with self._standstill.action():
            account = await self._settler.reset(username, cause=cause, actor=actor)
            return self.user_usage(await self._panel.get_user(account.username))

    async def reset_admin(
        self, username: str, *, bearer: str | None, actor: str, changes_panel: bool = False
    ) -> int:
        """Reset an admin's usage, in the panel and here; return the number of the admin's users.

        The users' accounts and quotas are not changed.
        """
        self._demand_change("this reset", changes_panel=changes_panel)
        with self._standstill.action():
            return await self._reset_admin(username, bearer=bearer, actor=actor)

    async def _reset_admin(self, username: str, *, bearer: str | None, actor: str) -> int:
        await self._panel.reset_admin_usage(username, bearer=bearer)
        self._store.resellers.reset(username, actor=actor, at=self._clock())
        accounts = list(self._store.accounts.all(admin=username))
        for each in accounts:
            total_bytes = self._effective_total_bytes(each)
            event = Event(
                kind="admin_reset",
                text=f"usage of admin {username} was reset",
                actor=actor,
                before=str(total_bytes - each.admin_baseline_bytes),
                after="0",
            )
            seqs = self._store.usage.totals(each.key).seqs
            anew = replace(each, admin_baseline_bytes=total_bytes, admin_seqs=seqs)
            self._store.accounts.save(anew, [event], at=self._clock())
        return len(accounts)

    async def reset_all(
        self,
        *,
        bearer: str | None,
        caller: PanelAdmin,
        actor: str | None = None,
        changes_panel: bool = False,
    ) -> int:
        """Reset all users of the caller through the panel's own call; return how many had accounts.

        Marzban 0.8.4 resets the users of a sudo admin of its database, and all users for the
        environment's admin; PasarGuard resets all users. Either restarts xray on every node. Each
        account's request is stored first, so that a crash loses none. `actor` is named in events,
        if it is not the caller.
        """
        self._demand_change("a reset of all users", changes_panel=changes_panel)
        self._trust.refuse_suspended()
        with self._standstill.action():
            return await self._reset_all(
                bearer=bearer, caller=caller, actor=actor or caller.username
            )

    async def _reset_all(self, *, bearer: str | None, caller: PanelAdmin, actor: str) -> int:
        with self._resets.for_all():
            requested = await self.request_reset_all(bearer=bearer, caller=caller, actor=actor)
            await self.call_reset_all(requested, bearer=bearer, actor=actor)
        self._queue.add(each.key for each in requested)
        return len(requested)

    @contextlib.contextmanager
    def resetting_all(self) -> Iterator[None]:
        """Within the block, defer resets of single users to the panel's own call, as `reset_all`.

        Raises PausedError and ReleasedError.
        """
        with self._standstill.action(), self._resets.for_all():
            yield

    async def request_reset_all(
        self, *, bearer: str | None, caller: PanelAdmin, actor: str
    ) -> list[Account]:
        """Store a reset request for each account that the panel's own call resets; return them."""
        scope = None
        if not self._panel.dialect.reset_all_is_of_everybody:
            admins = await self._panel.admins(bearer=bearer)
            is_in_database = any(admin.username == caller.username for admin in admins)
            scope = caller.username if is_in_database else None
        accounts = list(self._store.accounts.all(admin=scope))
        cause = "a reset of all users was requested"
        return [self._resets.request(each, cause=cause, actor=actor) for each in accounts]

    async def call_reset_all(
        self, requested: Sequence[Account], *, bearer: str | None, actor: str
    ) -> None:
        """Call the panel's reset of all users, for which requests were stored."""
        try:
            await self._panel.reset_all(bearer=bearer)
        except PanelRefusedError:
            for account in self._as_stored(requested):
                self._store.accounts.save(replace(account, reset_request=None), at=self._clock())
            raise
        for account in self._as_stored(requested):
            called = reset_requests.panel_called(account, is_of_all=True)
            self._store.accounts.save(called, at=self._clock())
        text = f"all users were reset, {len(requested)} with external traffic among them"
        self._store.events.record(
            "", Event(kind="action", text=text, actor=actor), at=self._clock()
        )

    async def own_admin(self, *, changes_panel: bool) -> PanelAdmin:
        """Return the bridge's own admin, with whose rights all users are reset.

        Raises ObservingError, StoreSuspendedError or PanelSuspendedError where no user may be.
        """
        self._demand_change("a reset of all users", changes_panel=changes_panel)
        self._trust.refuse_suspended()
        return await self._panel.whoami()

    def _as_stored(self, accounts: Iterable[Account]) -> Iterator[Account]:
        """Yield the accounts as stored now: other tasks may have changed them meanwhile."""
        for each in accounts:
            if account := self._store.accounts.get(each.key):
                yield account

    async def cleanup(self, *, days: int, actor: str) -> dict[str, object]:
        """Have the collector delete rows older than `days`; totals and quotas stay."""
        answer = await self._feed.cleanup(days=days)
        text = f"the collector purged rows older than {days} days"
        event = Event(kind="cleanup", text=text, actor=actor)
        self._store.events.record("", event, at=self._clock())
        return answer

    def rebase(self, *, actor: str, is_new_ledger: bool) -> list[Account]:
        """Move each baseline by the change of the total; return the accounts that moved."""
        moved: list[Account] = []
        for each in list(self._store.accounts.all()):
            if rebased := self._rebased(each, actor=actor, is_new_ledger=is_new_ledger):
                self._store.accounts.save(*rebased, at=self._clock())
                moved.append(rebased[0])
        for gone in list(self._store.gone_accounts.all()):
            if rebased := self._rebased(gone.account, actor=actor, is_new_ledger=is_new_ledger):
                account, events = rebased
                kept = replace(
                    gone,
                    account=account,
                    unscoped=self._store.usage.unscoped_totals(account.key),
                    is_name_taken=True,
                )
                self._store.departures.save(kept, *events, at=self._clock())
        return moved

    def _rebased(
        self, account: Account, *, actor: str, is_new_ledger: bool
    ) -> tuple[Account, list[Event]] | None:
        """Return the account moved to the ledger's current total; None where none has to move."""
        totals = self._store.usage.totals(account.key)
        has_lost = account.is_held or totals.billed_bytes < account.seen_total_bytes
        if not has_lost and not is_new_ledger:
            return None
        before = Totals(billed_bytes=account.seen_total_bytes, raw_bytes=account.seen_raw_bytes)
        shift_bytes = totals.billed_bytes - before.billed_bytes
        text = f"the ledger is accepted as it is; the baseline moved by {human_bytes(shift_bytes)}"
        rebased = replace(shifted(account, before=before, after=totals), is_held=False)
        return rebased, [Event(kind="rebased", text=text, actor=actor)]

    async def take_over(self, *, actor: str, is_ledger_newer: bool) -> list[Account]:
        """Update every account from the panel, whose data is newer than a restored store's."""
        taken: list[Account] = []
        async for key, user in self._reader.all_users():
            gone = self._evaluator.returning(key, user)
            before = gone.account if gone else self._store.accounts.get(key)
            recovered, event = self._in_step(
                before, user, actor=actor, is_ledger_newer=is_ledger_newer
            )
            if gone:
                text = "the panel has this user again: its account is updated from the panel"
                event_of_return = Event(kind="returned", text=text, actor=actor)
                self._store.departures.take_up(gone, event_of_return, at=self._clock())
            others = self._evaluator.lines(user).others
            recovered = replace(recovered, known_lines=tuple(line.name for line in others))
            self._store.accounts.save(recovered, [event], at=self._clock(), takes_announcement=True)
            taken.append(recovered)
        return taken

    def _in_step(
        self, before: Account | None, user: PanelUser, *, actor: str, is_ledger_newer: bool
    ) -> tuple[Account, Event]:
        """Take an account from the line in the user's note, where that is newer than the store.

        If the ledger was restored too, the line includes reports that the ledger lost and that may
        be sent again; then the account of the backup is kept.
        """
        totals, now = self._store.usage.totals(account_key(user.username)), self._clock()
        line = self._evaluator.lines(user).own
        is_line_newer = line is not None and (before is None or line.number > before.write_number)
        if line and line.limit_bytes and is_line_newer and (is_ledger_newer or before is None):
            account, event = recovered_from(
                line, user, totals=totals, now=now, actor=actor, accepts_ledger=True
            )
            if before:
                admin_bytes = min(before.admin_baseline_bytes, totals.billed_bytes)
                account = replace(account, admin_baseline_bytes=admin_bytes)
            return account, event
        account, event = recover(
            before,
            user,
            totals=totals,
            is_ledger_newer=is_ledger_newer,
            enforcement=self._enforcement,
            now=now,
            actor=actor,
        )
        number = max(account.write_number, line.number) if line else account.write_number
        return replace(account, write_number=number), event

    async def release(self, *, changes_panel: bool = False) -> AsyncIterator[tuple[Account, bool]]:
        """Give every user its quota and status back; yield each, and whether it was written to.

        All note lines of this store are removed, also those of users without an account.
        """
        self._demand_change("a release", changes_panel=changes_panel)
        for each in list(self._store.accounts.all()):
            yield each, await self._settler.release(each)
            await asyncio.sleep(0)
        async for key, user in self._reader.all_users():
            has_line = self._evaluator.text_of_admin(user) != (user.note or "")
            if has_line and not self._store.accounts.has(key):
                self._trust.refuse_suspended()
                await self._writes.take_out_lines(user.username)
