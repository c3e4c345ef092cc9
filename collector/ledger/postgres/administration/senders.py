"""What each sender reported by day, in a PostgreSQL ledger; see `collector.reports.sender_days`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from collector.ledger.postgres.link import Db
from collector.reports.report import DAY_MILLIS
from collector.reports.sender_days import (
    HOUR_MILLIS,
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

_HOURS = f"""
    SELECT r.reporter, g.received_at / {HOUR_MILLIS} AS hour,
        sum(r.upload_bytes::numeric + r.download_bytes), max(g.received_at)
    FROM report_group AS g JOIN report AS r ON r.group_id = g.id
"""
_NUMBERED = "WHERE g.first_seq > %(after)s AND g.first_seq <= %(through)s GROUP BY 1, 2"
_UNFOLDED = "WHERE g.first_seq IS NULL AND r.reporter = %s GROUP BY 1, 2"
_PLACES_OF_USER = """
    SELECT DISTINCT s.server, s.port, s.protocol
    FROM series AS s CROSS JOIN generate_series(%(first_day)s::int, %(day)s + 1) AS listed (day)
    JOIN usage_day AS u ON u.day = listed.day AND u.series_id = s.id
    WHERE s.username = %(username)s
        AND u.change_seq >= (SELECT min(first_seq) FROM report_group WHERE received_at >= %(since)s)
"""
_PLACES_OF_KEY = """
    SELECT DISTINCT s.server, s.port, s.protocol FROM report_group AS g
    JOIN report AS r ON r.group_id = g.id JOIN series AS s ON s.id = r.series_id
    WHERE g.received_at >= %(since)s AND r.reporter = %(sender)s
"""
_LARGEST = "greatest({0}.hour_bytes, {0}.earlier_hour_bytes)"
_BUSY = f"""
    SELECT d.sender, d.day, {_LARGEST.format("d")}, coalesce((
        SELECT max({_LARGEST.format("p")}) FROM generate_series(%(first)s::int, %(day)s - 1)
            AS listed (day) JOIN sender_day AS p ON p.day = listed.day AND p.sender = d.sender
    ), 0)
    FROM sender_day AS d WHERE d.day = %(day)s AND {_LARGEST.format("d")} > %(above)s
    ORDER BY 3 DESC, 1 LIMIT %(limit)s
"""
_COLUMNS = "day, sender, raw_bytes, hour, hour_bytes, earlier_hour_bytes"
_HEAR = """
    INSERT INTO heard AS h (scope, received_at)
    SELECT * FROM unnest(%s::text[], %s::bigint[])
    ON CONFLICT (scope) DO UPDATE SET received_at = greatest(h.received_at, excluded.received_at)
"""
_KEEP = f"""
    INSERT INTO sender_day ({_COLUMNS}) SELECT * FROM
    unnest(%s::int[], %s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
    ON CONFLICT (day, sender) DO UPDATE SET raw_bytes = excluded.raw_bytes, hour = excluded.hour,
        hour_bytes = excluded.hour_bytes, earlier_hour_bytes = excluded.earlier_hour_bytes
"""


def add(db: Db, *, after: int, through: int) -> None:
    """Add up the reports after one number through another, and note when each sender was heard."""
    rows = db.execute(f"{_HOURS} {_NUMBERED}", {"after": after, "through": through}).fetchall()
    heard: dict[str, int] = {}
    for sender, _, _, received_at in rows:
        heard[sender] = max(received_at, heard.get(sender, 0))
    names = sorted(heard)
    db.execute(_HEAR, (names, [heard[name] for name in names]))
    hours = _hours(rows)
    keys = {(day_of(each.hour), each.sender) for each in hours}
    known = _rows(db, sorted(keys))
    changed = sorted(grown({(row.day, row.sender): row for row in known}, hours))
    db.execute(_KEEP, [list(column) for column in zip(*changed, strict=True)] or [[]] * 6)
    if len(known) < len(changed):
        db.execute("DELETE FROM sender_day WHERE day <= %s", (changed[-1].day - KEPT_DAYS,))


def bytes_of(db: Db, sender: str, *, hour: int) -> SenderBytes:
    """Return what a sender reported in an hour and its day, with what is in no sum yet."""
    unfolded = _hours(db.execute(f"{_HOURS} {_UNFOLDED}", (sender,)))
    rows = _rows(db, [(day_of(hour), sender)])
    return in_hour(rows[0] if rows else None, unfolded, hour=hour)


def places_of(db: Db, sender: str, *, day: int) -> list[Place]:
    """Return the servers, ports and protocols that a sender named on a day, by when it arrived.

    Of a user without a key: those that were reported for that user, whoever reported them.
    """
    bounds: dict[str, Any] = {"since": day * DAY_MILLIS, "sender": sender}
    username = user_of(sender)
    if username is None:
        return db.execute(_PLACES_OF_KEY, bounds).fetchall()
    bounds |= {"username": username, "first_day": day - LATE_DAYS, "day": day}
    return db.execute(_PLACES_OF_USER, bounds).fetchall()


def busy_hours(db: Db, *, days: Sequence[int], above_bytes: int, limit: int) -> list[BusyHour]:
    """Return the senders with a large hour on some days, with the largest of the days before."""
    found: list[BusyHour] = []
    for day in days:
        bounds = {"day": day, "first": day - PAST_DAYS, "above": above_bytes, "limit": limit}
        found += [BusyHour(*row) for row in db.execute(_BUSY, bounds)]
    return found


def _hours(rows: Iterable[Sequence[Any]]) -> list[HourBytes]:
    return [HourBytes(sender, int(hour), int(amount)) for sender, hour, amount, _ in rows]


def _rows(db: Db, keys: Sequence[tuple[int, str]]) -> list[SenderDay]:
    query = (
        f"SELECT {_COLUMNS} FROM sender_day WHERE (day, sender) IN "
        "(SELECT * FROM unnest(%s::int[], %s::text[]))"
    )
    found = db.execute(query, ([day for day, _ in keys], [sender for _, sender in keys]))
    return [SenderDay(*row) for row in found]
