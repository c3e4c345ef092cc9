"""Corrections in a PostgreSQL ledger: asked for by anybody, carried out by the leader step by step.

A step numbers its lines itself, behind everything that is numbered, and adds them up in the same
transaction, so that nobody ever sees one without the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

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
from collector.ledger.postgres.administration.corrected import CHOSEN, chosen
from collector.ledger.postgres.link import Db
from collector.reports.report import DAY_MILLIS, MAX_AMOUNT_BYTES

_CANDIDATES = f"""
    SELECT g.first_seq + r.position AS seq, r.series_id, r.upload_bytes, r.download_bytes,
        coalesce(r.billed_bytes, r.upload_bytes + r.download_bytes), r.connections, r.reported_at,
        g.received_at
    FROM report_group AS g JOIN report AS r ON r.group_id = g.id
    JOIN series AS s ON s.id = r.series_id
    WHERE g.first_seq >= coalesce(
            (SELECT max(first_seq) FROM report_group WHERE first_seq <= %(after)s + 1), 0)
        AND g.first_seq <= %(through)s
        AND g.first_seq + r.position > %(after)s AND g.first_seq + r.position <= %(through)s
        AND {CHOSEN} AND NOT EXISTS (
            SELECT 1 FROM correction_line AS l WHERE l.voids_seq = g.first_seq + r.position)
    ORDER BY seq LIMIT %(limit)s
"""
_INSERT_REPORTS = """
    INSERT INTO report (group_id, position, report_key, series_id, upload_bytes, download_bytes,
        billed_bytes, connections, reported_at, reporter)
    SELECT %s, n.position, NULL, n.series_id, n.upload_bytes, n.download_bytes, n.billed_bytes,
        n.connections, n.reported_at, %s
    FROM unnest(%s::int[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::int[],
        %s::bigint[]) AS n (position, series_id, upload_bytes, download_bytes, billed_bytes,
            connections, reported_at)
"""
_INSERT_LINES = """
    INSERT INTO correction_line (seq, correction_id, series_id, voids_seq, position_seq,
        received_at, upload_bytes, download_bytes, billed_bytes)
    SELECT n.seq, %s, n.series_id, n.voids_seq, n.position_seq, n.received_at, n.upload_bytes,
        n.download_bytes, n.billed_bytes
    FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[],
        %s::bigint[], %s::bigint[]) AS n (seq, series_id, voids_seq, position_seq, received_at,
            upload_bytes, download_bytes, billed_bytes)
"""
_NEW = """
    FROM correction_line AS l
    JOIN report AS r ON r.group_id = %(group)s AND r.position = l.seq - %(after)s - 1
    WHERE l.seq > %(after)s AND l.seq <= %(through)s
"""
_SUMS = """
    sum(l.upload_bytes)::bigint AS upload_bytes, sum(l.download_bytes)::bigint AS download_bytes,
    sum(l.billed_bytes)::bigint AS billed_bytes, sum(r.connections)::bigint AS connections,
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
    UPDATE usage_day AS d SET upload_bytes = d.upload_bytes + f.upload_bytes,
        download_bytes = d.download_bytes + f.download_bytes,
        billed_bytes = d.billed_bytes + f.billed_bytes,
        connections = d.connections + f.connections,
        reports = d.reports + f.reports, change_seq = f.seq
    FROM (
        SELECT (r.reported_at / 86400000)::int AS day, l.series_id, {_SUMS} {_NEW}
            AND NOT (r.reported_at / 86400000 < %(dropped_day)s
                AND coalesce(l.voids_seq, 0) <= %(dropped_seq)s)
        GROUP BY 1, 2
    ) AS f WHERE d.day = f.day AND d.series_id = f.series_id
"""
_ADD_TO_USERS = f"""
    UPDATE user_total AS u SET
        corrected_upload_bytes = u.corrected_upload_bytes + f.upload_bytes,
        corrected_download_bytes = u.corrected_download_bytes + f.download_bytes,
        corrected_billed_bytes = u.corrected_billed_bytes + f.billed_bytes,
        corrected_seq = f.seq, change_seq = f.seq
    FROM (
        SELECT s.username, {_SUMS}
        FROM correction_line AS l
        JOIN report AS r ON r.group_id = %(group)s AND r.position = l.seq - %(after)s - 1
        JOIN series AS s ON s.id = l.series_id
        WHERE l.seq > %(after)s AND l.seq <= %(through)s GROUP BY s.username
    ) AS f WHERE u.username = f.username
"""


def ask(db: Db, wanted: Wanted, *, asked_at_millis: int) -> int:
    """Store that a correction is wanted; return its number; within a transaction."""
    row = None
    while row is None:  # somebody else may have asked at this moment, and have the number
        row = db.execute(
            "INSERT INTO correction (id, wanted, asked_at) "
            "SELECT coalesce(max(id), 0) + 1, %s, %s FROM correction "
            "ON CONFLICT (id) DO NOTHING RETURNING id",
            (msgspec.json.encode(wanted).decode(), asked_at_millis),
        ).fetchone()
    return int(row[0])


def open_correction(db: Db) -> Correction | None:
    """Return the oldest correction that is not carried out to its end."""
    row = db.execute(
        f"SELECT {COLUMNS} FROM correction WHERE done_at IS NULL ORDER BY id LIMIT 1"
    ).fetchone()
    return None if row is None else correction_of(row)


def carry_out(
    db: Db,
    correction: Correction,
    *,
    last_seq: int,
    group_id: int,
    now_millis: int,
    limit: int = CORRECTED_REPORTS,
) -> tuple[int, bool]:
    """Carry out a step of a correction, within a transaction of the leader.

    `last_seq` is up to where the sums go, `group_id` the id of the group that the step may store.
    Returns the last number given out, and whether the correction is done.
    """
    step = _Step(db, correction, last_seq, group_id, now_millis)
    if correction.wanted.kind is Kind.ADJUST:
        return step.adjust(), True
    return step.void(limit=limit)


class _Step(NamedTuple):
    """One step, which is one transaction."""

    db: Db
    correction: Correction
    last_seq: int
    group_id: int
    now_millis: int

    def void(self, *, limit: int) -> tuple[int, bool]:
        position, through = self.db.execute(
            "SELECT coalesce(position_seq, (SELECT min(first_seq) FROM report_group) - 1, %s), "
            "coalesce(through_seq, %s) FROM correction WHERE id = %s",
            (self.last_seq, self.last_seq, self.correction.number),
        ).fetchone() or (self.last_seq, self.last_seq)
        until = min(through, position + LOOKED_THROUGH_REPORTS)
        bounds = {"after": position, "through": until, "limit": limit}
        found = self.db.execute(
            _CANDIDATES, {**chosen(self.correction.wanted), **bounds}
        ).fetchall()
        if len(found) == limit:
            until = found[-1][0]
        lines = [
            Line(series_id, -up, -down, -billed, -connections, reported_at, received_at, seq, True)
            for seq, series_id, up, down, billed, connections, reported_at, received_at in found
        ]
        is_done = until >= through
        done_at_millis = self.now_millis if is_done else None
        self._note(lines, position=until, through=through, done_at_millis=done_at_millis)
        return self._store(lines), is_done

    def adjust(self) -> int:
        wanted = self.correction.wanted
        row = self.db.execute(
            "SELECT upload_bytes + download_bytes + corrected_upload_bytes "
            "+ corrected_download_bytes, billed_bytes + corrected_billed_bytes "
            "FROM user_total WHERE username = %s",
            (wanted.username,),
        ).fetchone()
        problem: str | None = f"no report has named a user {wanted.username}"
        if row is not None:
            raw_bytes, billed_bytes = row
            problem = refusal_of(
                wanted, raw_bytes=raw_bytes, billed_bytes=billed_bytes, most_bytes=MAX_AMOUNT_BYTES
            )
        if problem is not None:
            self._note([], done_at_millis=self.now_millis, problem=problem)
            return self.last_seq
        at = self.now_millis if wanted.since_millis is None else wanted.since_millis
        series_id = _series_of(self.db, wanted)
        line = Line(
            *(series_id, 0, wanted.raw_bytes, wanted.billed_bytes, 0, at, at, None),
            wanted.since_millis is None,
        )
        if at // DAY_MILLIS >= dropped_days(self.db)[0]:
            self.db.execute(
                "INSERT INTO usage_day (day, series_id, upload_bytes, download_bytes, "
                "billed_bytes, connections, reports, last_used_at, change_seq) "
                "VALUES (%s, %s, 0, 0, 0, 0, 0, %s, 0) ON CONFLICT (day, series_id) DO NOTHING",
                (at // DAY_MILLIS, series_id, at),
            )
        self._note([line], done_at_millis=self.now_millis)
        return self._store([line])

    def _store(self, lines: Sequence[Line]) -> int:
        """Store lines, beside each its row in the stream of reports, and add them up."""
        if not lines:
            return self.last_seq
        number, after = self.correction.number, self.last_seq
        through = after + len(lines)
        self.db.execute(
            "INSERT INTO report_group (id, reports, raw_bytes, billed_bytes, received_at, "
            "first_seq) VALUES (%s, %s, 0, 0, %s, %s)",
            (self.group_id, len(lines), self.now_millis, after + 1),
        )
        self.db.execute(
            _INSERT_REPORTS,
            (
                *(self.group_id, f"correction:{number}", list(range(len(lines)))),
                [it.series_id for it in lines],
                [it.upload_bytes for it in lines],
                [it.download_bytes for it in lines],
                [it.billed_bytes for it in lines],
                [it.connections for it in lines],
                [it.reported_at for it in lines],
            ),
        )
        numbers = list(range(after + 1, through + 1))
        self.db.execute(
            _INSERT_LINES,
            (
                *(number, numbers),
                [it.series_id for it in lines],
                [it.voids_seq for it in lines],
                [
                    (it.voids_seq or seq) if it.is_placed else None
                    for seq, it in zip(numbers, lines, strict=True)
                ],
                [it.received_at for it in lines],
                [it.upload_bytes for it in lines],
                [it.download_bytes for it in lines],
                [it.billed_bytes for it in lines],
            ),
        )
        dropped_day, dropped_seq = dropped_days(self.db)
        bounds = {
            "after": after,
            "through": through,
            "group": self.group_id,
            "dropped_day": dropped_day,
            "dropped_seq": dropped_seq,
        }
        for statement in (_ADD_TO_SERIES, _ADD_TO_DAYS, _ADD_TO_USERS):
            self.db.execute(statement, bounds)
        # The running sum is of what was ever counted, as the users' totals are.
        self.db.execute("UPDATE folded SET seq = %s WHERE id = 1", (through,))
        return through

    def _note(
        self,
        lines: Sequence[Line],
        *,
        done_at_millis: int | None,
        position: int | None = None,
        through: int | None = None,
        problem: str | None = None,
    ) -> None:
        values = noted(
            self.correction,
            lines,
            position=position,
            through=through,
            done_at_millis=done_at_millis,
            problem=problem,
        )
        self.db.execute(NOTED.replace("?", "%s"), values)


def _series_of(db: Db, wanted: Wanted) -> int:
    key = (
        wanted.username,
        wanted.server or ADJUSTMENT_SERVER,
        ADJUSTMENT_PORT if wanted.port is None else wanted.port,
        wanted.protocol or ADJUSTMENT_PROTOCOL,
    )
    db.execute(
        "INSERT INTO series (username, server, port, protocol) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (username, server, port, protocol) DO NOTHING",
        key,
    )
    row = db.execute(
        "SELECT id FROM series WHERE username = %s AND server = %s AND port = %s AND protocol = %s",
        key,
    ).fetchone()
    return int((row or (0,))[0])


def dropped_days(db: Db) -> tuple[int, int]:
    """Return before which day daily rows were dropped, and up to which report they were of."""
    row = db.execute("SELECT value FROM meta WHERE key = 'dropped_days'").fetchone()
    return (0, 0) if row is None else msgspec.json.decode(row[0], type=tuple[int, int])


def note_dropped_days(db: Db, *, before_day: int, seq: int) -> None:
    """Remember that daily rows before a day were dropped, of reports up to a number."""
    if before_day >= dropped_days(db)[0]:
        db.execute(
            "INSERT INTO meta (key, value) VALUES ('dropped_days', %s) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (msgspec.json.encode((before_day, seq)).decode(),),
        )
