"""What an SQLite ledger remembers of its export: how far it is, and what was refused for good."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from collector.ledger import Backlog, DeadLetter, ExportState, Progress
from collector.ledger.sqlite.file import connect
from collector.schema import Policy

MAX_DEAD_LETTERS = 10_000
"""The newest are kept to be looked at; the reports themselves are counted all the same."""


def state_of(db: sqlite3.Connection, stream: str) -> ExportState:
    """Return how far an export is; one that never ran is at the beginning."""
    row = db.execute(
        "SELECT stream, seq, points, advanced_at, problem FROM export WHERE stream = ?", (stream,)
    ).fetchone()
    return ExportState(stream) if row is None else ExportState(*row)


def advance(db: sqlite3.Connection, progress: Progress, *, at_millis: int) -> bool:
    """Move an export's cursor, unless it is no longer where the step began; return whether."""
    db.execute("INSERT OR IGNORE INTO export (stream) VALUES (?)", (progress.stream,))
    is_moved = (
        db.execute(
            "UPDATE export SET seq = ?, points = points + ?, advanced_at = ?, problem = NULL "
            "WHERE stream = ? AND seq = ?",
            (progress.to_seq, progress.points, at_millis, progress.stream, progress.from_seq),
        ).rowcount
        > 0
    )
    if is_moved and progress.dead_letters:
        db.executemany(
            "INSERT INTO dead_letter (stream, line, reason, at) VALUES (?, ?, ?, ?)",
            [(each.stream, each.line, each.reason, at_millis) for each in progress.dead_letters],
        )
        db.execute(
            "DELETE FROM dead_letter WHERE id <= (SELECT max(id) FROM dead_letter) - ?",
            (MAX_DEAD_LETTERS,),
        )
    return is_moved


def note_problem(db: sqlite3.Connection, stream: str, problem: str | None) -> None:
    """Store why an export does not go on, None when it does."""
    db.execute("INSERT OR IGNORE INTO export (stream) VALUES (?)", (stream,))
    db.execute("UPDATE export SET problem = ? WHERE stream = ?", (problem, stream))


def backlog_of(db: sqlite3.Connection, stream: str) -> Backlog:
    """Return what an export has still before it; reports are numbered without gaps."""
    seq = state_of(db, stream).seq
    first = db.execute(
        "SELECT seq, received_at FROM report WHERE seq > ? ORDER BY seq LIMIT 1", (seq,)
    ).fetchone()
    if first is None:
        return Backlog(reports=0, oldest_received_at_millis=None)
    last_seq = db.execute("SELECT max(seq) FROM report").fetchone()[0]
    return Backlog(reports=last_seq - first[0] + 1, oldest_received_at_millis=first[1])


def dead_letters(db: sqlite3.Connection, *, limit: int) -> list[DeadLetter]:
    """Return the newest dead letters first."""
    rows = db.execute(
        "SELECT stream, line, reason, at FROM dead_letter ORDER BY id DESC LIMIT ?", (limit,)
    )
    return [DeadLetter(*row) for row in rows]


def rewind(path: Path) -> None:
    """Begin all exports anew, beside a running collector or without one."""
    with contextlib.closing(connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        for policy in Policy:
            note_problem(db, policy, None)
        db.execute("UPDATE export SET seq = 0, points = 0")
        db.execute("DELETE FROM dead_letter")
        db.execute("COMMIT")
