"""Switches between shared quotas and a quota per user, keeping the usage of the period."""

from __future__ import annotations

from dataclasses import replace

from marzban_bridge.quota.account import Account
from marzban_bridge.quota.shared import begun_as, in_step
from marzban_bridge.quota.shared_switch import (
    Member,
    form,
    leave,
    leave_while_gone,
    lifetime_totals,
)
from marzban_bridge.quota.usage import Totals
from marzban_bridge.store.accounts import Accounts, GoneAccounts
from marzban_bridge.store.handle import StoreHandle
from marzban_bridge.store.names.placement import Placement
from marzban_bridge.store.sharing.shared_quotas import SharedQuotas
from marzban_bridge.store.usage import Usage


class QuotaSwitch:
    """The switch for the accounts of all panels."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self._panel = panel
        self._placement = Placement(handle, panel)
        self._shared_quotas = SharedQuotas(handle)
        self._usage = Usage(handle, panel)

    def period_starts(self, account: Account) -> dict[str, Totals]:
        """Return each panel's totals of a name, at the moment the account begins a period."""
        begun = replace(account, sighting=replace(account.sighting, used_bytes=0))
        members = self._members(account.key)
        own = self._usage.own_totals(account.key)
        members[self._panel] = Member(account=begun, own=own)
        return {panel: lifetime_totals(member) for panel, member in members.items()}

    def begin(self) -> None:
        """Make users of one name share a quota, with the usage of each, within a transaction."""
        for key in self._names_with_account():
            members = self._members(key)
            quota, formed = form(members, nobodys=self._usage.totals_of_no_user(key))
            self._shared_quotas.put(key, quota)
            for panel, account in formed.items():
                Accounts(self._handle, panel).put(account)

    def end(self) -> None:
        """Give each user its own quota again, within a transaction."""
        for key in self._names_with_account():
            self._place_with_user(key)
            members = self._members(key)
            totals = {panel: Usage(self._handle, panel).shared_totals(key) for panel in members}
            shared = self._shared_quotas.get(key)
            if shared is None:
                continue
            for panel, account in leave(members, shared, totals=totals).items():
                Accounts(self._handle, panel).put(account)
        for panel in self._handle.known_panels:
            self._end_for_gone(panel)
        self._shared_quotas.drop_all()

    def begin_as_rebased(self) -> None:
        """Take the beginning of each shared period from the accounts, within a transaction."""
        for key, shared in self._shared_quotas.all().items():
            members = self._shared_quotas.members(key)
            begun = begun_as(members, shared)
            self._shared_quotas.put(key, begun)
            for panel, account in members.items():
                Accounts(self._handle, panel).replace_state(in_step(account, begun))

    def _names_with_account(self) -> list[str]:
        rows = self._db.execute("SELECT DISTINCT account_key FROM account").fetchall()
        return [row[0] for row in rows]

    def _members(self, key: str) -> dict[str, Member]:
        """Return the accounts of one name by panel, in order, with the ledger's totals."""
        return {
            panel: Member(account=account, own=self._usage.own_totals(key, panel=panel))
            for panel, account in self._shared_quotas.members(key).items()
        }

    def _place_with_user(self, key: str) -> None:
        """Assign an unscoped name to the first panel with the user, if its own panel has none.

        A name without unscoped reports is assigned when there are some.
        """
        if len(self._handle.known_panels) == 1:
            return
        if not any(map(self._placement.is_alone, self._usage.reported_names(key))):
            self._db.execute(
                "DELETE FROM orphan AS o WHERE account_key = ? AND NOT EXISTS (SELECT 1 "
                "FROM external_usage AS u WHERE u.account_key = o.account_key "
                "AND u.panel = o.panel)",
                (key,),
            )
            return
        placed, (first, *others) = self._placement.panel_of(key), self._shared_quotas.members(key)
        if placed not in {first, *others}:
            self._placement.place(key, source=placed, target=first)

    def _end_for_gone(self, panel: str) -> None:
        """Give accounts of deleted users their own quota again, in case the users return."""
        gone_accounts, usage = GoneAccounts(self._handle, panel), Usage(self._handle, panel)
        for gone in list(gone_accounts.all()):
            account, own = gone.account, usage.own_totals(gone.account.key)
            if gone.shared:
                seen = Totals(
                    billed_bytes=account.seen_total_bytes, raw_bytes=account.seen_raw_bytes
                )
                alone = {panel: Member(account=account, own=own)}
                account = leave(alone, gone.shared, totals={panel: seen})[panel]
            elif account.shared_period is not None:
                account = leave_while_gone(account, own=own)
            gone_accounts.put(
                replace(gone, account=account, departed_bytes=0, shared=None, replaced=None)
            )
