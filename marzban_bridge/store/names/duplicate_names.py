"""Duplicate names: users of several panels; an unscoped report is charged to only one of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from marzban_bridge.quota.account import Event
from marzban_bridge.store.events import Events
from marzban_bridge.store.handle import StoreHandle
from marzban_bridge.store.names.placement import Placement

_AMBIGUOUS = (
    "SELECT n.account_key, group_concat(DISTINCT n.panel) FROM namesake AS n "
    "JOIN external_usage AS u ON u.account_key = n.account_key AND instr(u.username, '/') = 0 "
    "GROUP BY n.account_key"
)


class DuplicateNames:
    """Users of one name on several panels, as found by the last scan."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self._placement = Placement(handle, panel)

    def record(self, found: Mapping[str, Collection[str]], *, is_all: bool) -> set[str]:
        """Store the panels of each duplicate name; return the names that are new.

        `is_all`: stored names that are not in `found` are deleted.
        """
        wanted = {(key, panel) for key, panels in found.items() for panel in panels}
        known = set(self._db.execute("SELECT account_key, panel FROM namesake").fetchall())
        gone = known - wanted if is_all else set()
        with self._handle.transaction():
            self._db.executemany(
                "INSERT INTO namesake (account_key, panel) VALUES (?, ?)", wanted - known
            )
            self._db.executemany("DELETE FROM namesake WHERE account_key = ? AND panel = ?", gone)
        return {key for key, _ in wanted - known}

    def count_ambiguous(self) -> int:
        """Return the number of duplicate names with unscoped reports."""
        return int(self._db.execute(f"SELECT count(*) FROM ({_AMBIGUOUS})").fetchone()[0])

    def tell_ambiguous(self, *, at: datetime) -> list[str]:
        """Record an event for each such name that has none yet; return the names."""
        rows = self._db.execute(f"{_AMBIGUOUS} HAVING NOT max(n.is_told)").fetchall()
        for key, panels in rows:
            owner = self._placement.panel_of(key)
            text = (
                f"there are users of this name on {panels.replace(',', ', ')}; reports without a "
                f"panel's name are charged to {owner}: report it as PANEL/{key}"
            )
            with self._handle.transaction():
                event = Event(kind="conflict", text=text)
                Events(self._handle, owner).insert(key, [event], at)
                self._db.execute("UPDATE namesake SET is_told = 1 WHERE account_key = ?", (key,))
            self._handle.on_change(owner, ())
        return [row[0] for row in rows]
