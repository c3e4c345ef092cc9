"""Accounts of users whom their panel no longer shows; `departures` puts them aside and back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec

from marzban_bridge.quota.gone_accounts import GoneAccount
from marzban_bridge.store.handle import StoreHandle, to_millis


class GoneAccounts:
    """Accounts of users that one panel no longer shows, beside those of the users it has."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._db = handle.db
        self._panel = panel

    def get(self, key: str) -> GoneAccount | None:
        """Return the account that was kept of a user who is gone, None when there is none."""
        query = "SELECT state FROM gone_account WHERE account_key = ? AND panel = ?"
        row = self._db.execute(query, (key, self._panel)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=GoneAccount)

    def all(self) -> Iterator[GoneAccount]:
        """Yield all of them, by name."""
        query = "SELECT state FROM gone_account WHERE panel = ? ORDER BY account_key"
        for row in self._db.execute(query, (self._panel,)).fetchall():
            yield msgspec.json.decode(row[0], type=GoneAccount)

    def of_name(self, key: str) -> list[tuple[str, GoneAccount]]:
        """Return those of one name on all panels, with the panel."""
        query = "SELECT panel, state FROM gone_account WHERE account_key = ?"
        rows = self._db.execute(query, (key,)).fetchall()
        return [(panel, msgspec.json.decode(state, type=GoneAccount)) for panel, state in rows]

    def put(self, gone: GoneAccount, *, panel: str | None = None) -> None:
        """Store one, of this panel or another one, as part of a transaction."""
        self._db.execute(
            "INSERT OR REPLACE INTO gone_account (account_key, panel, gone_at, state) "
            "VALUES (?, ?, ?, ?)",
            (
                *(gone.account.key, panel or self._panel, to_millis(gone.gone_at)),
                msgspec.json.encode(gone),
            ),
        )

    def drop(self, key: str) -> None:
        """Drop one, as part of a transaction."""
        statement = "DELETE FROM gone_account WHERE account_key = ? AND panel = ?"
        self._db.execute(statement, (key, self._panel))

    def note_name_taken(self, key: str) -> None:
        """Remember that a name alone counts for this panel's user, and not for who is gone."""
        for panel, gone in self.of_name(key):
            if panel != self._panel and not gone.is_name_taken:
                self.put(replace(gone, is_name_taken=True), panel=panel)
