"""The part of the store that keeps the accounts of users whom the panel no longer shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

import msgspec

from marzban_bridge.panels.names import FIRST_PANEL, scoped, take_apart
from marzban_bridge.quota.account import Account, Event, shifted
from marzban_bridge.quota.gone_accounts import GoneAccount, returned
from marzban_bridge.quota.shared import depart, put_back, rejoin, rejoin_anew
from marzban_bridge.quota.shared_switch import Member, leave, leave_while_gone
from marzban_bridge.quota.usage import NOTHING, Totals
from marzban_bridge.store.accounts import AccountBooks
from marzban_bridge.store.sqlite import to_millis


class GoneBooks(AccountBooks):
    """Accounts of users that one panel no longer shows, beside those of the users it has."""

    def gone_account(self, key: str) -> GoneAccount | None:
        """Return the account that was kept of a user who is gone, None when there is none."""
        query = "SELECT state FROM gone_account WHERE account_key = ? AND panel = ?"
        row = self._db.execute(query, (key, self.panel)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=GoneAccount)

    def gone_accounts(self) -> Iterator[GoneAccount]:
        """Yield all of them, by name."""
        query = "SELECT state FROM gone_account WHERE panel = ? ORDER BY account_key"
        for row in self._db.execute(query, (self.panel,)).fetchall():
            yield msgspec.json.decode(row[0], type=GoneAccount)

    def save_gone(self, gone: GoneAccount, event: Event, *, at: datetime) -> None:
        """Store the account of a user who is gone, with what happened to it."""
        with self._handle.transaction():
            self._put_gone(gone)
            self._insert_events(gone.account.username, [event], at)

    def forget(self, key: str, event: Event, *, username: str, at: datetime) -> None:
        """Put the account of a deleted user aside; its name is an orphan until it comes back.

        From then on it is no account that counts: the name is free, as if it had been dropped.
        """
        account = self.account(key)
        if account is None:
            return
        with self._handle.transaction():
            self._put_gone(self._aside(account, at))
            self._depart(key)
            self._db.execute(
                "DELETE FROM account WHERE account_key = ? AND panel = ?", (key, self.panel)
            )
            self._release(key)
            self._insert_orphan(key, username, at)
            self._deny(key)
            self._insert_events(username, [event], at)
        self._handle.on_change(self.panel, (key,))

    def put_aside(self, account: Account, *, at: datetime) -> None:
        """Keep the account of a user in whose place there is another; that one goes on counting."""
        with self._handle.transaction():
            self._put_gone(
                GoneAccount(
                    account=account,
                    gone_at=at,
                    unscoped=self.unscoped_totals(account.key),
                    replaced=self.shared_quota(account.key),
                )
            )

    def take_up(self, gone: GoneAccount, event: Event, *, at: datetime) -> Account:
        """Have the account of a user who is back count again, in place of whichever there is."""
        key = gone.account.key
        current = self.account(key)
        with self._handle.transaction():
            self._db.execute(
                "DELETE FROM gone_account WHERE account_key = ? AND panel = ?", (key, self.panel)
            )
            if current:
                self.put_aside(current, at=at)
            self._have_name_back(gone, at)
            account = returned(
                gone,
                current=current,
                unscoped=self.unscoped_totals(key),
                is_name_kept=not gone.is_name_taken and self._has_name(key),
            )
            if self._handle.shares_quotas and current is None:
                account = self._rejoin(account, gone)
            elif (shared := self.shared_quota(key)) and gone.replaced:
                self._put_shared_quota(key, put_back(shared, gone.replaced))
            self._put(account)
            self._insert_events(account.username, [event], at)
        self._handle.on_change(self.panel, (key,))
        return account

    def _have_name_back(self, gone: GoneAccount, at: datetime) -> None:
        """Give a user its name alone back that passed to another panel's while it was not shown.

        What was reported meanwhile stays with that one.
        """
        key = gone.account.key
        owner = self.placed_on(key)
        if not gone.had_name or owner == self.panel or self._handle.shares_quotas:
            return
        before = self.own_totals(key, panel=owner)
        self._move_alone(key, source=owner, target=self.panel)
        after = self.own_totals(key, panel=owner)
        bytes_until_now = before.billed_bytes - after.billed_bytes
        self._keep(key, owner, bytes_until_now, before.raw_bytes - after.raw_bytes)
        self._db.execute(
            "INSERT OR REPLACE INTO placement (account_key, panel, is_released) VALUES (?, ?, 0)",
            (key, self.panel),
        )
        text = (
            f"panel {self.panel} shows its user {key} again, whose name it is: what is reported of "
            f"the name alone counts for that one from here on; the {bytes_until_now} bytes until "
            f"now stay with {scoped(owner, key)}"
        )
        self._insert_events(key, [Event(kind="name_parted", text=text)], at, panel=owner)

    def _keep(self, key: str, panel: str, billed_bytes: int, raw_bytes: int) -> None:
        """Have bytes go on to count for an account that are reported under no name of it."""
        query = "SELECT total_bytes, raw_bytes FROM kept_usage WHERE account_key = ? AND panel = ?"
        kept = self._db.execute(query, (key, panel)).fetchone() or (0, 0)
        self._db.execute(
            "INSERT OR REPLACE INTO kept_usage VALUES (?, ?, ?, ?)",
            (key, panel, kept[0] + billed_bytes, kept[1] + raw_bytes),
        )

    def _aside(self, account: Account, at: datetime) -> GoneAccount:
        """Keep what undoes a departure: what is added to the shared quota, or the quota itself."""
        shared = self.shared_quota(account.key)
        is_last = len(self.members(account.key)) == 1
        return GoneAccount(
            account=account,
            gone_at=at,
            unscoped=self.unscoped_totals(account.key),
            had_name=self._has_name(account.key),
            departed_bytes=account.odometer_bytes if shared and not is_last else 0,
            shared=shared if is_last else None,
            replaced=shared,
        )

    def _rejoin(self, account: Account, gone: GoneAccount) -> Account:
        """Take what a user counted out of what departed users did: it counts by itself again.

        The quota that the last one to leave it took along is put back first. Where users of the
        name share another one since, or none is left, it joins that like any other user.
        """
        key, shared = account.key, self.shared_quota(account.key)
        keepers = [(self.panel, gone)] if gone.shared else self._keepers(key, gone)
        if shared is None and keepers:
            panel, keeper = keepers[0]
            shared = keeper.shared
            if shared and keeper is not gone:
                shared = depart(shared, keeper.account)
                left = replace(keeper, shared=None, departed_bytes=keeper.account.odometer_bytes)
                self._put_gone(left, panel=panel)
        elif keepers:
            shared = None
        if shared is None:
            return replace(account, spent_before_bytes=0, shared_period=None, shared_version=0)
        shared = rejoin(shared, departed_bytes=gone.departed_bytes)
        if account.shared_period is None:
            shared = rejoin_anew(shared, account)
        self._put_shared_quota(key, shared)
        return account

    def _keepers(self, key: str, gone: GoneAccount) -> list[tuple[str, GoneAccount]]:
        """Return, by panel, who was the last to share a quota that there is no more.

        Those who had left before `gone` did shared an earlier one than it did.
        """
        rows = self._db.execute(
            "SELECT panel, state FROM gone_account WHERE account_key = ?", (key,)
        )
        others = [(panel, msgspec.json.decode(state, type=GoneAccount)) for panel, state in rows]
        keepers = [each for each in others if each[1].shared and each[1].gone_at >= gone.gone_at]
        return sorted(keepers, key=lambda each: each[1].gone_at)

    def _put_gone(self, gone: GoneAccount, *, panel: str | None = None) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO gone_account (account_key, panel, gone_at, state) "
            "VALUES (?, ?, ?, ?)",
            (
                *(gone.account.key, panel or self.panel, to_millis(gone.gone_at)),
                msgspec.json.encode(gone),
            ),
        )

    def _release(self, key: str) -> None:
        """Release a name alone, and not to the first panel's user with its past."""
        before = self.own_totals(key, panel=FIRST_PANEL)
        super()._release(key)
        after = self.own_totals(key, panel=FIRST_PANEL)
        query = "SELECT state FROM account WHERE account_key = ? AND panel = ?"
        row = self._db.execute(query, (key, FIRST_PANEL)).fetchone()
        if row is None or self.panel == FIRST_PANEL or after == before:
            return
        first = msgspec.json.decode(row[0], type=Account)
        self._db.execute(
            "UPDATE account SET state = ? WHERE account_key = ? AND panel = ?",
            (msgspec.json.encode(shifted(first, before=before, after=after)), key, FIRST_PANEL),
        )

    def _leave_shared_quotas_of_gone(self) -> None:
        """Give those who are gone a quota of their own again, for when they are back."""
        for gone in list(self.gone_accounts()):
            account, own = gone.account, self.own_totals(gone.account.key)
            if gone.shared:
                seen = Totals(
                    billed_bytes=account.seen_total_bytes, raw_bytes=account.seen_raw_bytes
                )
                alone = {self.panel: Member(account=account, own=own)}
                account = leave(alone, gone.shared, totals={self.panel: seen})[self.panel]
            elif account.shared_period is not None:
                account = leave_while_gone(account, own=own)
            self._put_gone(
                replace(gone, account=account, departed_bytes=0, shared=None, replaced=None)
            )

    def _put(self, account: Account) -> None:
        super()._put(account)
        if len(self._handle.known_panels) > 1 and self._has_name(account.key):
            self._note_name_taken(account.key)

    def _note_name_taken(self, key: str) -> None:
        """Remember that a name alone counts for this panel's user, and not for who is gone."""
        rows = self._db.execute(
            "SELECT panel, state FROM gone_account WHERE account_key = ? AND panel <> ?",
            (key, self.panel),
        ).fetchall()
        for panel, state in rows:
            gone = msgspec.json.decode(state, type=GoneAccount)
            if not gone.is_name_taken:
                self._put_gone(replace(gone, is_name_taken=True), panel=panel)

    def _has_name(self, key: str) -> bool:
        """Tell whether what is reported under a name alone counts for this panel."""
        return self.placed_on(key) == self.panel

    def unscoped_totals(self, key: str) -> Totals:
        """Return what is reported under the name alone and counts for this panel's user."""
        if self._handle.shares_quotas or len(self._handle.known_panels) == 1:
            return NOTHING
        rows = self._db.execute(
            "SELECT u.username, u.total_bytes - coalesce(a.offset_bytes, 0), "
            "u.raw_bytes - coalesce(a.raw_offset_bytes, 0) FROM external_usage AS u "
            "LEFT JOIN alias AS a ON a.username = u.username "
            "WHERE u.account_key = ?1 AND u.panel = ?2 "
            "UNION ALL SELECT '', total_bytes, raw_bytes FROM kept_usage "
            "WHERE account_key = ?1 AND panel = ?2",
            (key, self.panel),
        )
        alone = [
            row[1:]
            for row in rows
            if take_apart(row[0], panels=self._handle.known_panels).panel is None
        ]
        return Totals(
            billed_bytes=sum(billed for billed, _ in alone), raw_bytes=sum(raw for _, raw in alone)
        )
