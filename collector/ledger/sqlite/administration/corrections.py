"""Corrections in an SQLite ledger: asked for beside the writer, carried out by it step by step."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from collector.errors import LedgerError
from collector.ledger.corrections import (
    ADJUSTMENT_PORT,
    ADJUSTMENT_PROTOCOL,
    ADJUSTMENT_SERVER,
    COLUMNS,
    CORRECTED_REPORTS,
    LOOKED_THROUGH_REPORTS,
    NOTED,
    Correction,
    Kind,
    Line,
    Wanted,
    correction_of,
    noted,
    refusal_of,
)
from collector.ledger.sqlite.administration.corrected import CHOSEN, chosen
from collector.ledger.sqlite.file import connect
from collector.reports.report import DAY_MILLIS, MAX_AMOUNT_BYTES

_CANDIDATES = f"""
    SELECT r.seq, r.series_id, r.upload_bytes, r.download_bytes,
        coalesce(r.billed_bytes, r.upload_bytes + r.download_bytes), r.connections, r.reported_at,
        r.received_at
    FROM report AS r JOIN series AS s ON s.id = r.series_id
    WHERE r.seq > :after AND r.seq <= :through AND {CHOSEN}
        AND NOT EXISTS (SELECT 1 FROM correction_line AS l WHERE l.voids_seq = r.seq)
    ORDER BY r.seq LIMIT :limit
"""
_INSERT_REPORT = (
    "INSERT INTO report (seq, report_key, series_id, upload_bytes, download_bytes, connections, "
    "reported_at, received_at, reporter, billed_bytes) VALUES (?, NULL, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_LINE = (
    "INSERT INTO correction_line (seq, correction_id, series_id, voids_seq, position_seq, "
    "received_at, upload_bytes, download_bytes, billed_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_NEW = """
    FROM correction_line AS l JOIN report AS r ON r.seq = l.seq
    WHERE l.seq > :after AND l.seq <= :through
"""
_SUMS = """
    sum(l.upload_bytes) AS upload_bytes, sum(l.download_bytes) AS download_bytes,
    sum(l.billed_bytes) AS billed_bytes, sum(r.connections) AS connections,
    -count(l.voids_seq) AS reports, max(l.seq) AS seq
"""
_ADD_TO_SERIES = f"""
    UPDATE series SET upload_bytes = series.upload_bytes + f.upload_bytes,
        download_bytes = series.download_bytes + f.download_bytes,
        billed_bytes = series.billed_bytes + f.billed_bytes,
        connections = series.connections + f.connections, reports = series.reports + f.reports
    FROM (SELECT l.series_id, {_SUMS} {_NEW} GROUP BY l.series_id) AS f
    WHERE series.id = f.series_id
"""
# What a cleanup has dropped of a day is in no row of it any more.
_ADD_TO_DAYS = f"""
    UPDATE usage_day SET upload_bytes = usage_day.upload_bytes + f.upload_bytes,
        download_bytes = usage_day.download_bytes + f.download_bytes,
        billed_bytes = usage_day.billed_bytes + f.billed_bytes,
        connections = usage_day.connections + f.connections,
        reports = usage_day.reports + f.reports, change_seq = f.seq
    FROM (
        SELECT r.reported_at / 86400000 AS day, l.series_id, {_SUMS} {_NEW}
            AND NOT (r.reported_at / 86400000 < :dropped_day
                AND coalesce(l.voids_seq, 0) <= :dropped_seq)
        GROUP BY day, l.series_id
    ) AS f WHERE usage_day.day = f.day AND usage_day.series_id = f.series_id
"""
_ADD_TO_USERS = f"""
    UPDATE user_total SET
        corrected_upload_bytes = user_total.corrected_upload_bytes + f.upload_bytes,
        corrected_download_bytes = user_total.corrected_download_bytes + f.download_bytes,
        corrected_billed_bytes = user_total.corrected_billed_bytes + f.billed_bytes,
        corrected_seq = f.seq, change_seq = f.seq
    FROM (
        SELECT s.username, {_SUMS}
        FROM correction_line AS l JOIN report AS r ON r.seq = l.seq
        JOIN series AS s ON s.id = l.series_id
        WHERE l.seq > :after AND l.seq <= :through GROUP BY s.username
    ) AS f WHERE user_total.username = f.username
"""


def ask(path: Path, wanted: Wanted, *, asked_at_millis: int) -> int:
    """Store that a correction is wanted, also beside a running collector; return its number."""
    with closing(connect(path)) as db:
        try:
            row = db.execute(
                "INSERT INTO correction (wanted, asked_at) VALUES (?, ?) RETURNING id",
                (msgspec.json.encode(wanted).decode(), asked_at_millis),
            ).fetchone()
        except sqlite3.Error as error:
            raise LedgerError(f"the correction was not stored: {error}") from error
    return int(row[0])


def open_correction(db: sqlite3.Connection) -> Correction | None:
    """Return the oldest correction that is not carried out to its end."""
    row = db.execute(
        f"SELECT {COLUMNS} FROM correction WHERE done_at IS NULL ORDER BY id LIMIT 1"
    ).fetchone()
    return None if row is None else correction_of(row)


def carry_out(
    db: sqlite3.Connection,
    correction: Correction,
    *,
    last_seq: int,
    now_millis: int,
    limit: int = CORRECTED_REPORTS,
) -> tuple[int, bool]:
    """Carry out a step of a correction, within the caller's transaction.

    All reports up to `last_seq` must be in the sums. Returns the last number given out, and whether
    the correction is done.
    """
    if correction.wanted.kind is Kind.ADJUST:
        return _adjust(db, correction, last_seq=last_seq, now_millis=now_millis), True
    position, through = db.execute(
        "SELECT coalesce(position_seq, (SELECT min(seq) FROM report) - 1, :last), "
        "coalesce(through_seq, :last) FROM correction WHERE id = :id",
        {"last": last_seq, "id": correction.number},
    ).fetchone()
    until = min(through, position + LOOKED_THROUGH_REPORTS)
    wanted = correction.wanted
    found = db.execute(
        _CANDIDATES,
        {
            "after": position,
            "through": until,
            **chosen(wanted),
            "limit": limit,
        },
    ).fetchall()
    if len(found) == limit:
        until = found[-1][0]
    lines = [
        Line(series_id, -up, -down, -billed, -connections, reported_at, received_at, seq, True)
        for seq, series_id, up, down, billed, connections, reported_at, received_at in found
    ]
    after, last_seq = (
        last_seq,
        _store(db, correction.number, lines, after=last_seq, now_millis=now_millis),
    )
    is_done = until >= through
    _note(
        db,
        correction,
        lines,
        position=until,
        through=through,
        done_at_millis=now_millis if is_done else None,
    )
    _add_up(db, after=after, through=last_seq)
    return last_seq, is_done


def _adjust(
    db: sqlite3.Connection, correction: Correction, *, last_seq: int, now_millis: int
) -> int:
    wanted = correction.wanted
    row = db.execute(
        "SELECT upload_bytes + download_bytes + corrected_upload_bytes + corrected_download_bytes, "
        "billed_bytes + corrected_billed_bytes FROM user_total WHERE username = ?",
        (wanted.username,),
    ).fetchone()
    problem = f"no report has named a user {wanted.username}"
    if row is not None:
        raw_bytes, billed_bytes = row
        problem = (
            refusal_of(
                wanted, raw_bytes=raw_bytes, billed_bytes=billed_bytes, most_bytes=MAX_AMOUNT_BYTES
            )
            or ""
        )
    if problem:
        _note(db, correction, [], done_at_millis=now_millis, problem=problem)
        return last_seq
    at = now_millis if wanted.since_millis is None else wanted.since_millis
    series_id = _series_of(db, wanted)
    line = Line(
        *(series_id, 0, wanted.raw_bytes, wanted.billed_bytes, 0, at, at, None),
        wanted.since_millis is None,
    )
    dropped_day, _ = dropped_days(db)
    if at // DAY_MILLIS >= dropped_day:
        db.execute(
            "INSERT OR IGNORE INTO usage_day (day, series_id, upload_bytes, download_bytes, "
            "connections, reports, last_used_at, change_seq) VALUES (?, ?, 0, 0, 0, 0, ?, 0)",
            (at // DAY_MILLIS, series_id, at),
        )
    after, last_seq = (
        last_seq,
        _store(db, correction.number, [line], after=last_seq, now_millis=now_millis),
    )
    _note(db, correction, [line], done_at_millis=now_millis)
    _add_up(db, after=after, through=last_seq)
    return last_seq


def _series_of(db: sqlite3.Connection, wanted: Wanted) -> int:
    key = (
        wanted.username,
        wanted.server or ADJUSTMENT_SERVER,
        ADJUSTMENT_PORT if wanted.port is None else wanted.port,
        wanted.protocol or ADJUSTMENT_PROTOCOL,
    )
    db.execute(
        "INSERT OR IGNORE INTO series (username, server, port, protocol) VALUES (?, ?, ?, ?)", key
    )
    query = "SELECT id FROM series WHERE username = ? AND server = ? AND port = ? AND protocol = ?"
    return int(db.execute(query, key).fetchone()[0])


def _store(
    db: sqlite3.Connection,
    number: int,
    lines: Sequence[Line],
    *,
    after: int,
    now_millis: int,
) -> int:
    """Store lines, and beside each its row in the stream of reports; return the last number."""
    numbered = list(enumerate(lines, start=after + 1))
    db.executemany(
        _INSERT_REPORT,
        [
            (
                *(seq, it.series_id, it.upload_bytes, it.download_bytes, it.connections),
                *(it.reported_at, now_millis, f"correction:{number}", it.billed_bytes),
            )
            for seq, it in numbered
        ],
    )
    db.executemany(
        _INSERT_LINE,
        [
            (
                *(seq, number, it.series_id, it.voids_seq),
                (it.voids_seq or seq) if it.is_placed else None,
                *(it.received_at, it.upload_bytes, it.download_bytes, it.billed_bytes),
            )
            for seq, it in numbered
        ],
    )
    return after + len(lines)


def _note(
    db: sqlite3.Connection,
    correction: Correction,
    lines: Sequence[Line],
    *,
    done_at_millis: int | None,
    position: int | None = None,
    through: int | None = None,
    problem: str | None = None,
) -> None:
    values = noted(
        correction,
        lines,
        position=position,
        through=through,
        done_at_millis=done_at_millis,
        problem=problem,
    )
    db.execute(NOTED, values)


def _add_up(db: sqlite3.Connection, *, after: int, through: int) -> None:
    """Add the new lines to the sums, which go up to them then."""
    if through == after:
        return
    bounds = {"after": after, "through": through}
    dropped_day, dropped_seq = dropped_days(db)
    db.execute(_ADD_TO_SERIES, bounds)
    db.execute(_ADD_TO_DAYS, {**bounds, "dropped_day": dropped_day, "dropped_seq": dropped_seq})
    db.execute(_ADD_TO_USERS, bounds)
    db.execute("UPDATE meta SET value = ? WHERE key = 'folded_seq'", (str(through),))


def dropped_days(db: sqlite3.Connection) -> tuple[int, int]:
    """Return before which day daily rows were dropped, and up to which report they were of."""
    row = db.execute("SELECT value FROM meta WHERE key = 'dropped_days'").fetchone()
    return (0, 0) if row is None else msgspec.json.decode(row[0], type=tuple[int, int])


def note_dropped_days(db: sqlite3.Connection, *, before_day: int, seq: int) -> None:
    """Remember that daily rows before a day were dropped, of reports up to a number."""
    if before_day >= dropped_days(db)[0]:
        value = msgspec.json.encode((before_day, seq)).decode()
        db.execute("INSERT OR REPLACE INTO meta VALUES ('dropped_days', ?)", (value,))
