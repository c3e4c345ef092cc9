"""The state of exports in a ledger: cursors and dead letters."""

from __future__ import annotations

from collector.ledger import Backlog, DeadLetter, ExportState, Progress
from collector.ledger.sql.database import Database, first_row, one_row
from collector.schema import Policy

MAX_DEAD_LETTERS = 10_000
"""How many of the newest dead letters are kept; their reports count nevertheless."""


def state_of(db: Database, stream: str) -> ExportState:
    """Return the position of an export; 0 if it never ran."""
    row = first_row(
        db,
        "SELECT stream, seq, points, advanced_at, problem FROM export WHERE stream = :stream",
        {"stream": stream},
    )
    return ExportState(stream) if row is None else ExportState(*row)


def _ensure(db: Database, stream: str) -> None:
    db.change(
        "INSERT INTO export (stream) VALUES (:stream) ON CONFLICT (stream) DO NOTHING",
        {"stream": stream},
    )


def advance(db: Database, progress: Progress, *, at_millis: int) -> bool:
    """Move an export's cursor, if it is still where the step began; return whether it was."""
    _ensure(db, progress.stream)
    is_moved = (
        db.change(
            "UPDATE export SET seq = :to_seq, points = points + :points, advanced_at = :at, "
            "problem = NULL WHERE stream = :stream AND seq = :from_seq",
            {
                "to_seq": progress.to_seq,
                "points": progress.points,
                "at": at_millis,
                "stream": progress.stream,
                "from_seq": progress.from_seq,
            },
        )
        > 0
    )
    if is_moved and progress.dead_letters:
        db.insert_all(
            "dead_letter",
            [
                {
                    "stream": each.stream,
                    "line": each.line,
                    "reason": each.reason,
                    "at": at_millis,
                }
                for each in progress.dead_letters
            ],
        )
        db.change(
            "DELETE FROM dead_letter WHERE id <= "
            "(SELECT id FROM dead_letter ORDER BY id DESC LIMIT 1 OFFSET :kept)",
            {"kept": MAX_DEAD_LETTERS},
        )
    return is_moved


def note_problem(db: Database, stream: str, problem: str | None) -> None:
    """Store why an export is stopped, or None."""
    _ensure(db, stream)
    db.change(
        "UPDATE export SET problem = :problem WHERE stream = :stream",
        {"stream": stream, "problem": problem},
    )


def backlog_of(db: Database, stream: str) -> Backlog:
    """Return the backlog of an export, with reports without a number; from one snapshot."""
    dialect, seq = db.dialect, state_of(db, stream).seq
    first, last, unnumbered = one_row(
        db, f"SELECT {dialect.first_seq}, {dialect.last_seq}, {dialect.unnumbered_reports}"
    )
    after = max(seq, (first or last + 1) - 1)
    oldest = None
    if after < last:
        (oldest,) = one_row(db, f"SELECT {dialect.received_at}", {"seq": after + 1})
    elif unnumbered:
        (oldest,) = one_row(db, f"SELECT min(received_at) FROM {dialect.unfolded} AS r")
    reports = max(0, last - after) + int(unnumbered)
    return Backlog(reports=reports, oldest_received_at_millis=oldest)


def dead_letters(db: Database, *, limit: int) -> list[DeadLetter]:
    """Return the newest dead letters first."""
    rows = db.rows(
        "SELECT stream, line, reason, at FROM dead_letter ORDER BY id DESC LIMIT :limit",
        {"limit": limit},
    )
    return [DeadLetter(*row) for row in rows]


def rewind(db: Database) -> None:
    """Reset all exports to the beginning, also beside running collectors."""
    for policy in Policy:
        note_problem(db, policy, None)
    db.change("UPDATE export SET seq = 0, points = 0")
    db.change("DELETE FROM dead_letter")
