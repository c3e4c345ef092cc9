"""An opened store: its connection, its transactions, and its facts (`meta`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from marzban_bridge.panels.names import FIRST_PANEL

DELETE_EVENTS = (
    "DELETE FROM event WHERE seq > {0} AND seq <= {0} AND at < {0} AND kind <> 'quota_changed'"
)
"""The SQL that deletes old events, with a placeholder in place of each `{0}`."""


OF_KEYS = "IN (SELECT value FROM json_each(?))"
"""The SQL for one of many keys, which are given by `keys_json`: the same text for any number."""


class Trail(Protocol):
    """The connection for queries of the audit trail; plain SQL with `?` for each value."""

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Any:
        """Run a query and return its cursor."""
        ...


class StoreHandle:
    """A store that one process writes; shared by all classes over its tables, of all panels."""

    def __init__(self, db: sqlite3.Connection, *, trail: Trail | None = None) -> None:
        self.db = db
        self.trail: Trail = trail or db
        self.note_names: frozenset[str] | None = None
        """The store's names in note lines (`StoreIdentity`), once they were read."""
        self.on_change: Callable[[str, Iterable[str]], None] = lambda _panel, _keys: None
        self.suspended = self.meta("doubt")
        self.panels: tuple[str, ...] = tuple((self.meta("panels") or FIRST_PANEL).split())
        """The configured panels, in the order in which a name is looked up."""
        self.known_panels = frozenset(self.panels)
        """Those, and panels with stored accounts."""
        self.shares_quotas = self.meta("shares_quotas") == "true"
        self.resellers: frozenset[tuple[str, str]] = frozenset()
        """The panels and names of admins that have a quota."""
        self.load_resellers()

    def load_resellers(self) -> None:
        """Read which admins have a quota, after a commit that changed it."""
        self.resellers = frozenset(self.db.execute("SELECT panel, admin FROM reseller").fetchall())

    def configure(self, panels: Sequence[str]) -> None:
        """Set the panels that are configured."""
        rows = self.db.execute("SELECT DISTINCT panel FROM account")
        self.panels = tuple(panels)
        self.known_panels = frozenset((*panels, *(row[0] for row in rows)))

    def close(self) -> None:
        """Close the store and release its lock."""
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block as one transaction, which is durable when the block ends.

        On an error it is rolled back. Within another transaction it is part of that one.
        """
        if self.db.in_transaction:
            yield
            return
        self._begin()
        try:
            yield
            self._commit()
        except BaseException:
            with suppress(sqlite3.OperationalError):  # SQLite may have rolled back by itself
                self.db.execute("ROLLBACK")
            raise

    def _begin(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")

    def _commit(self) -> None:
        self.db.execute("COMMIT")

    def meta(self, key: str) -> str | None:
        """Return a stored fact by its key, or None."""
        row = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def metas(self, prefix: str) -> dict[str, str]:
        """Return the stored facts whose keys have a prefix."""
        rows = self.db.execute(
            "SELECT key, value FROM meta WHERE substr(key, 1, length(:prefix)) = :prefix",
            {"prefix": prefix},
        )
        return dict(rows.fetchall())

    def set_meta(self, key: str, value: str) -> None:
        """Store a fact under a key."""
        with self.transaction():
            self.db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def delete_meta(self, key: str) -> None:
        """Delete a fact, within a transaction."""
        self.db.execute("DELETE FROM meta WHERE key = ?", (key,))

    def delete_metas(self, prefix: str) -> None:
        """Delete the facts whose keys have a prefix, within a transaction."""
        statement = "DELETE FROM meta WHERE substr(key, 1, length(:prefix)) = :prefix"
        self.db.execute(statement, {"prefix": prefix})

    def delete_events(self, *, after: int, through: int, before_millis: int) -> None:
        """Delete events by number that happened before a time, except changes of quotas."""
        with self.transaction():
            self.db.execute(DELETE_EVENTS.format("?"), (after, through, before_millis))


def keys_json(keys: Iterable[str]) -> str:
    """Return keys as the value for `OF_KEYS`."""
    return msgspec.json.encode(list(keys)).decode()


def to_millis(at: datetime) -> int:
    """Convert a time to milliseconds since 1970, as stored."""
    return int(at.timestamp() * 1000)


def from_millis(millis: int) -> datetime:
    """Convert stored milliseconds to a time."""
    return datetime.fromtimestamp(millis / 1000, tz=UTC)
