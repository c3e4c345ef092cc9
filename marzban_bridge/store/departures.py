"""Puts accounts of deleted users aside, and restores the account of a user who returns."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from marzban_bridge.panels.names import FIRST_PANEL, scoped
from marzban_bridge.quota.account import Account, Event, shifted
from marzban_bridge.quota.gone_accounts import GoneAccount, returned
from marzban_bridge.quota.shared import depart, put_back, rejoin, rejoin_in_new_period, renewed
from marzban_bridge.sizes import human_bytes
from marzban_bridge.store.accounts import Accounts, GoneAccounts
from marzban_bridge.store.events import Events
from marzban_bridge.store.handle import StoreHandle
from marzban_bridge.store.names.openings import Openings
from marzban_bridge.store.names.placement import Placement
from marzban_bridge.store.sharing.shared_quotas import SharedQuotas
from marzban_bridge.store.usage import Usage


class Departures:
    """Deletions and returns of one panel's users."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._panel = panel
        self._accounts = Accounts(handle, panel)
        self._events = Events(handle, panel)
        self._gone = GoneAccounts(handle, panel)
        self._openings = Openings(handle, panel)
        self._placement = Placement(handle, panel)
        self._shared_quotas = SharedQuotas(handle)
        self._usage = Usage(handle, panel)

    def save(self, gone: GoneAccount, event: Event, *, at: datetime) -> None:
        """Store the account of a deleted user, with an event."""
        with self._handle.transaction():
            self._gone.put(gone)
            self._events.insert(gone.account.username, [event], at)

    def forget(self, key: str, event: Event, *, username: str, at: datetime) -> None:
        """Put the account of a deleted user aside; its name becomes unknown.

        The account does not count any more, and the unscoped name is released.
        """
        account = self._accounts.get(key)
        if account is None:
            return
        with self._handle.transaction():
            self._gone.put(self._aside(account, at))
            self._depart(key)
            self._accounts.drop(key)
            self._release(key)
            self._placement.note_missing(key, username, at)
            self._openings.deny(key)
            self._events.insert(username, [event], at)
        self._handle.on_change(self._panel, (key,))

    def put_aside(self, account: Account, *, at: datetime) -> None:
        """Put the account of a user aside that was replaced by another user of the same name."""
        with self._handle.transaction():
            self._gone.put(
                GoneAccount(
                    account=account,
                    gone_at=at,
                    unscoped=self._usage.unscoped_totals(account.key),
                    replaced=self._shared_quotas.get(account.key),
                )
            )

    def take_up(self, gone: GoneAccount, event: Event, *, at: datetime) -> Account:
        """Restore the account of a returned user, in place of the current one of that name."""
        key = gone.account.key
        current = self._accounts.get(key)
        with self._handle.transaction():
            self._gone.drop(key)
            if current:
                self.put_aside(current, at=at)
            self._have_name_back(gone, at)
            account = returned(
                gone,
                current=current,
                unscoped=self._usage.unscoped_totals(key),
                is_name_kept=not gone.is_name_taken and self._placement.has_name(key),
            )
            if self._handle.shares_quotas and current is None:
                account = self._rejoin(account, gone)
            elif (shared := self._shared_quotas.get(key)) and gone.replaced:
                self._shared_quotas.put(key, put_back(shared, gone.replaced))
            self._accounts.put(account)
            self._events.insert(account.username, [event], at)
        self._handle.on_change(self._panel, (key,))
        return account

    def _depart(self, key: str) -> None:
        """Keep the usage of a departing user in the shared quota; drop it with its last user."""
        shared = self._shared_quotas.get(key)
        members = self._shared_quotas.members(key) if shared else {}
        account = members.pop(self._panel, None)
        if shared is None or account is None:
            return
        if members:
            self._shared_quotas.put(key, renewed(depart(shared, account), members))
        else:
            self._shared_quotas.drop(key)

    def _have_name_back(self, gone: GoneAccount, at: datetime) -> None:
        """Return an unscoped name to a user, if another panel's user claimed it in the meantime.

        The bytes reported meanwhile stay with that other user.
        """
        key = gone.account.key
        owner = self._placement.panel_of(key)
        if not gone.had_name or owner == self._panel or self._handle.shares_quotas:
            return
        before = self._usage.own_totals(key, panel=owner)
        self._placement.place(key, source=owner, target=self._panel)
        after = self._usage.own_totals(key, panel=owner)
        bytes_until_now = before.billed_bytes - after.billed_bytes
        self._openings.keep(key, owner, bytes_until_now, before.raw_bytes - after.raw_bytes)
        text = (
            f"panel {self._panel} shows its user {key} again: reports of the name without a "
            f"panel's are charged to that user from now on; the "
            f"{human_bytes(bytes_until_now)} until now stay with {scoped(owner, key)}"
        )
        self._events.insert(key, [Event(kind="name_parted", text=text)], at, panel=owner)

    def _aside(self, account: Account, at: datetime) -> GoneAccount:
        """Return the account with what `_rejoin` needs: its part of the shared quota, or all."""
        shared = self._shared_quotas.get(account.key)
        is_last = len(self._shared_quotas.members(account.key)) == 1
        return GoneAccount(
            account=account,
            gone_at=at,
            unscoped=self._usage.unscoped_totals(account.key),
            had_name=self._placement.has_name(account.key),
            departed_bytes=account.lifetime_panel_bytes if shared and not is_last else 0,
            shared=shared if is_last else None,
            replaced=shared,
        )

    def _rejoin(self, account: Account, gone: GoneAccount) -> Account:
        """Move a returned user's usage from the departed users' sum back to its own account.

        If the shared quota was dropped with its last user, it is restored first. If the name has a
        different shared quota since, or there is none to restore, the user joins as a new one.
        """
        key, shared = account.key, self._shared_quotas.get(account.key)
        keepers = [(self._panel, gone)] if gone.shared else self._keepers(key, gone)
        if shared is None and keepers:
            panel, keeper = keepers[0]
            shared = keeper.shared
            if shared and keeper is not gone:
                shared = depart(shared, keeper.account)
                left = replace(
                    keeper, shared=None, departed_bytes=keeper.account.lifetime_panel_bytes
                )
                self._gone.put(left, panel=panel)
        elif keepers:
            shared = None
        if shared is None:
            return replace(account, spent_before_bytes=0, shared_period=None, shared_version=0)
        shared = rejoin(shared, departed_bytes=gone.departed_bytes)
        if account.shared_period is None:
            shared = rejoin_in_new_period(shared, account)
        self._shared_quotas.put(key, shared)
        return account

    def _keepers(self, key: str, gone: GoneAccount) -> list[tuple[str, GoneAccount]]:
        """Return, by panel, the departed accounts that shared a dropped quota with `gone`.

        Accounts that departed before `gone` joined belonged to an earlier quota.
        """
        others = self._gone.of_name(key)
        keepers = [each for each in others if each[1].shared and each[1].gone_at >= gone.gone_at]
        return sorted(keepers, key=lambda each: each[1].gone_at)

    def _release(self, key: str) -> None:
        """Release an unscoped name; its earlier usage is not charged to the first panel's user."""
        before = self._usage.own_totals(key, panel=FIRST_PANEL)
        self._openings.release(key)
        after = self._usage.own_totals(key, panel=FIRST_PANEL)
        if self._panel == FIRST_PANEL or after == before:
            return
        accounts = Accounts(self._handle, FIRST_PANEL)
        if first := accounts.get(key):
            accounts.replace_state(shifted(first, before=before, after=after))

    def forget_all(self) -> int:
        """Delete all accounts of a panel, within a transaction; return their number.

        Their usage of shared quotas stays used, including reports with the panel's name.
        """
        keys = [account.key for account in self._accounts.all()]
        for key in keys:
            self._depart(key)
            self._accounts.drop(key)
        for key in self._placement.own_names():
            self._release(key)
        self._openings.forget_reported_for_panel()
        return len(keys)
