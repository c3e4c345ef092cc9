"""Queries of the feed and the export: changed users, reports and days in order."""

from __future__ import annotations

from collections.abc import Mapping

from collector.ledger import Changes, DayRow, ReportRow, UserTotal, WriterRun
from collector.ledger.grouped_reports import GroupedReports, Grouping, SeriesReports, ServerSum
from collector.ledger.sql.database import BILLED, Database, folded_seq, kept_text, one_row, quotient


def changes(db: Database, *, after: int, limit: int) -> Changes:
    """Return the users changed after a seq; from one snapshot.

    A user whose last change is above the head is left out: it is returned once the head is there.
    """
    head = folded_seq(db)
    rows = db.rows(
        "SELECT username, upload_bytes, download_bytes, billed_bytes, reports, last_used_at, "
        "change_seq, corrected_upload_bytes, corrected_download_bytes, corrected_billed_bytes, "
        "corrected_seq FROM user_total WHERE change_seq > :after AND change_seq <= :head "
        "ORDER BY change_seq LIMIT :limit",
        {"after": after, "head": head, "limit": limit},
    )
    return Changes(
        ledger_id=kept_text(db, "ledger_id") or "",
        head=head,
        changes=[UserTotal(*row) for row in rows],
        runs=_runs_since(db, after),
    )


def _runs_since(db: Database, seq: int) -> list[WriterRun]:
    """Return the run that stored a report and all later ones, oldest first; all for seq 0.

    If the run of that report is not known, the first one began at or after it.
    """
    rows = db.rows(
        "SELECT after_seq, token FROM run WHERE after_seq >= coalesce("
        "(SELECT max(after_seq) FROM run WHERE after_seq < :seq), 0) ORDER BY after_seq",
        {"seq": seq},
    )
    return [WriterRun(*row) for row in rows]


def reports_after(db: Database, seq: int, *, limit: int) -> list[ReportRow]:
    """Return the numbered reports after a seq, in order."""
    first, last = one_row(db, f"SELECT {db.dialect.first_seq}, {db.dialect.last_seq}")
    after = max(seq, (first or 1) - 1)
    while after < last:
        if found := _reports_within(db, after=after, through=after + limit):
            return found
        after += limit  # files of the first version have gaps: duplicates got numbers, too
    return []


def _reports_within(db: Database, *, after: int, through: int) -> list[ReportRow]:
    return db.records(
        "SELECT r.seq AS seq, s.username AS username, s.server AS server, s.port AS port, "
        "s.protocol AS protocol, r.upload_bytes AS upload_bytes, "
        "r.download_bytes AS download_bytes, "
        f"{BILLED} AS billed_bytes, "
        "r.connections AS connections, r.reported_at AS reported_at_millis, "
        f"l.voids_seq AS voids_seq FROM {db.dialect.numbered} AS r "
        "JOIN series AS s ON s.id = r.series_id LEFT JOIN correction_line AS l ON l.seq = r.seq "
        "ORDER BY r.seq",
        db.bounds(after=after, through=through),
        ReportRow,
    )


def grouped_reports(
    db: Database, grouping: Grouping, *, after: int, least: int, most: int
) -> GroupedReports | None:
    """Return up to `most` numbered reports after a seq, up to the end of a block.

    None if there are not so many as `least`, or if one of them voids another one or is too old.
    """
    first, last = one_row(db, f"SELECT {db.dialect.first_seq}, {db.dialect.last_seq}")
    through = min(after + most, last) // grouping.block_rows * grouping.block_rows
    if first is None or first > after + 1 or through - after < least:
        return None
    bounds = db.bounds(after=after, through=through)
    oldest_at, voids = one_row(
        db,
        f"SELECT (SELECT min(r.reported_at) FROM {db.dialect.numbered} AS r), "
        "(SELECT count(*) FROM correction_line WHERE seq > :after AND seq <= :through)",
        bounds,
    )
    slice_millis = grouping.slice_millis
    if (
        oldest_at is None
        or voids
        or oldest_at // slice_millis * slice_millis < grouping.oldest_millis
    ):
        return None
    return GroupedReports(after, through, _sums_of_servers(db, grouping, bounds))


def series_reports(
    db: Database, grouping: Grouping, found: GroupedReports, *, part: int
) -> list[SeriesReports]:
    """Return one of the parts of grouped reports, counted from 0."""
    bounds = db.bounds(after=found.after_seq, through=found.through_seq)
    spelled = (
        f"'{grouping.upload_bytes}' || r.upload_bytes || "
        f"'{grouping.download_bytes}' || r.download_bytes || "
        f"'{grouping.billed_bytes}' || {BILLED} || "
        f"'{grouping.connections}' || r.connections || "
        f"'{grouping.time}' || (r.reported_at * 1000000 + r.seq % 1000000)"
    )
    return db.records(
        "SELECT s.username AS username, s.server AS server, s.port AS port, "
        "s.protocol AS protocol, g.reports AS reports, g.spelled AS spelled "
        "FROM (SELECT r.series_id AS series_id, count(*) AS reports, "
        f"{db.dialect.joined.replace('{}', spelled)} AS spelled "
        f"FROM {db.dialect.numbered} AS r WHERE r.series_id % :parts = :part "
        "GROUP BY r.series_id) AS g JOIN series AS s ON s.id = g.series_id",
        {**bounds, "parts": found.parts, "part": part},
        SeriesReports,
    )


def _sums_of_servers(
    db: Database, grouping: Grouping, bounds: Mapping[str, object]
) -> list[ServerSum]:
    amounts = {
        "upload_bytes": "r.upload_bytes",
        "download_bytes": "r.download_bytes",
        "billed_bytes": BILLED,
        "connections": "r.connections",
    }
    sums = ", ".join(f"{db.dialect.sum_of(each)} AS {name}" for name, each in amounts.items())
    return db.records(
        f"SELECT s.server AS server, {quotient('r.reported_at', grouping.slice_millis)} "
        f"AS slice_number, {quotient('(r.seq - 1)', grouping.block_rows)} AS block_number, {sums} "
        f"FROM {db.dialect.numbered} AS r JOIN series AS s ON s.id = r.series_id "
        "GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        bounds,
        ServerSum,
    )


def days_after(db: Database, change_seq: int, *, limit: int) -> list[DayRow]:
    """Return the daily sums that changed after a seq, in the order of their last change."""
    return db.records(
        "SELECT d.change_seq AS change_seq, d.day AS day, s.username AS username, "
        "s.server AS server, s.port AS port, s.protocol AS protocol, "
        "d.upload_bytes AS upload_bytes, d.download_bytes AS download_bytes, "
        "d.billed_bytes AS billed_bytes, d.connections AS connections, d.reports AS reports, "
        "d.last_used_at AS last_used_at_millis "
        "FROM usage_day AS d JOIN series AS s ON s.id = d.series_id "
        f"WHERE d.change_seq > :seq AND d.change_seq <= {db.dialect.folded_seq} "
        "ORDER BY d.change_seq LIMIT :limit",
        {"seq": change_seq, "limit": limit},
        DayRow,
    )
