"""What each route of the relay has taken, in a table of the spool's file; and posts it refused."""

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
    """A route of the relay, and what it has taken since the state was made."""

    name: str
    last_post_at: datetime | None
    """None if there never was one."""
    posts: int = 0
    repeated: int = 0
    """Posts that were taken for retries, and count once."""


def note_post(db: sqlite3.Connection, route: str, *, is_new: bool, at_millis: int) -> None:
    """Note a post that a route took, within the transaction that stores it."""
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
    """Posts whose secret no route has, by address, the latest; bounded, and never the secret."""

    def __init__(self) -> None:
        self._by_address: OrderedDict[str, int] = OrderedDict()
        self._last_at: datetime | None = None
        self.total = 0

    def note(self, address: str, *, at: datetime) -> bool:
        """Note a post; return whether its address is a new one: worth a line in the log."""
        self.total += 1
        self._last_at = at
        requests = self._by_address.pop(address, 0)
        self._by_address[address] = requests + 1
        if len(self._by_address) > MOST_ADDRESSES:
            self._by_address.popitem(last=False)
        return not requests

    def problem(self, now: datetime) -> str | None:
        """Return a sentence on the posts refused of late; None if the last one is long ago."""
        if self._last_at is None or now - self._last_at > SHOWN_FOR:
            return None
        shown = ", ".join(f"{each} ({n})" for each, n in list(self._by_address.items())[-3:])
        return (
            f"{self.total} posts with a secret that no route has were refused, the last at "
            f"{self._last_at:%H:%M:%S} UTC; the latest addresses: {shown}. Compare the secret in "
            "the sender's URI with that of its route"
        )
