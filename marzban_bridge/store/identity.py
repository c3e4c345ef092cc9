"""A store's identity: its name, and the digest of its newest event, which tell older copies."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
from collections.abc import Collection
from datetime import datetime
from urllib.parse import urlsplit

from marzban_bridge.store.handle import StoreHandle
from marzban_bridge.store.metas import EVENTS_PURGED

NOTE_NAME_LENGTH = 8


def mark_as_copy(db: sqlite3.Connection, *, at: datetime) -> None:
    """Mark a file as a copy; a bridge started on it suspends the store."""
    statement = "INSERT OR REPLACE INTO meta (key, value) VALUES ('copied_at', ?)"
    db.execute(statement, (f"{at:%Y-%m-%d %H:%M} UTC",))


def panel_mark(url: str) -> str:
    """Return how the collector identifies a panel: by its host, without port and scheme."""
    host = urlsplit(url).hostname or ""
    return hashlib.sha256(host.lower().encode()).hexdigest()[:32]


class StoreIdentity:
    """A store's name and its position.

    Every reset, quota change and published limit adds an event, so the number of the newest event
    is the store's position. Its digest tells it from the event of the same number in a restored
    copy that diverged.
    """

    def __init__(self, handle: StoreHandle) -> None:
        self._handle = handle

    @property
    def is_new(self) -> bool:
        """Whether the store has no name yet; its position was never reported."""
        return self._handle.meta("store_id") is None

    @property
    def name(self) -> str:
        """The name under which the position is reported; generated at the first use."""
        return self._handle.meta("store_id") or self.renew()

    @property
    def name_in_notes(self) -> str | None:
        """The store's name in note lines; None while it has no name."""
        return None if self.is_new else self.name[:NOTE_NAME_LENGTH]

    @property
    def names_in_notes(self) -> frozenset[str]:
        """The current and former names in note lines; a rebase changes the name."""
        if self._handle.note_names is None:
            former = frozenset((self._handle.meta("former_names") or "").split())
            own = frozenset({self.name_in_notes} if self.name_in_notes else ())
            self._handle.note_names = former | own
        return self._handle.note_names

    @property
    def names_to_take_out(self) -> frozenset[str]:
        """Stores whose lines a release removes: this one, and those it was rebuilt from."""
        return self.names_in_notes | self._rebuilt_names

    def rebuilt_from(self, names: Collection[str]) -> None:
        """Record the stores from whose lines accounts were rebuilt."""
        if known := sorted(self._rebuilt_names | set(names)):
            self._handle.set_meta("rebuilt_names", " ".join(known))

    @property
    def _rebuilt_names(self) -> frozenset[str]:
        return frozenset((self._handle.meta("rebuilt_names") or "").split())

    @property
    def copied_at(self) -> str | None:
        """When this store was copied by `backup`, if it is a copy."""
        return self._handle.meta("copied_at")

    def renew(self) -> str:
        """Remove the mark of a copy, and generate a new name, without a reported position."""
        name, known = secrets.token_hex(16), sorted(self.names_in_notes)
        with self._handle.transaction():
            if known:
                self._handle.set_meta("former_names", " ".join(known))
            self._handle.delete_meta("copied_at")
            self._handle.set_meta("store_id", name)
        self._handle.note_names = None
        return name

    def newest(self) -> tuple[int, str]:
        """Return the number of the newest event and its digest; 0 when there is none."""
        position = int(self._handle.trail.execute("SELECT max(seq) FROM event").fetchone()[0] or 0)
        return position, self.entry_digest(position) or ""

    def has_had(self, position: int, digest: str) -> bool:
        """Tell whether the store had an event of that number and digest.

        The digest of a purged event is not known: a store that purged it was beyond it.
        """
        found = self.entry_digest(position)
        if found is None:
            return position <= int(self._handle.meta(EVENTS_PURGED) or 0)
        return found == digest

    def entry_digest(self, position: int) -> str | None:
        """Return an event's digest, or None when there is no event of that number."""
        if position == 0:
            return ""
        query = "SELECT at, username, kind, text FROM event WHERE seq = ?"
        row = self._handle.trail.execute(query, (position,)).fetchone()
        return None if row is None else hashlib.sha256(repr(row).encode()).hexdigest()[:32]
