"""The spool: a durable, bounded outbox in one SQLite file.

Items are queued in lanes, each a FIFO. The bound covers all lanes and the dead letters. A full
spool refuses new items and never drops any; it can be emptied on a full disk (`reserve`). Processes
may share the file: an item that one of them is sending (`claims`) no other one sends. Other tables
may be in the same file and change in the same transaction (`transaction`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from collector.client.errors import SpoolError, SpoolFullError
from collector.client.outbox import Backlog, DeadLetter, Item, SetAside, Settlement
from collector.client.report import new_id, without_time
from collector.client.sending.process_identity import this_boot
from collector.client.spool import claims
from collector.client.spool.claims import Claimant
from collector.client.spool.clock import SpoolClock
from collector.client.spool.connection import SpoolConnection
from collector.client.spool.file import connect, explained, prepare
from collector.client.spool.reserve import Reserve
from collector.runtime import boot_clock
from collector.runtime.wall_clock import wall_clock_millis

DEFAULT_MAX_BYTES = 256 * 2**20
ITEM_OVERHEAD_BYTES = 96
"""Approximate bytes of a row in addition to its body."""
REPORTS = "reports"
"""The lane of reports; other lanes hold relayed payloads of other panels."""
_HELD = "SELECT coalesce(sum(size_bytes), 0), coalesce(sum(set_aside_bytes), 0) FROM backlog"
_BACKLOG = """
SELECT coalesce(sum(items), 0), coalesce(sum(size_bytes), 0), coalesce(sum(set_aside), 0),
    coalesce(sum(set_aside_bytes), 0)
FROM backlog WHERE ? IS NULL OR lane = ?
"""
_OLDEST = """
SELECT queued_at, boot, queued_boot_millis FROM item WHERE seq IN (
    SELECT (SELECT seq FROM item WHERE item.lane = backlog.lane ORDER BY seq LIMIT 1)
    FROM backlog WHERE ? IS NULL OR lane = ?
)
"""


class Spool:
    """Reports and relayed payloads, kept until a collector has accepted or refused them.

    Raises SpoolError when the file cannot be used, SpoolFullError when the bound is reached. For
    any number of threads.
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
        self._reserve = Reserve(path)
        self._connection = SpoolConnection(self._connect)
        self._claimants: list[tuple[int, str, Claimant]] = []
        with explained(path):
            self._connection.get()

    @property
    def _lock(self) -> threading.RLock:
        return self._connection.lock

    @property
    def _db(self) -> sqlite3.Connection:
        return self._connection.get()

    def _connect(self) -> sqlite3.Connection:
        with explained(self.path):
            db = connect(self.path)
        try:
            self._open(db)
        except SpoolError:
            db.close()
            raise
        return db

    def _open(self, db: sqlite3.Connection) -> None:
        """Prepare the file; on a full disk, release the reserve for its journal."""
        try:
            with explained(self.path):
                prepare(db, self.path)
        except SpoolError:
            if not self._reserve.give_back():
                raise
            with explained(self.path):
                prepare(db, self.path)
        self._reserve.take()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection within one transaction, which is on disk at the end."""
        with self._lock, explained(self.path):
            db = self._db
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield a connection for queries."""
        with self._lock, explained(self.path):
            yield self._db

    def put(self, lane: str, items: Sequence[tuple[str, bytes]]) -> None:
        """Append items (id and body) in one transaction; SpoolFullError if they do not fit."""
        with self.transaction() as db:
            self.put_within(db, lane, items)

    def put_within(
        self, db: sqlite3.Connection, lane: str, items: Sequence[tuple[str, bytes]]
    ) -> None:
        """Append items within the caller's transaction."""
        if not items:
            return
        if not self._reserve.take():
            raise SpoolFullError(f"the disk under the spool {self.path} is full")
        added_bytes = sum(_size(body) for _, body in items)
        waiting_bytes, aside_bytes = db.execute(_HELD).fetchone()
        if waiting_bytes + aside_bytes + added_bytes > self._max_bytes:
            aside = f", {aside_bytes} are dead letters" if aside_bytes else ""
            raise SpoolFullError(
                f"the spool {self.path} is full: of {self._max_bytes} bytes, {waiting_bytes} are "
                f"queued{aside}"
            )
        clock = self._clock()
        moment = (clock.wall_millis, clock.boot, clock.boot_millis)
        db.executemany(
            "INSERT INTO item (lane, item_id, body, queued_at, boot, queued_boot_millis) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [(lane, item_id, body, *moment) for item_id, body in items],
        )
        _count(db, lane, items=len(items), size_bytes=added_bytes)

    def lane(self, name: str, *, lease_seconds: float = claims.DEFAULT_LEASE_SECONDS) -> Lane:
        """Return the outbox of one lane, for one sender.

        Another sender may claim the items that this one claimed once they are given back, once this
        process has ended, or after `lease_seconds`.
        """
        claimant = Claimant(new_id(), lease_seconds)
        self._claimants.append((os.getpid(), name, claimant))
        return Lane(self, name, claimant)

    def _clock(self) -> SpoolClock:
        return SpoolClock(self._now_millis(), boot_clock.millis_now(), this_boot())

    def waiting_lanes(self) -> dict[str, int]:
        """Return the lanes that are not empty, with their number of items."""
        with self.reading() as db:
            return dict(db.execute("SELECT lane, items FROM backlog WHERE items > 0"))

    def backlog(self, lane: str | None = None) -> Backlog:
        """Return the backlog of one lane or of all."""
        with self.reading() as db:
            row = db.execute(_BACKLOG, (lane, lane)).fetchone()
            oldest = db.execute(_OLDEST, (lane, lane)).fetchall()
        items, size_bytes, set_aside, aside_bytes = row
        clock = self._clock()
        oldest_at = min((_moment(clock.corrected(*each)) for each in oldest), default=None)
        return Backlog(items, size_bytes, oldest_at, set_aside, aside_bytes)

    def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """Return the newest dead letters first."""
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
        """Queue all dead letters again, with the same ids; return how many.

        Reports lose their time, since it may be the reason why they were refused.
        """
        with self.transaction() as db:
            rows = db.execute("SELECT lane, item_id, body FROM dead_letter ORDER BY id").fetchall()
            db.execute("UPDATE backlog SET set_aside_bytes = 0")
            for lane, item_id, body in rows:
                undated = without_time(body) if lane == REPORTS else body
                self.put_within(db, lane, [(item_id, undated)])
            db.execute("UPDATE item SET is_undated = 1 WHERE item_id IN "
                       "(SELECT item_id FROM dead_letter)")  # fmt: skip
            db.execute("DELETE FROM dead_letter")
        return len(rows)

    def discard_dead_letters(self) -> int:
        """Delete all dead letters, which frees room; return how many."""
        with self.transaction() as db:
            db.execute("UPDATE backlog SET set_aside_bytes = 0")
            return db.execute("DELETE FROM dead_letter").rowcount

    def first(self, lane: str, *, most_items: int, most_bytes: int) -> list[Item]:
        """Return a lane's oldest items within the bounds, at least one if the lane is not empty."""
        with self.reading() as db:
            return claims.free_items(
                db,
                lane,
                None,
                most_items=most_items,
                most_bytes=most_bytes,
                clock=self._clock(),
            )

    def claim(
        self, lane: str, claimant: Claimant, *, most_items: int, most_bytes: int
    ) -> list[Item]:
        """Claim and return a lane's oldest items that no other sender has claimed."""

        def free(db: sqlite3.Connection, most_items: int) -> list[Item]:
            return claims.free_items(
                db,
                lane,
                claimant,
                most_items=most_items,
                most_bytes=most_bytes,
                clock=self._clock(),
            )

        with self._lock:
            with self.reading() as db:
                if not free(db, 1):  # a query does not wait for other writers
                    return []
            try:
                with self._unsynced(), self.transaction() as db:
                    claims.forget_ended(db, lane)
                    items = free(db, most_items)
                    return claims.claim(db, lane, claimant, items) if items else []
            except SpoolFullError:
                # On a full disk, send without a claim: ids deduplicate what two processes send.
                with self.reading() as db:
                    return free(db, most_items)

    def give_back(self, lane: str, claimant: Claimant, *, is_unsent: bool = False) -> None:
        """Release a claim without settling its items."""
        with self.reading() as db:
            if not claims.is_claiming(db, lane, claimant):
                return  # without waiting for other writers
        with (
            self._lock,
            contextlib.suppress(SpoolFullError),  # the claim then expires
            self._unsynced(),
            self.transaction() as db,
        ):
            claims.give_back(db, lane, claimant, is_unsent=is_unsent)

    @contextlib.contextmanager
    def _unsynced(self) -> Iterator[None]:
        """Commit without fsync: durable if a process crashes, but not after a loss of power.

        That is enough for claims: after a loss of power no claimant runs.
        """
        with self.reading() as db:
            db.execute("PRAGMA synchronous = NORMAL")
            try:
                yield
            finally:
                db.execute("PRAGMA synchronous = FULL")

    def settle(self, lane: str, settlement: Settlement, claimant: Claimant | None = None) -> None:
        """Apply a settlement and release the claim; items that are no longer there are skipped.

        Needs no space on the disk but the reserve.
        """
        with self._lock:  # so that no thread queues reports into the released reserve
            try:
                self._settle(lane, settlement, claimant)
            except SpoolError:
                if not self._reserve.give_back():
                    raise
                self._settle(lane, settlement, claimant)
            if not self._reserve.take():
                # A checkpoint empties the journal, so that the reserve can be taken again.
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                self._reserve.take()

    def _settle(self, lane: str, settlement: Settlement, claimant: Claimant | None) -> None:
        with self.transaction() as db:
            if claimant is not None:
                claims.give_back(db, lane, claimant)
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
        _count(db, lane, set_aside=1, set_aside_bytes=_size(letter.item.body))

    def close(self) -> None:
        """Release all claims and close the file."""
        for pid, lane, claimant in self._claimants:
            if pid == os.getpid():  # claims from before a fork are the parent's
                with contextlib.suppress(SpoolError):  # the claim then expires
                    self.give_back(lane, claimant)
        self._connection.close()


class Lane:
    """One lane of a spool, as the Outbox of one sender."""

    def __init__(self, spool: Spool, name: str, claimant: Claimant) -> None:
        self._spool = spool
        self._claimant = claimant
        self.name = name

    def first(self, *, most_items: int, most_bytes: int) -> list[Item]:
        """Claim and return the oldest items that no other sender has claimed, within the bounds.

        The claim lasts until they are settled or given back.
        """
        return self._spool.claim(
            self.name, self._claimant, most_items=most_items, most_bytes=most_bytes
        )

    def settle(self, settlement: Settlement) -> None:
        """Apply a settlement: remove items, store dead letters, update items."""
        self._spool.settle(self.name, settlement, self._claimant)

    def give_back(self, *, is_unsent: bool = False) -> None:
        """Release the items of `first`; `is_unsent`: no request left this machine."""
        self._spool.give_back(self.name, self._claimant, is_unsent=is_unsent)


def _remove(db: sqlite3.Connection, item: Item) -> bool:
    return db.execute("DELETE FROM item WHERE seq = ?", (item.seq,)).rowcount == 1


def _count(
    db: sqlite3.Connection,
    lane: str,
    *,
    items: int = 0,
    size_bytes: int = 0,
    set_aside: int = 0,
    set_aside_bytes: int = 0,
) -> None:
    db.execute("INSERT OR IGNORE INTO backlog (lane) VALUES (?)", (lane,))
    db.execute(
        "UPDATE backlog SET items = items + ?, size_bytes = size_bytes + ?, "
        "set_aside = set_aside + ?, set_aside_bytes = set_aside_bytes + ? WHERE lane = ?",
        (items, size_bytes, set_aside, set_aside_bytes, lane),
    )


def _size(body: bytes) -> int:
    return len(body) + ITEM_OVERHEAD_BYTES


def _moment(millis: int) -> datetime:
    return datetime.fromtimestamp(millis / 1000, tz=timezone.utc)
