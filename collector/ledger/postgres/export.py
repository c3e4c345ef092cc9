"""What a PostgreSQL ledger remembers of its export: how far it is, what was refused for good."""

from __future__ import annotations

from collector.ledger import Backlog, DeadLetter, ExportState, Progress
from collector.ledger.postgres.link import Db
from collector.ledger.postgres.numbering import folded_seq
from collector.ledger.sqlite.export import MAX_DEAD_LETTERS
from collector.schema import Policy


def state_of(db: Db, stream: str) -> ExportState:
    """Return how far an export is; one that never ran is at the beginning."""
    row = db.execute(
        "SELECT stream, seq, points, advanced_at, problem FROM export WHERE stream = %s", (stream,)
    ).fetchone()
    return ExportState(stream) if row is None else ExportState(*row)


def _ensure(db: Db, stream: str) -> None:
    insert = "INSERT INTO export (stream) VALUES (%s) ON CONFLICT (stream) DO NOTHING"
    db.execute(insert, (stream,))


def advance(db: Db, progress: Progress, *, at_millis: int) -> bool:
    """Move an export's cursor, unless it is no longer where the step began; return whether."""
    _ensure(db, progress.stream)
    is_moved = (
        db.execute(
            "UPDATE export SET seq = %s, points = points + %s, advanced_at = %s, problem = NULL "
            "WHERE stream = %s AND seq = %s",
            (progress.to_seq, progress.points, at_millis, progress.stream, progress.from_seq),
        ).rowcount
        > 0
    )
    if is_moved and progress.dead_letters:
        with db.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO dead_letter (stream, line, reason, at) VALUES (%s, %s, %s, %s)",
                [
                    (each.stream, each.line, each.reason, at_millis)
                    for each in progress.dead_letters
                ],
            )
        db.execute(
            "DELETE FROM dead_letter WHERE id <= "
            "(SELECT id FROM dead_letter ORDER BY id DESC LIMIT 1 OFFSET %s)",
            (MAX_DEAD_LETTERS,),
        )
    return is_moved


def note_problem(db: Db, stream: str, problem: str | None) -> None:
    """Store why an export does not go on, None when it does."""
    _ensure(db, stream)
    db.execute("UPDATE export SET problem = %s WHERE stream = %s", (problem, stream))


def backlog_of(db: Db, stream: str) -> Backlog:
    """Return what an export has still before it, with what is not numbered yet."""
    seq = state_of(db, stream).seq
    unfolded, oldest_unfolded = db.execute(
        "SELECT coalesce(sum(reports), 0)::bigint, min(received_at) FROM report_group "
        "WHERE first_seq IS NULL"
    ).fetchone() or (0, None)
    first = db.execute(
        "SELECT first_seq + purged, received_at FROM report_group "
        "WHERE first_seq >= coalesce("
        "(SELECT max(first_seq) FROM report_group WHERE first_seq <= %(next)s), 0) "
        "AND first_seq + reports > %(next)s ORDER BY first_seq LIMIT 1",
        {"next": seq + 1},
    ).fetchone()
    if first is None:
        return Backlog(reports=unfolded, oldest_received_at_millis=oldest_unfolded)
    numbered = folded_seq(db) - max(seq + 1, first[0]) + 1
    return Backlog(reports=numbered + unfolded, oldest_received_at_millis=first[1])


def dead_letters(db: Db, *, limit: int) -> list[DeadLetter]:
    """Return the newest dead letters first."""
    rows = db.execute(
        "SELECT stream, line, reason, at FROM dead_letter ORDER BY id DESC LIMIT %s", (limit,)
    )
    return [DeadLetter(*row) for row in rows]


def rewind(db: Db) -> None:
    """Begin all exports anew, beside running collectors or without one."""
    for policy in Policy:
        note_problem(db, policy, None)
    db.execute("UPDATE export SET seq = 0, points = 0")
    db.execute("DELETE FROM dead_letter")
