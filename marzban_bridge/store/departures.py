"""Users whom their panel no longer shows: their accounts are put aside, and taken up again."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from marzban_bridge.panels.names import FIRST_PANEL, scoped
from marzban_bridge.quota.account import Account, Event, shifted
from marzban_bridge.quota.gone_accounts import GoneAccount, returned
from marzban_bridge.quota.shared import depart, put_back, rejoin, rejoin_anew, renewed
from marzban_bridge.store.accounts import Accounts, GoneAccounts
from marzban_bridge.store.events import Events
from marzban_bridge.store.handle import StoreHandle
from marzban_bridge.store.names.openings import Openings
from marzban_bridge.store.names.placement import Placement
from marzban_bridge.store.sharing.shared_quotas import SharedQuotas
from marzban_bridge.store.usage import Usage


class Departures:
    """Users who leave one panel, and who are back."""

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
        """Store the account of a user who is gone, with what happened to it."""
        with self._handle.transaction():
            self._gone.put(gone)
            self._events.insert(gone.account.username, [event], at)

    def forget(self, key: str, event: Event, *, username: str, at: datetime) -> None:
        """Put the account of a deleted user aside; its name is unknown until it comes back.

        From then on it is no account that counts: the name is free, as if it had been dropped.
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
        """Keep the account of a user in whose place there is another; that one goes on counting."""
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
        """Have the account of a user who is back count again, in place of whichever there is."""
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
        """Keep of a shared quota what a user of it has used, or drop it with the last one."""
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
        """Give a user its name alone back that passed to another panel's while it was not shown.

        What was reported meanwhile stays with that one.
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
            f"panel {self._panel} shows its user {key} again, whose name it is: what is reported "
            f"of the name alone counts for that one from here on; the {bytes_until_now} bytes "
            f"until now stay with {scoped(owner, key)}"
        )
        self._events.insert(key, [Event(kind="name_parted", text=text)], at, panel=owner)

    def _aside(self, account: Account, at: datetime) -> GoneAccount:
        """Keep what undoes a departure: what is added to the shared quota, or the quota itself."""
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
        """Take what a user counted out of what departed users did: it counts by itself again.

        The quota that the last one to leave it took along is put back first. Where users of the
        name share another one since, or none is left, it joins that like any other user.
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
            shared = rejoin_anew(shared, account)
        self._shared_quotas.put(key, shared)
        return account

    def _keepers(self, key: str, gone: GoneAccount) -> list[tuple[str, GoneAccount]]:
        """Return, by panel, who was the last to share a quota that there is no more.

        Those who had left before `gone` did shared an earlier one than it did.
        """
        others = self._gone.of_name(key)
        keepers = [each for each in others if each[1].shared and each[1].gone_at >= gone.gone_at]
        return sorted(keepers, key=lambda each: each[1].gone_at)

    def _release(self, key: str) -> None:
        """Release a name alone, and not to the first panel's user with its past."""
        before = self._usage.own_totals(key, panel=FIRST_PANEL)
        self._openings.release(key)
        after = self._usage.own_totals(key, panel=FIRST_PANEL)
        if self._panel == FIRST_PANEL or after == before:
            return
        accounts = Accounts(self._handle, FIRST_PANEL)
        if first := accounts.get(key):
            accounts.replace_state(shifted(first, before=before, after=after))

    def forget_all(self) -> int:
        """Drop all accounts of a panel for good, in a transaction; return how many there were.

        What their users used of a shared quota stays used, and so does what was reported of them
        for the panel by name.
        """
        keys = [account.key for account in self._accounts.all()]
        for key in keys:
            self._depart(key)
            self._accounts.drop(key)
        for key in self._placement.own_names():
            self._release(key)
        self._openings.forget_reported_for_panel()
        return len(keys)
