"""What tells a store from an older copy of itself: its name, and marks of its audit trail."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from marzban_bridge.store.handle import Trail

NOTE_NAME_LENGTH = 8


def mark_as_copy(db: sqlite3.Connection, *, at: datetime) -> None:
    """Have a bridge that is started on this copy know that it is one."""
    statement = "INSERT OR REPLACE INTO meta (key, value) VALUES ('copied_at', ?)"
    db.execute(statement, (f"{at:%Y-%m-%d %H:%M} UTC",))


def panel_mark(url: str) -> str:
    """Return by what the collector knows a panel: its host, whatever the port and scheme."""
    host = urlsplit(url).hostname or ""
    return hashlib.sha256(host.lower().encode()).hexdigest()[:32]


class Lineage:
    """One store's place in its own history.

    The audit trail grows with every reset, quota change and published limit, so its newest entry
    says how far the store is; the entry's mark tells it from one of that number in a store that was
    restored and went another way.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        trail: Trail,
        transaction: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._db = db
        self._trail = trail
        self._transaction = transaction

    @property
    def is_new(self) -> bool:
        """Whether the store has no name yet: the collector was never asked about it."""
        query = "SELECT 1 FROM meta WHERE key = 'store_id'"
        return self._db.execute(query).fetchone() is None

    @property
    def name(self) -> str:
        """What the collector knows this store by; made at the first use."""
        query = "SELECT value FROM meta WHERE key = 'store_id'"
        if row := self._db.execute(query).fetchone():
            return str(row[0])
        return self.begin_anew()

    @property
    def name_in_notes(self) -> str | None:
        """How the store is called in users' notes; None while it has no name."""
        return None if self.is_new else self.name[:NOTE_NAME_LENGTH]

    @property
    def names_in_notes(self) -> frozenset[str]:
        """How it is and was called there: it gets another name when it is rebased."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'former_names'").fetchone()
        former = frozenset(row[0].split()) if row else frozenset()
        return former | ({self.name_in_notes} if self.name_in_notes else frozenset())

    @property
    def names_to_take_out(self) -> frozenset[str]:
        """Whose lines a release takes out of notes: this store's, and those it was rebuilt from."""
        return self.names_in_notes | self._rebuilt_names

    def rebuilt_from(self, names: Collection[str]) -> None:
        """Note of which stores' lines this one's accounts are made."""
        if known := sorted(self._rebuilt_names | set(names)):
            statement = "INSERT OR REPLACE INTO meta (key, value) VALUES ('rebuilt_names', ?)"
            with self._transaction():
                self._db.execute(statement, (" ".join(known),))

    @property
    def _rebuilt_names(self) -> frozenset[str]:
        row = self._db.execute("SELECT value FROM meta WHERE key = 'rebuilt_names'").fetchone()
        return frozenset(row[0].split()) if row else frozenset()

    @property
    def copied_at(self) -> str | None:
        """When this store was copied by `backup`, if it is a copy."""
        row = self._db.execute("SELECT value FROM meta WHERE key = 'copied_at'").fetchone()
        return None if row is None else str(row[0])

    def begin_anew(self) -> str:
        """Be no copy, and take a name under which nothing is known of this store yet."""
        name, known = secrets.token_hex(16), sorted(self.names_in_notes)
        with self._transaction():
            if known:
                statement = "INSERT OR REPLACE INTO meta (key, value) VALUES ('former_names', ?)"
                self._db.execute(statement, (" ".join(known),))
            self._db.execute("DELETE FROM meta WHERE key = 'copied_at'")
            statement = "INSERT OR REPLACE INTO meta (key, value) VALUES ('store_id', ?)"
            self._db.execute(statement, (name,))
        return name

    def newest(self) -> tuple[int, str]:
        """Return the number of the newest entry and its mark; 0 when there is none."""
        position = int(self._trail.execute("SELECT max(seq) FROM event").fetchone()[0] or 0)
        return position, self.mark_at(position) or ""

    def mark_at(self, position: int) -> str | None:
        """Return an entry's mark, None when there is no such entry."""
        if position == 0:
            return ""
        query = "SELECT at, username, kind, text FROM event WHERE seq = ?"
        row = self._trail.execute(query, (position,)).fetchone()
        return None if row is None else hashlib.sha256(repr(row).encode()).hexdigest()[:32]
