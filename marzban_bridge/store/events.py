"""Events: the store's audit trail, with time, user, actor, and values before and after."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from marzban_bridge.event import Event
from marzban_bridge.panels.names import FIRST_PANEL
from marzban_bridge.store.handle import StoreHandle, from_millis, to_millis
from marzban_bridge.store.metas import EVENTS_PURGED

PURGE_PAGE = 500
"""Events that are deleted at a time; deleting more would block the event loop."""
SEARCHED_EVENTS = 5_000
"""The number of newest events of a user that are searched: over three days at one per minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEvent:
    """An event with its number in the audit trail."""

    seq: int
    at: datetime
    username: str
    """The user's name in its panel's spelling; empty for an event without a user."""
    event: Event
    panel: str = FIRST_PANEL


class Events:
    """The events of one panel, in a table that all panels share."""

    def __init__(self, handle: StoreHandle, panel: str) -> None:
        self._handle = handle
        self._db = handle.db
        self._panel = panel

    def record(self, username: str, event: Event, *, at: datetime) -> None:
        """Add an event, in a transaction of its own."""
        with self._handle.transaction():
            self.insert(username, [event], at)
        self._handle.on_change(self._panel, ())

    def insert(
        self, username: str, events: Iterable[Event], at: datetime, *, panel: str | None = None
    ) -> None:
        """Add an event within a transaction, which itself reports its commit (`on_change`)."""
        panel = panel or self._panel
        self._db.executemany(
            "INSERT INTO event (at, panel, username, kind, actor, text, value_before, value_after) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (to_millis(at), panel, username, e.kind, e.actor, e.text, e.before, e.after)
                for e in events
            ],
        )

    def newest(self, *, username: str | None = None, limit: int = 100) -> list[RecordedEvent]:
        """Return the newest events of the panel, newest first, of one user or of all."""
        of_user = "" if username is None else " AND username = ?"
        query = f"{_SELECT_EVENT} WHERE panel = ?{of_user} ORDER BY seq DESC LIMIT ?"
        name = () if username is None else (username,)
        rows = self._handle.trail.execute(query, (self._panel, *name, limit))
        return [_event(row) for row in rows]

    def after(self, seq: int, *, limit: int) -> list[RecordedEvent]:
        """Return a page of all panels' events after a number, oldest first."""
        query = f"{_SELECT_EVENT} WHERE seq > ? ORDER BY seq LIMIT ?"
        return [_event(row) for row in self._handle.trail.execute(query, (seq, limit))]

    def has_published(self, username: str, limit_bytes: int, *, shown: str) -> bool:
        """Tell whether the bridge once published this limit for a user who never had it as quota.

        `shown`: the end of the text of an event with that limit.
        """
        values = (self._panel, username, SEARCHED_EVENTS, f"%, {shown}")
        quota = str(limit_bytes)
        as_limit, as_quota = self._handle.trail.execute(
            _SELECT_PUBLISHED, (*values, quota, quota)
        ).fetchone()
        return bool(as_limit and not as_quota)

    def purge(self, *, after: int, through: int, before: datetime) -> int:
        """Delete the next page of all panels' events that happened before a time.

        Only numbers above `after`, up to `through`, and no change of a quota: `has_published` needs
        them all. Returns the number up to which it is done; `after` where none is that old.
        """
        query = "SELECT seq, at FROM event WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        rows = self._handle.trail.execute(query, (after, through, PURGE_PAGE)).fetchall()
        before_millis = to_millis(before)
        if not any(at < before_millis for _, at in rows):
            return after
        last = int(rows[-1][0])
        # First: an event that is missing counts as purged only up to this number.
        self._handle.set_meta(EVENTS_PURGED, str(last))
        self._handle.delete_events(after=after, through=last, before_millis=before_millis)
        return last

    def last_before(self, at: datetime) -> int:
        """Return the number of the newest event before `at`; 0 if there is none."""
        query = "SELECT seq FROM event WHERE at < ? ORDER BY seq DESC LIMIT 1"
        row = self._handle.trail.execute(query, (to_millis(at),)).fetchone()
        return 0 if row is None else int(row[0])


_SELECT_EVENT = (
    "SELECT seq, at, username, kind, actor, text, value_before, value_after, panel FROM event"
)
_SELECT_PUBLISHED = (
    "WITH newest AS (SELECT kind, value_before, value_after FROM event "
    "WHERE panel = ? AND username = ? ORDER BY seq DESC LIMIT ?) SELECT "
    "(SELECT count(*) FROM newest WHERE value_after LIKE ? "
    "AND kind IN ('published', 'limited', 'released', 'restored')), "
    "(SELECT count(*) FROM newest WHERE kind = 'quota_changed' "
    "AND (value_before = ? OR value_after = ?))"
)


def _event(row: tuple[Any, ...]) -> RecordedEvent:
    return RecordedEvent(
        seq=row[0],
        at=from_millis(row[1]),
        username=row[2],
        event=Event(kind=row[3], actor=row[4], text=row[5], before=row[6], after=row[7]),
        panel=row[8],
    )
