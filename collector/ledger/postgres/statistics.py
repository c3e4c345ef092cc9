"""What people ask of a PostgreSQL ledger: sums by server and day, its size, whether it is whole.

One user's total fits a bigint; a sum over users may not, so sums are numeric, and read as integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from psycopg import errors as pg

from collector.ledger.corrections import (
    Sums,
    disagreements,
    disagreements_of_corrections,
    disagreements_of_days,
)
from collector.ledger.postgres.administration import corrected as postgres_corrected
from collector.ledger.postgres.link import SCHEMA, Db
from collector.ledger.statistics_values import (
    Audit,
    DailyUsage,
    Facts,
    ServerUsage,
    Summary,
    UsageSums,
)

# A series without a report was made by a commit that did not come about, or they were voided.
_IN_USE = "(u.reports > 0 OR u.upload_bytes <> 0 OR u.download_bytes <> 0)"
_ALL_SERIES = f"SELECT * FROM series AS u WHERE {_IN_USE}"
_SERIES_OF_USER = f"SELECT * FROM series AS u WHERE {_IN_USE} AND username = %(username)s"
_DAYS_SUMS = (
    "sum(u.upload_bytes) AS upload_bytes, sum(u.download_bytes) AS download_bytes, "
    "sum(u.billed_bytes) AS billed_bytes, sum(u.connections) AS connections, "
    "sum(u.reports) AS reports, max(u.last_used_at) AS last_used_at"
)
_SERIES_SINCE = f"""
    SELECT s.username, s.server, s.port, s.protocol, d.* FROM (
        SELECT u.series_id, {_DAYS_SUMS} FROM usage_day AS u
        WHERE u.day >= %(since)s AND {_IN_USE}
        GROUP BY u.series_id
    ) AS d JOIN series AS s ON s.id = d.series_id
"""
# A user's few rows are looked up day by day, and not searched for among everybody's.
_SERIES_OF_USER_SINCE = f"""
    SELECT s.username, s.server, s.port, s.protocol, {_DAYS_SUMS}
    FROM series AS s
    CROSS JOIN generate_series(
        greatest(%(since)s, (SELECT min(day) FROM usage_day)), (SELECT max(day) FROM usage_day)
    ) AS listed (day)
    JOIN usage_day AS u ON u.day = listed.day AND u.series_id = s.id
    WHERE s.username = %(username)s AND {_IN_USE}
    GROUP BY s.id, s.username, s.server, s.port, s.protocol
"""


def servers_of(
    db: Db, username: str | None, since_day: int | None, *, after: int, limit: int | None
) -> list[ServerUsage]:
    """Return usage by server, most first: of one user or of all, since a day or for ever."""
    # A user has one series on a server, port and protocol: to count series is to count users.
    rows = db.execute(
        "SELECT server, port, protocol, sum(upload_bytes), sum(download_bytes), "
        "sum(billed_bytes), sum(connections), count(*), max(last_used_at) "
        f"FROM ({_source(username, since_day)}) AS found GROUP BY server, port, protocol "
        "ORDER BY sum(upload_bytes + download_bytes) DESC, server, port, protocol "
        "LIMIT %(limit)s OFFSET %(after)s",
        {"username": username, "since": since_day, "after": after, "limit": limit},
    )
    return [ServerUsage(*row[:3], *map(int, row[3:])) for row in rows]


def sums_of_user(db: Db, username: str, since_day: int | None) -> UsageSums:
    """Return the sums over all servers of a user, since a day or for ever."""
    return _sums_of(db, _source(username, since_day), {"username": username, "since": since_day})


def sums_of_server(db: Db, server: str, port: int, since_day: int | None) -> UsageSums:
    """Return the sums over all users of a server, since a day or for ever."""
    source = (
        f"SELECT * FROM ({_source(None, since_day)}) AS every "
        "WHERE server = %(server)s AND port = %(port)s"
    )
    return _sums_of(db, source, {"server": server, "port": port, "since": since_day})


def _sums_of(db: Db, source: str, parameters: Mapping[str, object]) -> UsageSums:
    row = db.execute(
        "SELECT count(*), count(DISTINCT username), coalesce(sum(upload_bytes), 0), "
        "coalesce(sum(download_bytes), 0), coalesce(sum(billed_bytes), 0), "
        f"coalesce(sum(connections), 0) FROM ({source}) AS found",
        parameters,
    ).fetchone()
    return UsageSums(*map(int, row or ()))


def _source(username: str | None, since_day: int | None) -> str:
    """Return the query for the series of one user or of all, since a day or for ever."""
    if since_day is None:
        return _ALL_SERIES if username is None else _SERIES_OF_USER
    return _SERIES_SINCE if username is None else _SERIES_OF_USER_SINCE


def days_of_server(db: Db, server: str, port: int, since_day: int) -> list[DailyUsage]:
    """Return a server's usage by day, oldest first."""
    rows = db.execute(
        "SELECT u.day, sum(u.upload_bytes), sum(u.download_bytes), "
        "count(DISTINCT s.username) "
        "FROM usage_day AS u JOIN series AS s ON s.id = u.series_id "
        f"WHERE s.server = %s AND s.port = %s AND u.day >= %s AND {_IN_USE} "
        "GROUP BY u.day ORDER BY u.day",
        (server, port, since_day),
    )
    return [DailyUsage(*map(int, row)) for row in rows]


def summary(db: Db, since_day: int | None) -> Summary:
    """Return the sums over everything, since a day or for ever."""
    source = _ALL_SERIES if since_day is None else _SERIES_SINCE
    row = db.execute(
        "SELECT count(DISTINCT username), count(DISTINCT server || chr(31) || port), "
        "count(DISTINCT protocol), coalesce(sum(upload_bytes), 0), "
        "coalesce(sum(download_bytes), 0), coalesce(sum(billed_bytes), 0), "
        "coalesce(sum(connections), 0), "
        f"coalesce(sum(reports), 0) FROM ({source}) AS found",
        {"since": since_day},
    ).fetchone()
    return Summary(*map(int, row or ()))


def facts(db: Db, name: str) -> Facts:
    """Return the ledger's size and counts."""
    # Reports are numbered and kept without gaps; counting them would read them all.
    row = db.execute(
        "SELECT (SELECT coalesce(max(f.seq) - min(g.first_seq + g.purged) + 1, 0) "
        "FROM folded AS f, (SELECT first_seq, purged FROM report_group "
        "WHERE first_seq IS NOT NULL ORDER BY first_seq LIMIT 1) AS g), "
        "(SELECT coalesce(sum(reports), 0) FROM report_group WHERE first_seq IS NULL), "
        "(SELECT count(*) FROM usage_day), count(*), "
        "coalesce(sum(upload_bytes + corrected_upload_bytes), 0), "
        "coalesce(sum(download_bytes + corrected_download_bytes), 0), "
        "coalesce(sum(billed_bytes + corrected_billed_bytes), 0), "
        "(SELECT count(*) FROM (SELECT DISTINCT server, port FROM series WHERE reports > 0) AS s), "
        "(SELECT value FROM meta WHERE key = 'ledger_id') FROM user_total"
    ).fetchone()
    *numbers, ledger_id = row or ()
    numbered, unfolded, day_rows, users, up, down, billed, servers = map(int, numbers)
    return Facts(
        location=name,
        ledger_id=str(ledger_id),
        records=numbered + unfolded,
        day_rows=day_rows,
        users=users,
        servers=servers,
        upload_bytes=up,
        download_bytes=down,
        billed_bytes=billed,
        size_bytes=_size_bytes(db),
    )


def _size_bytes(db: Db) -> int:
    """Return what the tables take; 0 for an engine that cannot say."""
    query = (
        "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class AS c "
        "JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relkind = 'r'"
    )
    with suppress(pg.UndefinedFunction, pg.FeatureNotSupported), db.transaction():
        row = db.execute(query, (SCHEMA,)).fetchone()
        return 0 if row is None else int(row[0])
    return 0


def audit(db: Db) -> Audit:
    """Compare the sums of users, series, days and kept reports with each other."""
    sums = "coalesce(sum(upload_bytes + download_bytes), 0), coalesce(sum(billed_bytes), 0)"
    reports_too = f"{sums}, coalesce(sum(reports), 0)"
    user_bytes, user_billed, reports = _row(db, f"SELECT {reports_too} FROM user_total")
    series_bytes, series_billed, series_reports = _row(db, f"SELECT {reports_too} FROM series")
    day_bytes, day_billed = _row(db, f"SELECT {sums} FROM usage_day")
    folded, folded_billed, seq = _row(db, "SELECT raw_bytes, billed_bytes, seq FROM folded")
    (unfolded,) = _row(
        db,
        "SELECT coalesce(sum(reports), 0) FROM report_group WHERE first_seq IS NULL",
    )
    corrected = postgres_corrected.sums(db)
    counted = Sums(user_bytes, user_billed, reports)
    users = counted.plus(corrected.added)
    series = Sums(series_bytes, series_billed, series_reports)
    problems = disagreements(users, series, what="series")
    running = Sums(folded, folded_billed, seq - corrected.lines)
    problems += disagreements(counted, running, what="the running sum")
    problems += disagreements_of_days(
        counted, corrected, raw_bytes=day_bytes, billed_bytes=day_billed
    )
    problems += disagreements_of_corrections(corrected)
    problems += _lost_rows(db)
    return Audit(
        problems,
        users.raw_bytes,
        series_bytes,
        day_bytes,
        users.billed_bytes,
        users.reports,
        unfolded,
        corrected.lines,
        corrected.added.raw_bytes,
        corrected.added.billed_bytes,
    )


def _lost_rows(db: Db) -> list[str]:
    """Look for reports and days without their series, and groups without their reports."""
    problems = []
    for what, query in (
        (
            "reports without a series",
            "SELECT count(*) FROM report AS r LEFT JOIN series AS s ON s.id = r.series_id "
            "WHERE s.id IS NULL",
        ),
        (
            "days without a series",
            "SELECT count(*) FROM usage_day AS d LEFT JOIN series AS s ON s.id = d.series_id "
            "WHERE s.id IS NULL",
        ),
        (
            "reports too many or too few in their groups",
            "SELECT coalesce(sum(abs(g.reports - g.purged - coalesce(r.kept, 0))), 0) "
            "FROM report_group AS g LEFT JOIN (SELECT group_id, count(*) AS kept FROM report "
            "GROUP BY group_id) AS r ON r.group_id = g.id",
        ),
    ):
        (count,) = _row(db, query)
        if count:
            problems.append(f"{count} {what}")
    return problems


def _row(db: Db, query: str) -> tuple[int, ...]:
    """Return whole numbers: sums beyond 2^63 come as decimals."""
    return tuple(map(int, db.execute(query).fetchone() or ()))
