"""What each sender reported by day; see `collector.reports.sender_days`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from collector.ledger.sql.database import (
    BYTE_ORDER,
    Database,
    first_row,
    one_row,
    quotient,
    whole,
)
from collector.reports.report import DAY_MILLIS
from collector.reports.sender_days import (
    HOUR_MILLIS,
    HOURS_PER_DAY,
    KEPT_DAYS,
    LATE_DAYS,
    PAST_DAYS,
    HourBytes,
    SenderBytes,
    SenderDay,
    day_of,
    grown,
    in_hour,
    user_of,
)
from collector.reports.server_bounds import Place
from collector.reports.spikes import BusyHour

_COLUMNS = "day, sender, raw_bytes, hour, hour_bytes, earlier_hour_bytes"
_ROW = f"SELECT {_COLUMNS} FROM sender_day WHERE day = :day AND sender = :sender"
_KEEP = """
    ON CONFLICT (day, sender) DO UPDATE SET raw_bytes = excluded.raw_bytes, hour = excluded.hour,
        hour_bytes = excluded.hour_bytes, earlier_hour_bytes = excluded.earlier_hour_bytes
"""
_LARGEST = """
    CASE WHEN {0}.hour_bytes > {0}.earlier_hour_bytes
        THEN {0}.hour_bytes ELSE {0}.earlier_hour_bytes END
"""
_PAST_DAYS = ", ".join(f":day - {days}" for days in range(1, PAST_DAYS + 1))
_BUSY = f"""
    SELECT d.sender, d.day, {_LARGEST.format("d")}, coalesce((
        SELECT max({_LARGEST.format("p")}) FROM sender_day AS p
        WHERE p.day IN ({_PAST_DAYS}) AND p.sender = d.sender
    ), 0)
    FROM sender_day AS d WHERE d.day = :day AND {_LARGEST.format("d")} > :above
    ORDER BY 3 DESC, d.sender {BYTE_ORDER} LIMIT :limit
"""
# A user's few rows are looked up by day; the last report of a row tells when it changed.
_PLACES_OF_USER = """
    WITH RECURSIVE listed (day) AS (
        SELECT CAST(:first_day AS int) UNION ALL SELECT day + 1 FROM listed WHERE day <= :day
    )
    SELECT DISTINCT s.server, s.port, s.protocol
    FROM series AS s CROSS JOIN listed CROSS JOIN usage_day AS u
    WHERE s.username = :username AND u.day = listed.day AND u.series_id = s.id
        AND u.change_seq >= :first_seq
"""


def add(db: Database, *, after: int, through: int) -> dict[str, int]:
    """Add up the reports after one seq through another, within the caller's transaction.

    Return when the newest report of each sender arrived.
    """
    rows = db.rows(
        f"""
        SELECT h.reporter, h.hour, h.amount, h.received_at, d.day, d.sender, d.raw_bytes, d.hour,
            d.hour_bytes, d.earlier_hour_bytes
        FROM (
            {_hours_of(db, db.dialect.numbered)} GROUP BY 1, 2
        ) AS h LEFT JOIN sender_day AS d
            ON d.day = {quotient("h.hour", HOURS_PER_DAY)} AND d.sender = h.reporter
        """,
        db.bounds(after=after, through=through),
    )
    hours = [HourBytes(row[0], row[1], whole(row[2])) for row in rows]
    known = {(row[4], row[5]): SenderDay(*row[4:]) for row in rows if row[4] is not None}
    _grow(db, known, hours)
    heard: dict[str, int] = {}
    for sender, _, _, received_at, *_ in rows:
        heard[sender] = max(received_at, heard.get(sender, 0))
    return heard


def add_hours(db: Database, hours: Sequence[HourBytes]) -> None:
    """Add what senders reported in some hours, within the caller's transaction."""
    known: dict[tuple[int, str], SenderDay] = {}
    for each in hours:
        key = {"day": day_of(each.hour), "sender": each.sender}
        if (row := first_row(db, _ROW, key)) is not None:
            known[row[0], row[1]] = SenderDay(*row)
    _grow(db, known, hours)


def _grow(
    db: Database, known: Mapping[tuple[int, str], SenderDay], hours: Sequence[HourBytes]
) -> None:
    changed = sorted(grown(known, hours))
    db.insert_all("sender_day", [each._asdict() for each in changed], then=_KEEP)
    if len(known) < len(changed):
        forgotten = {"day": changed[-1].day - KEPT_DAYS}
        db.change("DELETE FROM sender_day WHERE day <= :day", forgotten)


def _hours_of(db: Database, reports: str) -> str:
    return (
        f"SELECT reporter, {quotient('received_at', HOUR_MILLIS)} AS hour, "
        f"{db.dialect.sum_of('upload_bytes + download_bytes')} AS amount, "
        f"max(received_at) AS received_at FROM {reports} AS r"
    )


def bytes_of(db: Database, sender: str, *, hour: int) -> SenderBytes:
    """Return a sender's bytes in an hour and its day, with reports not added up yet."""
    rows = db.rows(
        f"{_hours_of(db, db.dialect.unfolded_of_senders)} WHERE reporter = :sender GROUP BY 1, 2",
        {"sender": sender},
    )
    unfolded = [HourBytes(row[0], row[1], whole(row[2])) for row in rows]
    row = first_row(db, _ROW, {"day": day_of(hour), "sender": sender})
    return in_hour(None if row is None else SenderDay(*row), unfolded, hour=hour)


def places_of(db: Database, sender: str, *, day: int) -> list[Place]:
    """Return the servers, ports and protocols that a sender named on a day, by when it arrived.

    From one snapshot. For a user without a key: what any sender reported for that user.
    """
    since = day * DAY_MILLIS
    first_seq = _first_seq_since(db, since)
    username = user_of(sender)
    if username is not None:
        bounds = {"username": username, "first_day": day - LATE_DAYS, "day": day}
        return db.rows(_PLACES_OF_USER, {**bounds, "first_seq": first_seq})
    return db.rows(
        "SELECT DISTINCT s.server, s.port, s.protocol "
        f"FROM {db.dialect.since} AS r JOIN series AS s ON s.id = r.series_id "
        "WHERE r.reporter = :sender",
        {"sender": sender, "since": since, "first_seq": first_seq},
    )


def busy_hours(
    db: Database, *, days: Sequence[int], above_bytes: int, limit: int
) -> list[BusyHour]:
    """Return the senders with a large hour on some days, with the largest of the days before."""
    return [
        BusyHour(*row)
        for day in days
        for row in db.rows(_BUSY, {"day": day, "above": above_bytes, "limit": limit})
    ]


def _first_seq_since(db: Database, millis: int) -> int:
    """Return the first seq of the reports that arrived since a time (seqs are in that order).

    If there is none, the seq after the last one.
    """
    middle = quotient("(low + high)", 2)
    is_since = f"{db.dialect.received_at.replace(':seq', middle)} >= :since"
    text = f"""
        WITH RECURSIVE halved (low, high) AS (
            SELECT CAST({db.dialect.first_seq} AS bigint),
                CAST({db.dialect.folded_seq} + 1 AS bigint)
            UNION ALL
            SELECT CASE WHEN {is_since} THEN low ELSE {middle} + 1 END,
                CASE WHEN {is_since} THEN {middle} ELSE high END
            FROM halved WHERE low < high
        )
        SELECT coalesce(max(low), max(high)) FROM halved
    """
    return int(one_row(db, text, {"since": millis})[0])
