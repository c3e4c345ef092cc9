"""Begins and ends the sharing of quotas by users of one name, with what each of them had used."""

from __future__ import annotations

from dataclasses import replace

from marzban_bridge.quota.account import Account
from marzban_bridge.quota.shared_switch import Member, form, leave, leave_while_gone, standing_of
from marzban_bridge.quota.usage import Totals
from marzban_bridge.store.accounts import Accounts, GoneAccounts
from marzban_bridge.store.handle import StoreHandle
from marzban_bridge.store.names.placement import Placement
from marzban_bridge.store.sharing.shared_quotas import SharedQuotas
from marzban_bridge.store.usage import Usage


class QuotaSwitch:
    """Shared quotas and quotas of one's own, of all panels."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self._panel = panel
        self._placement = Placement(handle, panel)
        self._shared_quotas = SharedQuotas(handle)
        self._usage = Usage(handle, panel)

    def standings(self, account: Account) -> dict[str, Totals]:
        """Return where the panels of a name stand as the account, of this one, begins a period."""
        begun = replace(account, sighting=replace(account.sighting, used_bytes=0))
        members = self._members(account.key)
        own = self._usage.own_totals(account.key)
        members[self._panel] = Member(account=begun, own=own)
        return {panel: standing_of(member) for panel, member in members.items()}

    def begin(self) -> None:
        """Have users of one name share a quota, with what each had used; in a transaction."""
        for key in self._names_with_account():
            members = self._members(key)
            quota, formed = form(members, nobodys=self._usage.totals_of_no_user(key))
            self._shared_quotas.put(key, quota)
            for panel, account in formed.items():
                Accounts(self._handle, panel).put(account)

    def end(self) -> None:
        """Give each user a quota of its own again; in a transaction."""
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

    def _names_with_account(self) -> list[str]:
        rows = self._db.execute("SELECT DISTINCT account_key FROM account").fetchall()
        return [row[0] for row in rows]

    def _members(self, key: str) -> dict[str, Member]:
        """Return the accounts of one name by panel, in order, with what the ledger has for each."""
        return {
            panel: Member(account=account, own=self._usage.own_totals(key, panel=panel))
            for panel, account in self._shared_quotas.members(key).items()
        }

    def _place_with_user(self, key: str) -> None:
        """Count a name alone for the first panel that has the user, if its own has none.

        One that was never reported alone is placed when it is: all panels are asked for it then.
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
        """Give those who are gone a quota of their own again, for when they are back."""
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
