"""A durable, bounded outbox in one SQLite file: what it took survives a crash of any kind.

Items wait in lanes, each in its own order; the bound is on all lanes together. A full spool
refuses, it never drops. The file may be shared by processes: ids keep what they send apart. Other
tables may live in it and change in the same transaction (`transaction`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from collector.client.errors import SpoolError, SpoolFullError
from collector.client.outbox import Backlog, DeadLetter, Item, SetAside, Settlement, within
from collector.client.report import without_moment

APPLICATION_ID = 0x54524650
DEFAULT_MAX_BYTES = 256 * 2**20
MAX_DEAD_LETTERS = 10_000
"""Older ones are forgotten, and stay counted."""
ITEM_OVERHEAD_BYTES = 96
"""About what a row costs beside its body."""
BUSY_SECONDS = 10
MAX_JOURNAL_BYTES = 16 * 2**20
REPORTS = "reports"
"""The lane of reports; the others hold foreign payloads."""
SCHEMA = """
CREATE TABLE item (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    lane TEXT NOT NULL,
    item_id TEXT NOT NULL,
    body BLOB NOT NULL,
    queued_at INTEGER NOT NULL,
    is_undated INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX item_lane ON item (lane, seq);
CREATE TABLE backlog (
    lane TEXT PRIMARY KEY,
    items INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL DEFAULT 0,
    set_aside INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE dead_letter (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lane TEXT NOT NULL,
    item_id TEXT NOT NULL,
    body BLOB NOT NULL,
    reason TEXT NOT NULL,
    set_aside_at INTEGER NOT NULL
);
"""
VERSION = 1
_BACKLOG = """
SELECT coalesce(sum(items), 0), coalesce(sum(size_bytes), 0), coalesce(sum(set_aside), 0),
    min((SELECT queued_at FROM item WHERE item.lane = backlog.lane ORDER BY seq LIMIT 1))
FROM backlog WHERE ? IS NULL OR lane = ?
"""


def wall_clock_millis() -> int:
    """Return the time in milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


class Spool:
    """Reports, and foreign payloads, that wait until a collector has taken them.

    Raises SpoolError when the file cannot be used, SpoolFullError when it holds all it may. May be
    used by several threads.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = DEFAULT_MAX_BYTES,
        now_millis: Callable[[], int] = wall_clock_millis,
    ) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._now_millis = now_millis
        self._lock = threading.RLock()
        with _explained(path):
            _touch(path)
            self._db = sqlite3.connect(
                path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False
            )
        try:
            with _explained(path):
                self._prepare()
        except SpoolError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA journal_size_limit = {MAX_JOURNAL_BYTES}")
        with self.transaction():
            version = db.execute("PRAGMA user_version").fetchone()[0]
            is_new = not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if is_new:
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                for statement in filter(str.strip, SCHEMA.split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version = {VERSION}")
            elif db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
                raise SpoolError(f"{self.path} is an SQLite file, but not a spool")
            elif version > VERSION:
                raise SpoolError(f"the spool {self.path} was written by a newer version: upgrade")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give a connection whose changes are kept all together, on disk, or not at all."""
        with self._lock, _explained(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection to read by."""
        with self._lock, _explained(self.path):
            yield self._db

    def put(self, lane: str, items: Sequence[tuple[str, bytes]]) -> None:
        """Keep items, given as id and body: all of them, on disk, or none (SpoolFullError)."""
        with self.transaction() as db:
            self.put_within(db, lane, items)

    def put_within(
        self, db: sqlite3.Connection, lane: str, items: Sequence[tuple[str, bytes]]
    ) -> None:
        """Keep items as part of a transaction of the caller's."""
        if not items:
            return
        added_bytes = sum(_size(body) for _, body in items)
        held_bytes = db.execute("SELECT coalesce(sum(size_bytes), 0) FROM backlog").fetchone()[0]
        if held_bytes + added_bytes > self._max_bytes:
            raise SpoolFullError(
                f"the spool {self.path} is full: {held_bytes} of {self._max_bytes} bytes wait to "
                "be sent"
            )
        now_millis = self._now_millis()
        db.executemany(
            "INSERT INTO item (lane, item_id, body, queued_at) VALUES (?, ?, ?, ?)",
            [(lane, item_id, body, now_millis) for item_id, body in items],
        )
        _count(db, lane, items=len(items), size_bytes=added_bytes)

    def lane(self, name: str) -> Lane:
        """Return the outbox of one lane."""
        return Lane(self, name)

    def waiting_lanes(self) -> dict[str, int]:
        """Return which lanes have something in them, and how much."""
        with self.reading() as db:
            return dict(db.execute("SELECT lane, items FROM backlog WHERE items > 0"))

    def backlog(self, lane: str | None = None) -> Backlog:
        """Return how much waits, in one lane or in all."""
        with self.reading() as db:
            items, size_bytes, set_aside, oldest = db.execute(_BACKLOG, (lane, lane)).fetchone()
        return Backlog(items, size_bytes, None if oldest is None else _moment(oldest), set_aside)

    def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """Return what was set aside last, newest first."""
        with self.reading() as db:
            rows = db.execute(
                "SELECT lane, item_id, body, reason, set_aside_at FROM dead_letter "
                "ORDER BY id DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [
            DeadLetter(lane, item_id, body, reason, _moment(millis))
            for lane, item_id, body, reason, millis in rows
        ]

    def requeue_dead_letters(self) -> int:
        """Queue everything that was set aside once more, under its id; return how many.

        Reports lose their moment: it may be what they were refused for.
        """
        with self.transaction() as db:
            rows = db.execute("SELECT lane, item_id, body FROM dead_letter ORDER BY id").fetchall()
            for lane, item_id, body in rows:
                undated = without_moment(body) if lane == REPORTS else body
                self.put_within(db, lane, [(item_id, undated)])
            db.execute("UPDATE item SET is_undated = 1 WHERE item_id IN "
                       "(SELECT item_id FROM dead_letter)")  # fmt: skip
            db.execute("DELETE FROM dead_letter")
        return len(rows)

    def first(self, lane: str, *, most_items: int, most_bytes: int) -> list[Item]:
        """Return a lane's oldest items within the bounds, at least one if there is one."""
        with self.reading() as db:
            rows = db.execute(
                "SELECT seq, item_id, body, queued_at, is_undated FROM item WHERE lane = ? "
                "ORDER BY seq LIMIT ?",
                (lane, most_items),
            ).fetchall()
        items = [
            Item(seq, item_id, body, queued_at_millis, bool(is_undated))
            for seq, item_id, body, queued_at_millis, is_undated in rows
        ]
        return within(items, most_items=most_items, most_bytes=most_bytes)

    def settle(self, lane: str, settlement: Settlement) -> None:
        """Keep what an answer decided; what another process settled meanwhile stays settled."""
        with self.transaction() as db:
            removed = [each for each in settlement.done if _remove(db, each)]
            for each in settlement.set_aside:
                if _remove(db, each.item):
                    removed.append(each.item)
                    self._bury(db, lane, each)
            size_bytes = sum(_size(each.body) for each in removed)
            _count(db, lane, items=-len(removed), size_bytes=-size_bytes)
            db.executemany(
                "UPDATE item SET is_undated = 1 WHERE seq = ?",
                [(each.seq,) for each in settlement.undated],
            )

    def _bury(self, db: sqlite3.Connection, lane: str, letter: SetAside) -> None:
        db.execute(
            "INSERT INTO dead_letter (lane, item_id, body, reason, set_aside_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (lane, letter.item.item_id, letter.item.body, letter.reason, self._now_millis()),
        )
        db.execute(
            "DELETE FROM dead_letter WHERE id <= (SELECT max(id) FROM dead_letter) - ?",
            (MAX_DEAD_LETTERS,),
        )
        _count(db, lane, set_aside=1)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()


class Lane:
    """One lane of a spool, as an outbox."""

    def __init__(self, spool: Spool, name: str) -> None:
        self._spool = spool
        self.name = name

    def first(self, *, most_items: int, most_bytes: int) -> list[Item]:
        """Return the oldest items within the bounds, at least one if there is one."""
        return self._spool.first(self.name, most_items=most_items, most_bytes=most_bytes)

    def settle(self, settlement: Settlement) -> None:
        """Remove what is done or set aside, and remember what changes."""
        self._spool.settle(self.name, settlement)


def _remove(db: sqlite3.Connection, item: Item) -> bool:
    return db.execute("DELETE FROM item WHERE seq = ?", (item.seq,)).rowcount == 1


def _count(
    db: sqlite3.Connection, lane: str, *, items: int = 0, size_bytes: int = 0, set_aside: int = 0
) -> None:
    db.execute("INSERT OR IGNORE INTO backlog (lane) VALUES (?)", (lane,))
    db.execute(
        "UPDATE backlog SET items = items + ?, size_bytes = size_bytes + ?, "
        "set_aside = set_aside + ? WHERE lane = ?",
        (items, size_bytes, set_aside, lane),
    )


def _size(body: bytes) -> int:
    return len(body) + ITEM_OVERHEAD_BYTES


def _moment(millis: int) -> datetime:
    return datetime.fromtimestamp(millis / 1000, tz=UTC)


def _touch(path: Path) -> None:
    """Make the file before SQLite does, readable by its owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise SpoolFullError(f"the disk under the spool {path} is full") from error
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise SpoolError(
                f"the spool {path} is damaged ({error}): move it away to begin anew; what waited "
                "in it is lost"
            ) from error
        raise SpoolError(f"the spool {path} cannot be used: {error}") from error
    except OSError as error:
        raise SpoolError(f"cannot open the spool {path}: {error}") from error
