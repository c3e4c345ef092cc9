"""Counts posts: those that each route of the relay stored, in the spool's file, and refused ones.

Refused posts are counted in memory only.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from collector.client.spool.spool import Spool

SCHEMA = """
CREATE TABLE IF NOT EXISTS relay_route (
    route TEXT PRIMARY KEY, last_post_at INTEGER NOT NULL,
    posts INTEGER NOT NULL, repeated INTEGER NOT NULL
) WITHOUT ROWID
"""
MOST_ADDRESSES = 20
SHOWN_FOR = timedelta(hours=1)
_NOTE = """
    INSERT INTO relay_route VALUES (:route, :at, 1, :repeated)
    ON CONFLICT (route) DO UPDATE SET last_post_at = excluded.last_post_at,
        posts = relay_route.posts + 1, repeated = relay_route.repeated + excluded.repeated
"""


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """A route of the relay, and the posts it has accepted since the state file was created."""

    name: str
    last_post_at: datetime | None
    """None if there never was one."""
    posts: int = 0
    repeated: int = 0
    """Posts that were retries of an earlier one: stored once."""


def note_post(db: sqlite3.Connection, route: str, *, is_new: bool, at_millis: int) -> None:
    """Count a post that a route accepted, within the transaction that stores it."""
    db.execute(_NOTE, {"route": route, "at": at_millis, "repeated": int(not is_new)})


def route_statuses(spool: Spool, names: list[str]) -> list[RouteStatus]:
    """Return the status of each of the routes, in the order of the names."""
    with spool.reading() as db:
        rows = db.execute("SELECT route, last_post_at, posts, repeated FROM relay_route").fetchall()
    known = {row[0]: row for row in rows}
    return [_status(known[name]) if name in known else RouteStatus(name, None) for name in names]


def _status(row: tuple[str, int, int, int]) -> RouteStatus:
    return RouteStatus(row[0], datetime.fromtimestamp(row[1] / 1000, UTC), row[2], row[3])


class RefusedPosts:
    """Counts posts whose secret no route has, by address: the latest MOST_ADDRESSES of them.

    The secret is not stored.
    """

    def __init__(self) -> None:
        self._by_address: OrderedDict[str, int] = OrderedDict()
        self._last_at: datetime | None = None
        self.total = 0

    def note(self, address: str, *, at: datetime) -> bool:
        """Count a post; return whether it is the first of its address, to be logged."""
        self.total += 1
        self._last_at = at
        requests = self._by_address.pop(address, 0)
        self._by_address[address] = requests + 1
        if len(self._by_address) > MOST_ADDRESSES:
            self._by_address.popitem(last=False)
        return not requests

    def problem(self, now: datetime) -> str | None:
        """Return a sentence on the refused posts; None if the last one is over an hour ago."""
        if self._last_at is None or now - self._last_at > SHOWN_FOR:
            return None
        shown = ", ".join(f"{each} ({n})" for each, n in list(self._by_address.items())[-3:])
        return (
            f"{self.total} posts with a secret that no route has were refused, the last at "
            f"{self._last_at:%H:%M:%S} UTC; the latest addresses: {shown}. Compare the secret in "
            "the sender's URI with that of its route"
        )
