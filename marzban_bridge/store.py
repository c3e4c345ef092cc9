"""The bridge's own durable memory: accounts, usage read from the feed, events, the feed's cursor.

One SQLite file, one process. Every method is one transaction and is durable when it returns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from marzban_bridge.accounts import Account, Event, PendingResets, account_key
from marzban_bridge.history import Run
from marzban_bridge.lineage import Lineage
from marzban_bridge.store_file import connect, from_millis, lock, to_millis
from marzban_bridge.usage import Orphan, Totals, UsageChange


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """An event with its place in the audit trail."""

    seq: int
    at: datetime
    username: str
    event: Event


class Store:
    """The bridge's memory in one SQLite file.

    Opening creates or migrates the file. Raises StoreError when another process has it open for
    writing, when it is damaged or not a bridge's store, or when a newer version wrote it.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self.on_change: Callable[[Iterable[str]], None] = lambda _: None
        """Called after a commit with the accounts it touched; with none after mere events."""
        self._lock = None if read_only else lock(path)
        try:
            self._db = connect(path, read_only=read_only)
        except BaseException:
            if self._lock:
                self._lock.close()
            raise
        self.lineage = Lineage(self._db)
        self.doubt = self.meta("doubt")
        """Why nobody may be changed on the strength of this store; None when all is well."""

    def close(self) -> None:
        """Close the file and let another process have it."""
        self._db.close()
        if self._lock:
            self._lock.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.OperationalError):  # SQLite may have rolled back by itself
                self._db.execute("ROLLBACK")
            raise

    def meta(self, key: str) -> str | None:
        """Return a stored fact about the bridge itself, None when there is none."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Store a fact about the bridge itself."""
        self._db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def begin_doubt(self, reason: str, event: Event, *, at: datetime) -> None:
        """Have nobody changed on the strength of this store, over restarts."""
        with self._transaction():
            self.set_meta("doubt", reason)
            self._insert_events("", [event], at)
        self.doubt = reason
        self.on_change(())

    def end_doubt(self) -> None:
        """Trust the store again, as one that begins another history."""
        with self._transaction():
            self._db.execute("DELETE FROM meta WHERE key = 'doubt'")
            self.lineage.begin_anew()
        self.doubt = None

    @property
    def cursor(self) -> int:
        """The feed sequence number up to which usage has been read."""
        return int(self.meta("feed_cursor") or 0)

    @property
    def runs(self) -> tuple[Run, ...]:
        """The collector's runs that stored what was read, oldest first."""
        return msgspec.json.decode(self.meta("feed_runs") or "[]", type=tuple[Run, ...])

    def record_usage(
        self, changes: Sequence[UsageChange], *, cursor: int, runs: Sequence[Run]
    ) -> list[str]:
        """Store a page of the feed with the cursor behind it; return the accounts it touches."""
        with self._transaction():
            if tuple(runs) != self.runs:
                self.set_meta("feed_runs", msgspec.json.encode(runs).decode())
            self._db.executemany(
                "INSERT OR REPLACE INTO external_usage "
                "(username, account_key, total_bytes, raw_bytes, change_seq) "
                "VALUES (?, ?, ?, ?, ?)",
                [
                    (
                        *(each.username, account_key(each.username)),
                        *(each.total_bytes, each.raw_bytes, each.change_seq),
                    )
                    for each in changes
                ],
            )
            self.set_meta("feed_cursor", str(cursor))
        touched = list(dict.fromkeys(account_key(change.username) for change in changes))
        self.on_change(touched)
        return touched

    def forget_usage(self, *, ledger_id: str) -> None:
        """Drop all usage read so far, to read it anew from the named ledger."""
        with self._transaction():
            self._db.execute("DELETE FROM external_usage")
            self.set_meta("feed_cursor", "0")
            self.set_meta("feed_runs", "[]")
            self.set_meta("ledger_id", ledger_id)

    def keys_reported_after(self, change_seq: int) -> list[str]:
        """Return the account keys whose usage, as read, has reports after a seq of the ledger."""
        query = "SELECT DISTINCT account_key FROM external_usage WHERE change_seq > ?"
        return [row[0] for row in self._db.execute(query, (change_seq,))]

    def totals(self, key: str) -> Totals:
        """Return an account's external usage since for ever, over all spellings of its name."""
        row = self._db.execute(
            "SELECT coalesce(sum(total_bytes), 0), coalesce(sum(raw_bytes), 0) "
            "FROM external_usage WHERE account_key = ?",
            (key,),
        ).fetchone()
        return Totals(billed_bytes=row[0], raw_bytes=row[1])

    def total_bytes(self, key: str) -> int:
        """Return what an account's external usage since for ever counts for."""
        return self.totals(key).billed_bytes

    def spellings(self, key: str) -> list[str]:
        """Return the names as reported for an account key, the latest first."""
        rows = self._db.execute(
            "SELECT username FROM external_usage WHERE account_key = ? ORDER BY change_seq DESC",
            (key,),
        )
        return [row[0] for row in rows]

    def keys(self, *, after: str = "", limit: int = 100) -> list[str]:
        """Return a page of all account keys with external usage or an account, in order."""
        rows = self._db.execute(
            "SELECT account_key FROM external_usage WHERE account_key > ?1 "
            "UNION SELECT account_key FROM account WHERE account_key > ?1 "
            "ORDER BY account_key LIMIT ?2",
            (after, limit),
        )
        return [row[0] for row in rows]

    def keys_of_owner(self, admin: str | None) -> list[str]:
        """Return the account keys of one owner's users; None owns those without an owner."""
        rows = self._db.execute("SELECT account_key FROM account WHERE admin IS ?", (admin,))
        return [row[0] for row in rows]

    def account(self, key: str) -> Account | None:
        """Return an account, None when the name has none."""
        row = self._db.execute("SELECT state FROM account WHERE account_key = ?", (key,)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=Account)

    def accounts(self, *, admin: str | None = None) -> Iterator[Account]:
        """Yield all accounts, or those of one owner, by name."""
        query = "SELECT state FROM account"
        arguments: tuple[str, ...] = ()
        if admin is not None:
            query, arguments = f"{query} WHERE admin = ?", (admin,)
        for row in self._db.execute(f"{query} ORDER BY account_key", arguments).fetchall():
            yield msgspec.json.decode(row[0], type=Account)

    def account_page(self, *, admin: str | None, after: str, limit: int) -> list[Account]:
        """Return a page of accounts by name, of one owner or of all."""
        query = (
            "SELECT state FROM account WHERE account_key > ?1 AND (?2 IS NULL OR admin = ?2) "
            "ORDER BY account_key LIMIT ?3"
        )
        rows = self._db.execute(query, (after, admin, limit))
        return [msgspec.json.decode(row[0], type=Account) for row in rows]

    def save(self, account: Account, events: Iterable[Event] = (), *, at: datetime) -> None:
        """Store an account together with what happened to it.

        With that it is no orphan, and a reset webhook that waited for it is taken into account.
        """
        with self._transaction():
            self._put(account)
            self._insert_events(account.username, events, at)
        self.on_change((account.key,))

    def save_all(self, accounts: Sequence[Account]) -> None:
        """Store accounts to which nothing happened, as `save` would, in one transaction."""
        if not accounts:
            return
        with self._transaction():
            for account in accounts:
                self._put(account)
        self.on_change([account.key for account in accounts])

    def _put(self, account: Account) -> None:
        request, key = account.reset_request, account.key
        self._db.execute(
            "INSERT OR REPLACE INTO account "
            "(account_key, admin, is_held, reset_requested_at, state) VALUES (?, ?, ?, ?, ?)",
            (
                key,
                account.admin,
                account.is_held,
                to_millis(request.requested_at) if request else None,
                msgspec.json.encode(account),
            ),
        )
        self._db.execute("DELETE FROM orphan WHERE account_key = ?", (key,))
        self._db.execute("DELETE FROM announcement WHERE account_key = ?", (key,))

    def forget(self, key: str, event: Event, *, username: str, at: datetime) -> None:
        """Drop the account of a deleted user; its name is an orphan until it comes back."""
        with self._transaction():
            self._db.execute("DELETE FROM account WHERE account_key = ?", (key,))
            self._insert_orphan(key, username, at)
            self._insert_events(username, [event], at)
        self.on_change((key,))

    def record_orphan(self, key: str, *, username: str, event: Event, at: datetime) -> bool:
        """Note a reported name the panel does not know; return whether that is news."""
        with self._transaction():
            is_news = self._insert_orphan(key, username, at)
            if is_news:
                self._insert_events(username, [event], at)
        if is_news:
            self.on_change(())
        return is_news

    def _insert_orphan(self, key: str, username: str, at: datetime) -> bool:
        statement = (
            "INSERT OR IGNORE INTO orphan (account_key, username, first_seen_at) VALUES (?, ?, ?)"
        )
        return self._db.execute(statement, (key, username, to_millis(at))).rowcount > 0

    def is_orphan(self, key: str) -> bool:
        """Tell whether the panel is known not to have this name."""
        query = "SELECT 1 FROM orphan WHERE account_key = ?"
        return self._db.execute(query, (key,)).fetchone() is not None

    def has_account(self, key: str) -> bool:
        """Tell whether the name has an account."""
        query = "SELECT 1 FROM account WHERE account_key = ?"
        return self._db.execute(query, (key,)).fetchone() is not None

    def is_known(self, key: str) -> bool:
        """Tell whether the name has an account or has been reported."""
        query = (
            "SELECT 1 FROM account WHERE account_key = ?1 "
            "UNION ALL SELECT 1 FROM external_usage WHERE account_key = ?1"
        )
        return self._db.execute(query, (key,)).fetchone() is not None

    def orphans(self) -> list[Orphan]:
        """Return the names that were reported and that the panel does not know."""
        rows = self._db.execute(
            "SELECT orphan.username, first_seen_at, coalesce(sum(total_bytes), 0), "
            "coalesce(sum(raw_bytes), 0) FROM orphan LEFT JOIN external_usage USING (account_key) "
            "GROUP BY account_key ORDER BY 3 DESC"
        )
        return [
            Orphan(
                username=row[0],
                first_seen_at=from_millis(row[1]),
                total_bytes=row[2],
                raw_bytes=row[3],
            )
            for row in rows
        ]

    def record_event(self, username: str, event: Event, *, at: datetime) -> None:
        """Add to the audit trail."""
        with self._transaction():
            self._insert_events(username, [event], at)
        self.on_change(())

    def _insert_events(self, username: str, events: Iterable[Event], at: datetime) -> None:
        self._db.executemany(
            "INSERT INTO event (at, username, kind, actor, text, value_before, value_after) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            [(to_millis(at), username, e.kind, e.actor, e.text, e.before, e.after) for e in events],
        )

    def events(self, *, username: str | None = None, limit: int = 100) -> list[RecordedEvent]:
        """Return the newest events first, of one user or of all."""
        query = (
            f"{_SELECT_EVENT} "
            "WHERE ?1 IS NULL OR username = ?1 COLLATE NOCASE ORDER BY seq DESC LIMIT ?2"
        )
        return [_event(row) for row in self._db.execute(query, (username, limit))]

    def events_after(self, seq: int, *, limit: int) -> list[RecordedEvent]:
        """Return a page of the audit trail, oldest first."""
        query = f"{_SELECT_EVENT} WHERE seq > ? ORDER BY seq LIMIT ?"
        return [_event(row) for row in self._db.execute(query, (seq, limit))]

    def last_event_before(self, at: datetime) -> int:
        """Return the place of the newest event that is older than a moment; 0 if none is."""
        query = "SELECT seq FROM event WHERE at < ? ORDER BY seq DESC LIMIT 1"
        row = self._db.execute(query, (to_millis(at),)).fetchone()
        return 0 if row is None else int(row[0])

    def announce(
        self, announcements: Sequence[tuple[bytes, str]], *, at: datetime, remember_seconds: int
    ) -> list[str]:
        """Remember reset webhooks, given as (digest, account key); return the keys that are news.

        A redelivered webhook has the digest of the first delivery. The announcement stays until the
        next `save` of its account, so that a crash in between does not lose it.
        """
        now = to_millis(at)
        news: list[str] = []
        with self._transaction():
            self._db.execute(
                "DELETE FROM webhook_seen WHERE seen_at < ?", (now - remember_seconds * 1000,)
            )
            for digest, key in announcements:
                statement = "INSERT OR IGNORE INTO webhook_seen (digest, seen_at) VALUES (?, ?)"
                if self._db.execute(statement, (digest, now)).rowcount:
                    statement = "INSERT OR REPLACE INTO announcement VALUES (?, ?)"
                    self._db.execute(statement, (key, now))
                    news.append(key)
        return news

    def is_announced(self, key: str) -> bool:
        """Tell whether a reset webhook for the account waits to be taken into account."""
        query = "SELECT 1 FROM announcement WHERE account_key = ?"
        return self._db.execute(query, (key,)).fetchone() is not None

    def reset_all_at(self, admin: str | None) -> datetime | None:
        """Return when a reset of all of an owner's users was last noticed."""
        query = "SELECT seen_at FROM reset_all WHERE admin = ?"
        row = self._db.execute(query, (admin or "",)).fetchone()
        return None if row is None else from_millis(row[0])

    def record_reset_all(self, admin: str | None, *, at: datetime) -> None:
        """Remember that all users of an owner were reset in the panel."""
        self._db.execute(
            "INSERT OR REPLACE INTO reset_all (admin, seen_at) VALUES (?, ?)",
            (admin or "", to_millis(at)),
        )

    def counts(self) -> Mapping[str, int]:
        """Return how many accounts there are, how many of them are held, and how many orphans."""
        row = self._db.execute(
            "SELECT (SELECT count(*) FROM account), (SELECT count(*) FROM orphan), "
            "(SELECT count(*) FROM account WHERE is_held)"
        ).fetchone()
        held = row[0] if self.doubt else row[2]
        return {"accounts": row[0], "orphans": row[1], "held": held}

    def pending_resets(self) -> PendingResets:
        """Return how many accounts wait for a reset to be finished, and since when."""
        row = self._db.execute(
            "SELECT count(*), min(reset_requested_at) FROM account "
            "WHERE reset_requested_at IS NOT NULL"
        ).fetchone()
        return PendingResets(
            count=row[0], oldest_requested_at=None if row[1] is None else from_millis(row[1])
        )


_SELECT_EVENT = "SELECT seq, at, username, kind, actor, text, value_before, value_after FROM event"


def _event(row: tuple[Any, ...]) -> RecordedEvent:
    return RecordedEvent(
        seq=row[0],
        at=from_millis(row[1]),
        username=row[2],
        event=Event(kind=row[3], actor=row[4], text=row[5], before=row[6], after=row[7]),
    )
