"""Corrections: requested beside running collectors, carried out in steps by the writer.

A step stores its lines with numbers after all reports, and adds them up in the same transaction, so
that no reader sees one without the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from collector.ledger.corrections import (
    ADJUSTMENT_PORT,
    ADJUSTMENT_PROTOCOL,
    ADJUSTMENT_SERVER,
    NOTED,
    SCANNED_REPORTS,
    Correction,
    Kind,
    Line,
    Wanted,
    noted,
    refusal_of,
)
from collector.ledger.sql.corrected import CHOSEN, chosen
from collector.ledger.sql.database import BILLED, Database, added, first_row, one_row, quotient
from collector.ledger.sql.purge import dropped_days
from collector.reports.report import DAY_MILLIS, MAX_AMOUNT_BYTES

StoreRows = Callable[[Sequence[Line]], None]
"""Stores a row per line in the table of reports, numbered after the last report."""

_SUMS = """
    CAST(sum(l.upload_bytes) AS bigint) AS upload_bytes,
    CAST(sum(l.download_bytes) AS bigint) AS download_bytes,
    CAST(sum(l.billed_bytes) AS bigint) AS billed_bytes,
    CAST(sum(r.connections) AS bigint) AS connections,
    -count(l.voids_seq) AS reports, max(l.seq) AS seq
"""


def ask(db: Database, wanted: Wanted, *, asked_at_millis: int) -> int:
    """Store a request for a correction; return its number; within a transaction."""
    text = (
        "INSERT INTO correction (id, wanted, asked_at) "
        "SELECT coalesce(max(id), 0) + 1, :wanted, :asked_at FROM correction WHERE true "
        "ON CONFLICT (id) DO NOTHING RETURNING id"
    )
    values = {"wanted": msgspec.json.encode(wanted).decode(), "asked_at": asked_at_millis}
    row = None
    while row is None:  # a concurrent request may have taken the number
        row = first_row(db, text, values)
    return int(row[0])


def carry_out(
    db: Database,
    correction: Correction,
    store_rows: StoreRows,
    *,
    last_seq: int,
    now_millis: int,
    limit: int,
) -> tuple[int, bool]:
    """Carry out a step of a correction, within the caller's transaction.

    All reports up to `last_seq`, the last assigned seq, must be in the sums. Returns the new last
    seq, which is also in the sums, and whether the correction is done.
    """
    step = _Step(db, correction, store_rows, last_seq, now_millis)
    if correction.wanted.kind is Kind.ADJUST:
        return step.adjust(), True
    return step.void(limit=limit)


class _Step(NamedTuple):
    """One step, which is one transaction."""

    db: Database
    correction: Correction
    store_rows: StoreRows
    last_seq: int
    now_millis: int

    def void(self, *, limit: int) -> tuple[int, bool]:
        position, through = one_row(
            self.db,
            f"SELECT coalesce(position_seq, {self.db.dialect.first_seq} - 1, :last), "
            "coalesce(through_seq, :last) FROM correction WHERE id = :number",
            {"last": self.last_seq, "number": self.correction.number},
        )
        until = min(through, position + SCANNED_REPORTS)
        found = self._candidates(after=position, through=until, limit=limit)
        if len(found) == limit:
            until = found[-1].voids_seq or until
        is_done = until >= through
        done_at_millis = self.now_millis if is_done else None
        self._note(found, position=until, through=through, done_at_millis=done_at_millis)
        return self._store(found), is_done

    def _candidates(self, *, after: int, through: int, limit: int) -> list[Line]:
        """Return void lines for the selected reports that are not voided yet."""
        db = self.db
        rows = db.rows(
            f"""
            SELECT r.series_id, -r.upload_bytes, -r.download_bytes,
                -{BILLED}, -r.connections,
                r.reported_at, r.received_at, r.seq
            FROM {db.dialect.numbered} AS r JOIN series AS s ON s.id = r.series_id
            WHERE {CHOSEN}
                AND NOT EXISTS (SELECT 1 FROM correction_line AS l WHERE l.voids_seq = r.seq)
            ORDER BY r.seq LIMIT :limit
            """,
            {
                **db.bounds(after=after, through=through),
                **chosen(self.correction.wanted),
                "limit": limit,
            },
        )
        return [
            Line(series_id, up, down, billed, connections, reported_at, received_at, seq, True)
            for series_id, up, down, billed, connections, reported_at, received_at, seq in rows
        ]

    def adjust(self) -> int:
        wanted = self.correction.wanted
        row = first_row(
            self.db,
            "SELECT upload_bytes + download_bytes + corrected_upload_bytes "
            "+ corrected_download_bytes, billed_bytes + corrected_billed_bytes "
            "FROM user_total WHERE username = :username",
            {"username": wanted.username},
        )
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
            self.db.change(
                "INSERT INTO usage_day (day, series_id, upload_bytes, download_bytes, "
                "billed_bytes, connections, reports, last_used_at, change_seq) "
                "VALUES (:day, :series_id, 0, 0, 0, 0, 0, :at, 0) "
                "ON CONFLICT (day, series_id) DO NOTHING",
                {"day": at // DAY_MILLIS, "series_id": series_id, "at": at},
            )
        self._note([line], done_at_millis=self.now_millis)
        return self._store([line])

    def _store(self, lines: Sequence[Line]) -> int:
        """Store lines, each with its row in the table of reports, and add them up."""
        if not lines:
            return self.last_seq
        self.store_rows(lines)
        self.db.insert_all(
            "correction_line",
            [
                {
                    "seq": seq,
                    "correction_id": self.correction.number,
                    "series_id": it.series_id,
                    "voids_seq": it.voids_seq,
                    "position_seq": (it.voids_seq or seq) if it.is_placed else None,
                    "received_at": it.received_at,
                    "upload_bytes": it.upload_bytes,
                    "download_bytes": it.download_bytes,
                    "billed_bytes": it.billed_bytes,
                }
                for seq, it in enumerate(lines, start=self.last_seq + 1)
            ],
        )
        through = self.last_seq + len(lines)
        _add_up(self.db, after=self.last_seq, through=through)
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
        self.db.change(NOTED, values)


def _series_of(db: Database, wanted: Wanted) -> int:
    key = {
        "username": wanted.username,
        "server": wanted.server or ADJUSTMENT_SERVER,
        "port": ADJUSTMENT_PORT if wanted.port is None else wanted.port,
        "protocol": wanted.protocol or ADJUSTMENT_PROTOCOL,
    }
    db.change(
        "INSERT INTO series (username, server, port, protocol) "
        "VALUES (:username, :server, :port, :protocol) "
        "ON CONFLICT (username, server, port, protocol) DO NOTHING",
        key,
    )
    return int(
        one_row(
            db,
            "SELECT id FROM series WHERE username = :username AND server = :server "
            "AND port = :port AND protocol = :protocol",
            key,
        )[0]
    )


def _add_up(db: Database, *, after: int, through: int) -> None:
    """Add the new lines to the sums."""
    new = (
        f"FROM correction_line AS l JOIN {db.dialect.numbered} AS r ON r.seq = l.seq "
        "JOIN series AS s ON s.id = l.series_id WHERE l.seq > :after AND l.seq <= :through"
    )
    dropped_day, dropped_seq = dropped_days(db)
    day = quotient("r.reported_at", DAY_MILLIS)
    values = {
        **db.bounds(after=after, through=through),
        "dropped_day": dropped_day,
        "dropped_seq": dropped_seq,
    }
    db.change(
        f"""
        UPDATE series SET {added("series", "f")}
        FROM (SELECT l.series_id, {_SUMS} {new} GROUP BY l.series_id) AS f
        WHERE series.id = f.series_id
        """,
        values,
    )
    # Daily rows that a cleanup has dropped are not created again.
    db.change(
        f"""
        UPDATE usage_day SET {added("usage_day", "f")}, change_seq = f.seq
        FROM (
            SELECT {day} AS day, l.series_id, {_SUMS} {new}
                AND NOT ({day} < :dropped_day
                    AND coalesce(l.voids_seq, 0) <= :dropped_seq)
            GROUP BY 1, 2
        ) AS f WHERE usage_day.day = f.day AND usage_day.series_id = f.series_id
        """,
        values,
    )
    db.change(
        f"""
        UPDATE user_total SET
            corrected_upload_bytes = user_total.corrected_upload_bytes + f.upload_bytes,
            corrected_download_bytes = user_total.corrected_download_bytes + f.download_bytes,
            corrected_billed_bytes = user_total.corrected_billed_bytes + f.billed_bytes,
            corrected_seq = f.seq, change_seq = f.seq
        FROM (SELECT s.username, {_SUMS} {new} GROUP BY s.username) AS f
        WHERE user_total.username = f.username
        """,
        values,
    )
