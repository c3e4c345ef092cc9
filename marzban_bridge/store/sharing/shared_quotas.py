"""The table of shared quotas, and the accounts that share one."""

from __future__ import annotations

import msgspec

from marzban_bridge.quota.account import Account, moved_along
from marzban_bridge.quota.shared_quota import SharedQuota
from marzban_bridge.quota.usage import NOTHING
from marzban_bridge.store.handle import StoreHandle


class SharedQuotas:
    """Shared quotas by name, for all panels."""

    def __init__(self, handle: StoreHandle) -> None:
        self._handle = handle
        self._db = handle.db

    def get(self, key: str) -> SharedQuota | None:
        """Return the shared quota of a name, or None."""
        if not self._handle.shares_quotas:
            return None
        query = "SELECT state FROM shared_quota WHERE account_key = ?"
        row = self._db.execute(query, (key,)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=SharedQuota)

    def put(self, key: str, shared: SharedQuota) -> None:
        """Store a shared quota, within a transaction, before the account that changed it.

        Where the beginning of the period has moved, the baselines of all accounts in it move along.
        """
        before = self.get(key)
        self._db.execute(
            "INSERT OR REPLACE INTO shared_quota VALUES (?, ?, ?)",
            (key, shared.departed_bytes, msgspec.json.encode(shared)),
        )
        moved = shared.moved_since(before) if before else None
        if before is None or moved is None or moved == NOTHING:
            return
        is_corrected = shared.corrected_seqs != before.corrected_seqs
        for panel, account in self.members(key).items():
            waits = account.is_held and is_corrected
            if account.shared_period == shared.period and not waits:
                after = moved_along(account, moved, corrected_seqs=shared.corrected_seqs)
                self._db.execute(
                    "UPDATE account SET state = ? WHERE account_key = ? AND panel = ?",
                    (msgspec.json.encode(after), key, panel),
                )

    def drop(self, key: str) -> None:
        """Delete one, within a transaction."""
        self._db.execute("DELETE FROM shared_quota WHERE account_key = ?", (key,))

    def drop_all(self) -> None:
        """Delete all, within a transaction."""
        self._db.execute("DELETE FROM shared_quota")

    def members(self, key: str) -> dict[str, Account]:
        """Return the accounts of one name by panel, in the order of the panels."""
        query = "SELECT panel, state FROM account WHERE account_key = ?"
        found = {
            panel: msgspec.json.decode(state, type=Account)
            for panel, state in self._db.execute(query, (key,)).fetchall()
        }
        order = {panel: place for place, panel in enumerate(self._handle.panels)}
        return {
            panel: found[panel]
            for panel in sorted(found, key=lambda panel: (order.get(panel, len(order)), panel))
        }

    def all(self) -> dict[str, SharedQuota]:
        """Return all shared quotas by name."""
        rows = self._db.execute("SELECT account_key, state FROM shared_quota").fetchall()
        return {key: msgspec.json.decode(state, type=SharedQuota) for key, state in rows}
