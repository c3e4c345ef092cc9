"""Counts what users of resellers use, in the transaction that stores a user's account.

So nothing is counted twice, and nothing is lost at a crash. Without resellers nothing is read or
written.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from marzban_bridge.event import Event
from marzban_bridge.quota.account import Account
from marzban_bridge.quota.resellers.charges import (
    CountedUser,
    is_another_user,
    used_between,
    used_by_new,
)
from marzban_bridge.quota.resellers.reseller import Reseller, charged
from marzban_bridge.store.handle import StoreHandle
from marzban_bridge.store.usage_sums import sum_of

_OWN_TOTAL = (
    f"SELECT {sum_of('total_bytes')} FROM counted_usage WHERE account_key = ? AND panel = ?"
)


class ResellerCounts:
    """The quotas of one panel's admins, and their users as last counted."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self._panel = panel

    def has(self, admin: str | None) -> bool:
        """Tell whether an admin of the panel has a quota."""
        return (self._panel, admin) in self._handle.resellers

    def get(self, admin: str | None) -> Reseller | None:
        """Return an admin's quota and usage; None if it has no quota."""
        if not self.has(admin):
            return None
        query = "SELECT state FROM reseller WHERE admin = ? AND panel = ?"
        row = self._db.execute(query, (admin, self._panel)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=Reseller)

    def put(self, reseller: Reseller) -> None:
        """Store a quota, within a transaction."""
        self._db.execute(
            "INSERT OR REPLACE INTO reseller (admin, panel, state) VALUES (?, ?, ?)",
            (reseller.admin, self._panel, msgspec.json.encode(reseller)),
        )

    def count(self, account: Account) -> Sequence[Event]:
        """Charge what a user has used since it was last counted; return the events due.

        To the admin whose user it was then: what is used before the bridge sees that a user was
        moved is the former admin's.
        """
        before = self._user(account.key)
        if before is None:
            reseller = self.get(account.admin)
            if reseller is None:
                return ()
            after, owner = self._counted(account), account.admin
            amount_bytes = used_by_new(after, since=reseller.listed_at)
        else:
            after = self._counted(account)
            owner = after.admin if is_another_user(before, after) else before.admin
            amount_bytes = used_between(before, after)
        events = self._charge(owner, amount_bytes)
        if not self.has(account.admin):
            statement = "DELETE FROM reseller_user WHERE account_key = ? AND panel = ?"
            self._db.execute(statement, (account.key, self._panel))
        elif after != before:
            self.put_user(account.key, after)
        return events

    def _charge(self, admin: str | None, amount_bytes: int) -> Sequence[Event]:
        reseller = self.get(admin) if amount_bytes else None
        if reseller is None:
            return ()
        reseller, events = charged(reseller, amount_bytes)
        self.put(reseller)
        return events

    def _counted(self, account: Account) -> CountedUser:
        """Return what is counted of an account.

        Where quotas are shared, its total has the other panels' bytes in it; there the ledger's
        total of this panel's user is taken.
        """
        is_shared = self._handle.shares_quotas
        external_bytes = account.seen_total_bytes - account.admin_baseline_bytes
        if is_shared:
            row = self._db.execute(_OWN_TOTAL, (account.key, self._panel)).fetchone()
            external_bytes = int(row[0])
        return CountedUser(
            admin=account.admin,
            created_at=account.created_at,
            period_started_at=account.period_started_at,
            lifetime_bytes=account.sighting.lifetime_bytes,
            external_bytes=external_bytes,
            is_shared=is_shared,
        )

    def _user(self, key: str) -> CountedUser | None:
        query = "SELECT state FROM reseller_user WHERE account_key = ? AND panel = ?"
        row = self._db.execute(query, (key, self._panel)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=CountedUser)

    def put_user(self, key: str, user: CountedUser) -> None:
        """Store a user as counted, within a transaction."""
        self._db.execute(
            "INSERT OR REPLACE INTO reseller_user (account_key, panel, admin, state) "
            "VALUES (?, ?, ?, ?)",
            (key, self._panel, user.admin, msgspec.json.encode(user)),
        )
