"""The agent's state, in tables of the spool's file, so that it commits together with reports."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from collector.agent.state.counters import Collections, Life, PollTime
from collector.agent.state.deltas import Baseline, Known
from collector.agent.state.relay_posts import SCHEMA as ROUTES_SCHEMA
from collector.agent.stream.messages import SCHEMA as MESSAGES_SCHEMA
from collector.client.spool.spool import Spool
from collector.runtime.wall_clock import wall_clock_millis

MOST_NAMES = 20
_SCHEMA = """
CREATE TABLE IF NOT EXISTS source (
    name TEXT PRIMARY KEY,
    fingerprint TEXT NOT NULL DEFAULT '',
    started TEXT,
    ticks INTEGER,
    position TEXT,
    read_at INTEGER,
    counters INTEGER NOT NULL DEFAULT 0,
    skipped INTEGER NOT NULL DEFAULT 0,
    restarts INTEGER NOT NULL DEFAULT 0,
    reports INTEGER NOT NULL DEFAULT 0,
    unmapped INTEGER NOT NULL DEFAULT 0,
    unmapped_names TEXT NOT NULL DEFAULT '[]',
    problem TEXT
);
CREATE TABLE IF NOT EXISTS baseline (
    source TEXT NOT NULL,
    counter TEXT NOT NULL,
    upload_bytes INTEGER NOT NULL,
    download_bytes INTEGER NOT NULL,
    PRIMARY KEY (source, counter)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS delivery (lane TEXT PRIMARY KEY, problem TEXT) WITHOUT ROWID;
"""
_ADDED_COLUMNS = {
    "former_starts": "TEXT NOT NULL DEFAULT '[]'",
    "fallen": "INTEGER NOT NULL DEFAULT 0",
    "fallen_names": "TEXT NOT NULL DEFAULT '[]'",
    "set_aside": "INTEGER NOT NULL DEFAULT 0",
    "set_aside_last": "TEXT",
    "note": "TEXT",
    "noted_at": "INTEGER",
    "gc_count": "INTEGER",
    "gc_last_nanos": "INTEGER",
    "boot": "TEXT",
    "poll_began_seconds": "REAL",
    "poll_ended_seconds": "REAL",
    "sums": "TEXT NOT NULL DEFAULT '[]'",
}
"""Columns of the table `source` that older versions lack; they are added."""


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """The status of a source: its last sample, and its present problem."""

    name: str
    read_at: datetime | None
    counters: int
    skipped: int
    restarts_total: int
    reports_total: int
    unmapped: int
    """Names, in the last sample, that match no user."""
    unmapped_names: tuple[str, ...]
    problem: str | None
    fallen: int = 0
    """Counters, in the last sample, that were lower than before without a restart."""
    fallen_names: tuple[str, ...] = ()
    set_aside_total: int = 0
    """Messages of a stream that were skipped since they could not be decoded."""
    set_aside_last: str | None = None
    note: str | None = None
    """The last event of a stream (a gap, a replacement) that the operator should know."""
    noted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What is stored of a sample."""

    known: Known
    counters: int
    skipped: int
    restarts: int
    reports: int
    unmapped_names: Sequence[str]
    fallen_names: Sequence[str] = ()
    set_aside: Sequence[str] = ()
    note: str | None = None


class State:
    """Baselines and statuses of sources."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        with spool.transaction() as db:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                db.execute(statement)
            db.execute(MESSAGES_SCHEMA)
            db.execute(ROUTES_SCHEMA)
            there = {row[1] for row in db.execute("PRAGMA table_info(source)")}
            for name, kind in _ADDED_COLUMNS.items():
                if name not in there:
                    db.execute(f"ALTER TABLE source ADD COLUMN {name} {kind}")

    def known(self, db: sqlite3.Connection, name: str, fingerprint: str) -> Known | None:
        """Return a source's previous sample; None if there is none with this fingerprint."""
        row = db.execute(
            "SELECT started, ticks, former_starts, gc_count, gc_last_nanos, boot, "
            "poll_began_seconds, poll_ended_seconds, sums FROM source "
            "WHERE name = ? AND fingerprint = ?",
            (name, fingerprint),
        ).fetchone()
        if row is None:
            return None
        baselines = db.execute(
            "SELECT counter, upload_bytes, download_bytes FROM baseline WHERE source = ?", (name,)
        )
        return Known(
            {each[0]: Baseline(each[1], each[2]) for each in baselines},
            Life(
                started=row[0],
                ticks=row[1],
                collections=None if row[3] is None else Collections(row[3], row[4]),
                sums=tuple(json.loads(row[8])),
            ),
            tuple(json.loads(row[2])),
            None if row[5] is None else PollTime(*row[5:8]),
        )

    def keep(
        self, db: sqlite3.Connection, name: str, fingerprint: str, before: Known | None, seen: Seen
    ) -> None:
        """Store a sample, within the transaction that queues its traffic."""
        old = {} if before is None else before.baselines
        new = seen.known.baselines
        if before is None:
            db.execute("DELETE FROM baseline WHERE source = ?", (name,))
        db.executemany(
            "DELETE FROM baseline WHERE source = ? AND counter = ?",
            [(name, counter) for counter in old if counter not in new],
        )
        db.executemany(
            "INSERT OR REPLACE INTO baseline VALUES (?, ?, ?, ?)",
            [
                (name, counter, each.upload_bytes, each.download_bytes)
                for counter, each in new.items()
                if old.get(counter) != each
            ],
        )
        self._keep_status(db, name, fingerprint, seen)

    def position(self, db: sqlite3.Connection, name: str, fingerprint: str) -> str | None:
        """Return the position of a stream; None if there is none with this fingerprint."""
        row = db.execute(
            "SELECT position FROM source WHERE name = ? AND fingerprint = ?", (name, fingerprint)
        ).fetchone()
        return None if row is None else row[0]

    def keep_position(
        self, db: sqlite3.Connection, name: str, fingerprint: str, position: str, seen: Seen
    ) -> None:
        """Store a stream's position, within the transaction that queues its traffic."""
        self._keep_status(db, name, fingerprint, seen)
        db.execute("UPDATE source SET position = ? WHERE name = ?", (position, name))

    def _keep_status(self, db: sqlite3.Connection, name: str, fingerprint: str, seen: Seen) -> None:
        db.execute("INSERT OR IGNORE INTO source (name) VALUES (?)", (name,))
        life, polled = seen.known.life, seen.known.polled
        collections = life.collections
        db.execute(
            "UPDATE source SET fingerprint = ?, started = ?, ticks = ?, position = NULL, "
            "read_at = ?, counters = ?, skipped = ?, restarts = restarts + ?, "
            "reports = reports + ?, unmapped = ?, unmapped_names = ?, former_starts = ?, "
            "fallen = ?, fallen_names = ?, set_aside = set_aside + ?, "
            "set_aside_last = coalesce(?, set_aside_last), note = coalesce(?, note), "
            "noted_at = CASE WHEN ? IS NULL THEN noted_at ELSE ? END, gc_count = ?, "
            "gc_last_nanos = ?, boot = ?, poll_began_seconds = ?, poll_ended_seconds = ?, "
            "sums = ?, problem = NULL "
            "WHERE name = ?",
            (
                fingerprint,
                life.started,
                life.ticks,
                wall_clock_millis(),
                seen.counters,
                seen.skipped,
                seen.restarts,
                seen.reports,
                len(seen.unmapped_names),
                json.dumps(seen.unmapped_names[:MOST_NAMES]),
                json.dumps(seen.known.former_starts),
                len(seen.fallen_names),
                json.dumps(seen.fallen_names[:MOST_NAMES]),
                len(seen.set_aside),
                seen.set_aside[-1] if seen.set_aside else None,
                *(seen.note, seen.note, wall_clock_millis()),
                *((collections.count, collections.last_nanos) if collections else (None, None)),
                *(
                    (polled.boot, polled.began_seconds, polled.ended_seconds)
                    if polled
                    else [None] * 3
                ),
                json.dumps(life.sums),
                name,
            ),
        )

    def note_problem(self, name: str, problem: str) -> None:
        """Store why a source could not be polled."""
        with self.spool.transaction() as db:
            db.execute("INSERT OR IGNORE INTO source (name) VALUES (?)", (name,))
            db.execute("UPDATE source SET problem = ? WHERE name = ?", (problem, name))

    def note_delivery(self, lane: str, problem: str | None) -> None:
        """Store why a lane of the spool is not delivered; None if it is."""
        with self.spool.transaction() as db:
            db.execute("INSERT OR REPLACE INTO delivery VALUES (?, ?)", (lane, problem))

    def delivery_problems(self) -> dict[str, str]:
        """Return the lanes that are not delivered, with the reason."""
        with self.spool.reading() as db:
            return dict(db.execute("SELECT lane, problem FROM delivery WHERE problem NOT NULL"))

    def statuses(self) -> list[SourceStatus]:
        """Return the status of each source that was ever polled."""
        with self.spool.reading() as db:
            rows = db.execute(
                "SELECT name, read_at, counters, skipped, restarts, reports, unmapped, "
                "unmapped_names, problem, fallen, fallen_names, set_aside, set_aside_last, note, "
                "noted_at FROM source ORDER BY name"
            ).fetchall()
        return [_status(row) for row in rows]


def _status(row: Sequence[object]) -> SourceStatus:
    name, read_at, counters, skipped, restarts, reports, unmapped, names, problem, *told = row
    fallen, fallen_names, set_aside, set_aside_last, note, noted_at = told
    return SourceStatus(
        name=str(name),
        read_at=_moment(read_at),
        counters=int(str(counters)),
        skipped=int(str(skipped)),
        restarts_total=int(str(restarts)),
        reports_total=int(str(reports)),
        unmapped=int(str(unmapped)),
        unmapped_names=tuple(json.loads(str(names))),
        problem=None if problem is None else str(problem),
        fallen=int(str(fallen)),
        fallen_names=tuple(json.loads(str(fallen_names))),
        set_aside_total=int(str(set_aside)),
        set_aside_last=None if set_aside_last is None else str(set_aside_last),
        note=None if note is None else str(note),
        noted_at=_moment(noted_at),
    )


def _moment(millis: object) -> datetime | None:
    return datetime.fromtimestamp(millis / 1000, UTC) if isinstance(millis, int) else None
