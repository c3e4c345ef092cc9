"""The accounts of one panel's users, and those of users whom it no longer shows.

`departures` puts an account aside, and takes it up again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

import msgspec

from marzban_bridge.quota.account import Account, Event
from marzban_bridge.quota.gone_accounts import GoneAccount
from marzban_bridge.quota.shared_quota import SharedQuota
from marzban_bridge.store.events import Events
from marzban_bridge.store.handle import OF_KEYS, StoreHandle, from_millis, keys_json, to_millis
from marzban_bridge.store.names.placement import Placement
from marzban_bridge.store.resellers.counting import ResellerCounts
from marzban_bridge.store.reset_news import ResetNews
from marzban_bridge.store.sharing.shared_quotas import SharedQuotas


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingResets:
    """Resets that were requested and are not finished."""

    count: int
    oldest_requested_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountCounts:
    """The numbers of accounts and of held accounts."""

    accounts: int
    held: int


class _Named(msgspec.Struct):
    """The part of an account that tells what the panel calls its user."""

    username: str


class GoneAccounts:
    """Accounts put aside for deleted users of one panel."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._db = handle.db
        self._panel = panel

    def get(self, key: str) -> GoneAccount | None:
        """Return the account put aside under a name, or None."""
        query = "SELECT state FROM gone_account WHERE account_key = ? AND panel = ?"
        row = self._db.execute(query, (key, self._panel)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=GoneAccount)

    def all(self) -> Iterator[GoneAccount]:
        """Yield all of them, by name."""
        query = "SELECT state FROM gone_account WHERE panel = ? ORDER BY account_key"
        for row in self._db.execute(query, (self._panel,)).fetchall():
            yield msgspec.json.decode(row[0], type=GoneAccount)

    def page(self, *, since: datetime, after: str, limit: int) -> list[GoneAccount]:
        """Return a page, by name, of those that were put aside at `since` or later."""
        query = (
            "SELECT state FROM gone_account WHERE panel = :panel AND account_key > :after "
            "AND gone_at >= :since_millis ORDER BY account_key LIMIT :limit"
        )
        values = {"panel": self._panel, "after": after, "since_millis": to_millis(since)}
        rows = self._db.execute(query, values | {"limit": limit})
        return [msgspec.json.decode(row[0], type=GoneAccount) for row in rows]

    def of_name(self, key: str) -> list[tuple[str, GoneAccount]]:
        """Return those of one name on all panels, with the panel."""
        query = "SELECT panel, state FROM gone_account WHERE account_key = ?"
        rows = self._db.execute(query, (key,)).fetchall()
        return [(panel, msgspec.json.decode(state, type=GoneAccount)) for panel, state in rows]

    def put(self, gone: GoneAccount, *, panel: str | None = None) -> None:
        """Store one, of this panel or of `panel`, within a transaction."""
        self._db.execute(
            "INSERT OR REPLACE INTO gone_account (account_key, panel, gone_at, state) "
            "VALUES (?, ?, ?, ?)",
            (
                *(gone.account.key, panel or self._panel, to_millis(gone.gone_at)),
                msgspec.json.encode(gone),
            ),
        )

    def drop(self, key: str) -> None:
        """Delete one, within a transaction."""
        statement = "DELETE FROM gone_account WHERE account_key = ? AND panel = ?"
        self._db.execute(statement, (key, self._panel))

    def note_name_taken(self, key: str) -> None:
        """Record that an unscoped name now belongs to this panel's user, not to a deleted one."""
        for panel, gone in self.of_name(key):
            if panel != self._panel and not gone.is_name_taken:
                self.put(replace(gone, is_name_taken=True), panel=panel)


class Accounts:
    """The accounts of one panel's users."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self._panel = panel
        self._placement = Placement(handle, panel)
        self._events = Events(handle, panel)
        self._gone = GoneAccounts(handle, panel)
        self._resellers = ResellerCounts(handle, panel)
        self._reset_news = ResetNews(handle, panel)
        self._shared_quotas = SharedQuotas(handle)

    def keys_of_owner(self, admin: str | None) -> list[str]:
        """Return the account keys of one admin's users; None for users without an admin."""
        rows = self._db.execute(
            "SELECT account_key FROM account WHERE panel = ? AND admin IS ?", (self._panel, admin)
        )
        return [row[0] for row in rows]

    def get(self, key: str) -> Account | None:
        """Return an account, or None."""
        query = "SELECT state FROM account WHERE account_key = ? AND panel = ?"
        row = self._db.execute(query, (key, self._panel)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=Account)

    def of(self, keys: Iterable[str]) -> dict[str, Account]:
        """Return those of some names that have an account, by one query."""
        return {key: msgspec.json.decode(state, type=Account) for key, state in self._states(keys)}

    def usernames(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the names in the panel's spelling of those with an account, by account key."""
        return {
            key: msgspec.json.decode(state, type=_Named).username
            for key, state in self._states(keys)
        }

    def _states(self, keys: Iterable[str]) -> list[tuple[str, bytes]]:
        query = f"SELECT account_key, state FROM account WHERE panel = ? AND account_key {OF_KEYS}"
        return self._db.execute(query, (self._panel, keys_json(keys))).fetchall()

    def username(self, key: str) -> str | None:
        """Return the name in the panel's spelling; None without an account."""
        return self.usernames([key]).get(key)

    def all(self, *, admin: str | None = None) -> Iterator[Account]:
        """Yield all accounts, or those of one admin's users, by name."""
        query = (
            "SELECT state FROM account WHERE panel = :panel "
            "AND (:admin IS NULL OR admin = :admin) ORDER BY account_key"
        )
        for row in self._db.execute(query, {"panel": self._panel, "admin": admin}).fetchall():
            yield msgspec.json.decode(row[0], type=Account)

    def page(self, *, admin: str | None, after: str, limit: int) -> list[Account]:
        """Return a page of accounts by name, of one admin's users or of all."""
        query = (
            "SELECT state FROM account WHERE account_key > :after AND panel = :panel "
            "AND (:admin IS NULL OR admin = :admin) ORDER BY account_key LIMIT :limit"
        )
        values = {"after": after, "admin": admin, "limit": limit, "panel": self._panel}
        rows = self._db.execute(query, values)
        return [msgspec.json.decode(row[0], type=Account) for row in rows]

    def has(self, key: str) -> bool:
        """Tell whether the name has an account."""
        query = "SELECT 1 FROM account WHERE account_key = ? AND panel = ?"
        return self._db.execute(query, (key, self._panel)).fetchone() is not None

    def save(
        self,
        account: Account,
        events: Iterable[Event] = (),
        *,
        at: datetime,
        shared: SharedQuota | None = None,
        takes_announcement: bool = False,
    ) -> None:
        """Store an account with its events and its shared quota.

        The name is removed from the unknown names. `takes_announcement`: the account includes the
        reset of a stored webhook, which is removed.
        """
        with self._handle.transaction():
            if shared:
                self._shared_quotas.put(account.key, shared)
            self.put(account)
            if takes_announcement:
                self._reset_news.take(account.key)
            self._events.insert(account.username, events, at)
        self._handle.on_change(self._panel, (account.key,))

    def save_all(
        self,
        accounts: Sequence[Account],
        *,
        events: Mapping[str, Iterable[Event]] = MappingProxyType({}),
        at: datetime,
    ) -> None:
        """Store evaluated accounts, and events by account key, in one transaction."""
        if not accounts:
            return
        keys = [account.key for account in accounts]
        with self._handle.transaction():
            for account in accounts:
                self._insert(account)
                if of_it := events.get(account.key):
                    self._events.insert(account.username, of_it, at)
            self._note_found(keys)
            self._reset_news.take(*keys)
        self._handle.on_change(self._panel, keys)

    def put(self, account: Account) -> None:
        """Store an account within a transaction; its name is not missing on the panel any more."""
        self._insert(account)
        self._note_found([account.key])

    def _insert(self, account: Account) -> None:
        request, key = account.reset_request, account.key
        self._db.execute(
            "INSERT OR REPLACE INTO account (account_key, panel, admin, is_held, "
            "reset_requested_at, lifetime_panel_bytes, state) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(key, self._panel, account.admin, account.is_held),
                to_millis(request.requested_at) if request else None,
                account.lifetime_panel_bytes,
                msgspec.json.encode(account),
            ),
        )
        if self._handle.resellers:
            self._events.insert("", self._resellers.count(account), account.sighting.seen_at)

    def _note_found(self, keys: Sequence[str]) -> None:
        self._placement.note_found(*keys)
        if len(self._handle.known_panels) > 1:
            for key in filter(self._placement.has_name, keys):
                self._gone.note_name_taken(key)

    def replace_state(self, account: Account) -> None:
        """Store only an account's state, within a transaction."""
        self._db.execute(
            "UPDATE account SET state = ? WHERE account_key = ? AND panel = ?",
            (msgspec.json.encode(account), account.key, self._panel),
        )

    def drop(self, key: str) -> None:
        """Delete an account, within a transaction."""
        statement = "DELETE FROM account WHERE account_key = ? AND panel = ?"
        self._db.execute(statement, (key, self._panel))

    def counts(self) -> AccountCounts:
        """Return the numbers of accounts and of held accounts."""
        row = self._db.execute(
            "SELECT (SELECT count(*) FROM account WHERE panel = :panel), "
            "(SELECT count(*) FROM account WHERE panel = :panel AND is_held)",
            {"panel": self._panel},
        ).fetchone()
        return AccountCounts(accounts=row[0], held=row[0] if self._handle.suspended else row[1])

    def pending_resets(self) -> PendingResets:
        """Return the number of unfinished resets, and when the oldest was requested."""
        row = self._db.execute(
            "SELECT count(*), min(reset_requested_at) FROM account "
            "WHERE panel = ? AND reset_requested_at IS NOT NULL",
            (self._panel,),
        ).fetchone()
        return PendingResets(
            count=row[0], oldest_requested_at=None if row[1] is None else from_millis(row[1])
        )

    def has_lost_all_since(self, at: datetime) -> bool:
        """Tell whether the panel has no account left, and lost one at or after `at`."""
        query = (
            "SELECT 1 FROM gone_account WHERE panel = :panel AND gone_at >= :since_millis "
            "AND NOT EXISTS (SELECT 1 FROM account WHERE panel = :panel)"
        )
        values = {"panel": self._panel, "since_millis": to_millis(at)}
        return self._db.execute(query, values).fetchone() is not None

    def sample(self, *, admin: str | None, limit: int) -> list[str]:
        """Return random accounts of the panel; up to half of them of one admin's users."""
        query = "SELECT account_key FROM account WHERE panel = ? {} ORDER BY random() LIMIT ?"
        of_owner = self._db.execute(
            query.format("AND admin IS ?"), (self._panel, admin, limit // 2)
        ).fetchall()
        of_all = self._db.execute(query.format(""), (self._panel, limit)).fetchall()
        return list(dict.fromkeys(row[0] for row in (*of_owner, *of_all)))[:limit]
