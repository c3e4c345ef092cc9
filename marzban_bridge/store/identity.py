"""What tells a store from an older copy of itself: its name, and digests of its audit trail."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Collection
from datetime import datetime
from urllib.parse import urlsplit

from marzban_bridge.store.handle import StoreHandle

NOTE_NAME_LENGTH = 8


def mark_as_copy(db: sqlite3.Connection, *, at: datetime) -> None:
    """Have a bridge that is started on this copy know that it is one."""
    statement = "INSERT OR REPLACE INTO meta (key, value) VALUES ('copied_at', ?)"
    db.execute(statement, (f"{at:%Y-%m-%d %H:%M} UTC",))


def panel_mark(url: str) -> str:
    """Return by what the collector knows a panel: its host, whatever the port and scheme."""
    host = urlsplit(url).hostname or ""
    return hashlib.sha256(host.lower().encode()).hexdigest()[:32]


class StoreIdentity:
    """One store's place in its own history.

    The audit trail grows with every reset, quota change and published limit, so its newest entry
    says how far the store is; the entry's digest tells it from one of that number in a store that
    was restored and went another way.
    """

    def __init__(self, handle: StoreHandle) -> None:
        self._handle = handle

    @property
    def is_new(self) -> bool:
        """Whether the store has no name yet: the collector was never asked about it."""
        return self._handle.meta("store_id") is None

    @property
    def name(self) -> str:
        """What the collector knows this store by; made at the first use."""
        return self._handle.meta("store_id") or self.begin_anew()

    @property
    def name_in_notes(self) -> str | None:
        """How the store is called in users' notes; None while it has no name."""
        return None if self.is_new else self.name[:NOTE_NAME_LENGTH]

    @property
    def names_in_notes(self) -> frozenset[str]:
        """How it is and was called there: it gets another name when it is rebased."""
        former = frozenset((self._handle.meta("former_names") or "").split())
        return former | ({self.name_in_notes} if self.name_in_notes else frozenset())

    @property
    def names_to_take_out(self) -> frozenset[str]:
        """Whose lines a release takes out of notes: this store's, and those it was rebuilt from."""
        return self.names_in_notes | self._rebuilt_names

    def rebuilt_from(self, names: Collection[str]) -> None:
        """Note of which stores' lines this one's accounts are made."""
        if known := sorted(self._rebuilt_names | set(names)):
            self._handle.set_meta("rebuilt_names", " ".join(known))

    @property
    def _rebuilt_names(self) -> frozenset[str]:
        return frozenset((self._handle.meta("rebuilt_names") or "").split())

    @property
    def copied_at(self) -> str | None:
        """When this store was copied by `backup`, if it is a copy."""
        return self._handle.meta("copied_at")

    def begin_anew(self) -> str:
        """Be no copy, and take a name under which nothing is known of this store yet."""
        name, known = secrets.token_hex(16), sorted(self.names_in_notes)
        with self._handle.transaction():
            if known:
                self._handle.set_meta("former_names", " ".join(known))
            self._handle.delete_meta("copied_at")
            self._handle.set_meta("store_id", name)
        return name

    def newest(self) -> tuple[int, str]:
        """Return the number of the newest entry and its digest; 0 when there is none."""
        position = int(self._handle.trail.execute("SELECT max(seq) FROM event").fetchone()[0] or 0)
        return position, self.entry_digest(position) or ""

    def entry_digest(self, position: int) -> str | None:
        """Return an entry's digest, None when there is no such entry."""
        if position == 0:
            return ""
        query = "SELECT at, username, kind, text FROM event WHERE seq = ?"
        row = self._handle.trail.execute(query, (position,)).fetchone()
        return None if row is None else hashlib.sha256(repr(row).encode()).hexdigest()[:32]
