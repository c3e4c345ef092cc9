"""Statistics of a ledger: sums by server and day, row counts, and the audit of sums."""

from __future__ import annotations

from collections.abc import Mapping

from collector.ledger.corrections import (
    Corrected,
    Sums,
    disagreements,
    disagreements_of_corrections,
    disagreements_of_days,
)
from collector.ledger.sql import corrected as sql_corrected
from collector.ledger.sql.database import BYTE_ORDER, NO_LIMIT, Database, one_row, whole
from collector.ledger.statistics_values import (
    Audit,
    DailyUsage,
    Facts,
    ServerUsage,
    Summary,
    UsageSums,
)

# Series without bytes are left out: those of a commit that failed, or with only voided reports.
_IN_USE = "(u.reports > 0 OR u.upload_bytes <> 0 OR u.download_bytes <> 0)"
_ALL_SERIES = f"SELECT * FROM series AS u WHERE {_IN_USE}"
_SERIES_OF_USER = f"SELECT * FROM series AS u WHERE username = :username AND {_IN_USE}"
_DAYS_SUMS = """
    CAST(sum(u.upload_bytes) AS bigint) AS upload_bytes,
    CAST(sum(u.download_bytes) AS bigint) AS download_bytes,
    CAST(sum(u.billed_bytes) AS bigint) AS billed_bytes,
    CAST(sum(u.connections) AS bigint) AS connections,
    CAST(sum(u.reports) AS bigint) AS reports, max(u.last_used_at) AS last_used_at
"""
_SERIES_SINCE = f"""
    SELECT s.username, s.server, s.port, s.protocol, d.* FROM (
        SELECT u.series_id, {_DAYS_SUMS} FROM usage_day AS u WHERE u.day >= :since AND {_IN_USE}
        GROUP BY u.series_id
    ) AS d JOIN series AS s ON s.id = d.series_id
"""
# The CROSS order makes SQLite look up a user's few rows by day, instead of searching all rows. The
# plus keeps SQLite from scanning all series to get them sorted.
_SERIES_OF_USER_SINCE = f"""
    WITH RECURSIVE listed (day) AS (
        SELECT max(day) FROM (
            SELECT CAST(:since AS int) AS day UNION ALL SELECT min(day) FROM usage_day
        ) AS firsts
        UNION ALL SELECT day + 1 FROM listed WHERE day < (SELECT max(day) FROM usage_day)
    )
    SELECT s.username, s.server, s.port, s.protocol, {_DAYS_SUMS}
    FROM series AS s CROSS JOIN listed CROSS JOIN usage_day AS u
    WHERE s.username = :username AND u.day = listed.day AND u.series_id = s.id AND {_IN_USE}
    GROUP BY +s.id, s.username, s.server, s.port, s.protocol
"""
_AMOUNTS = ("upload_bytes", "download_bytes", "billed_bytes")
_CONNECTIONS = "CAST(coalesce(sum(connections), 0) AS bigint)"


def _three_sums(db: Database) -> str:
    return ", ".join(map(db.dialect.sum_of, _AMOUNTS))


def servers_of(
    db: Database,
    username: str | None,
    *,
    since_day: int | None,
    after: int = 0,
    limit: int | None = None,
) -> list[ServerUsage]:
    """Return usage by server, most first: of one user or of all, since a day or of all time."""
    # A user has one series on a server, port and protocol: to count series is to count users.
    rows = db.rows(
        f"SELECT server, port, protocol, {_three_sums(db)}, {_CONNECTIONS}, count(*), "
        f"max(last_used_at) FROM ({_source(username, since_day)}) AS found "
        "GROUP BY server, port, protocol "
        f"ORDER BY {db.dialect.largest_first}, server {BYTE_ORDER}, port, "
        f"protocol {BYTE_ORDER} LIMIT :limit OFFSET :after",
        {
            "username": username,
            "since": since_day,
            "after": after,
            "limit": NO_LIMIT if limit is None else limit,
        },
    )
    return [ServerUsage(*row[:3], *map(whole, row[3:6]), *row[6:]) for row in rows]


def sums_of_user(db: Database, username: str, *, since_day: int | None) -> UsageSums:
    """Return the sums over all servers of a user, since a day or of all time."""
    return _sums_of(db, _source(username, since_day), {"username": username, "since": since_day})


def sums_of_server(db: Database, server: str, port: int, *, since_day: int | None) -> UsageSums:
    """Return the sums over all users of a server, since a day or of all time."""
    source = (
        f"SELECT * FROM ({_source(None, since_day)}) AS every "
        "WHERE server = :server AND port = :port"
    )
    return _sums_of(db, source, {"server": server, "port": port, "since": since_day})


def _sums_of(db: Database, source: str, values: Mapping[str, object]) -> UsageSums:
    series, users, up, down, billed, connections = one_row(
        db,
        f"SELECT count(*), count(DISTINCT username), {_three_sums(db)}, {_CONNECTIONS} "
        f"FROM ({source}) AS found",
        values,
    )
    return UsageSums(series, users, whole(up), whole(down), whole(billed), connections)


def _source(username: str | None, since_day: int | None) -> str:
    """Return the query for the series of one user or of all, since a day or of all time."""
    if since_day is None:
        return _ALL_SERIES if username is None else _SERIES_OF_USER
    return _SERIES_SINCE if username is None else _SERIES_OF_USER_SINCE


def days_of_server(db: Database, server: str, port: int, *, since_day: int) -> list[DailyUsage]:
    """Return a server's usage by day, oldest first."""
    sum_of = db.dialect.sum_of
    rows = db.rows(
        f"SELECT u.day, {sum_of('u.upload_bytes')}, {sum_of('u.download_bytes')}, "
        "count(DISTINCT s.username) FROM usage_day AS u JOIN series AS s ON s.id = u.series_id "
        f"WHERE s.server = :server AND s.port = :port AND u.day >= :since AND {_IN_USE} "
        "GROUP BY u.day ORDER BY u.day",
        {"server": server, "port": port, "since": since_day},
    )
    return [DailyUsage(day, whole(up), whole(down), users) for day, up, down, users in rows]


def summary(db: Database, *, since_day: int | None) -> Summary:
    """Return the sums of all users on all servers, since a day or of all time."""
    row = one_row(
        db,
        "SELECT count(DISTINCT username), count(DISTINCT port || ':' || server), "
        f"count(DISTINCT protocol), {_three_sums(db)}, {_CONNECTIONS}, "
        f"CAST(coalesce(sum(reports), 0) AS bigint) FROM ({_source(None, since_day)}) AS found",
        {"since": since_day},
    )
    return Summary(*row[:3], *map(whole, row[3:6]), *row[6:])


def facts(db: Database, *, location: str, size_bytes: int) -> Facts:
    """Return the ledger's size and counts."""
    # Stored numbers have no gaps, so the count is a difference; counting would read all rows.
    dialect = db.dialect
    net_sums = ", ".join(dialect.sum_of(f"{each} + corrected_{each}") for each in _AMOUNTS)
    records, ledger_id, day_rows, users, up, down, billed, servers = one_row(
        db,
        f"SELECT coalesce({dialect.last_seq} - {dialect.first_seq} + 1, 0) "
        f"+ {dialect.unnumbered_reports}, (SELECT value FROM meta WHERE key = 'ledger_id'), "
        f"(SELECT count(*) FROM usage_day), count(*), {net_sums}, (SELECT count(*) FROM "
        "(SELECT DISTINCT server, port FROM series WHERE reports > 0) AS s) FROM user_total",
    )
    return Facts(
        location=location,
        ledger_id=str(ledger_id),
        records=int(records),
        day_rows=day_rows,
        users=users,
        servers=servers,
        upload_bytes=whole(up),
        download_bytes=whole(down),
        billed_bytes=whole(billed),
        size_bytes=size_bytes,
    )


class Compared:
    """Compares the sums of users, series and days, from one snapshot."""

    def __init__(self, db: Database) -> None:
        self.corrected: Corrected = sql_corrected.sums(db)
        self.counted = sums_of_users(db)
        self.users = self.counted.plus(self.corrected.added)
        self.series = _sums(db, "series", reports="reports")
        self.days = _sums(db, "usage_day", reports="0")
        dialect = db.dialect
        (unfolded,) = one_row(
            db, f"SELECT {dialect.last_seq} - {dialect.folded_seq} + {dialect.unnumbered_reports}"
        )
        self.unfolded = int(unfolded)

    def audit(self, engine_problems: list[str]) -> Audit:
        """Return the audit: the engine's problems, then the sums that disagree."""
        problems = [*engine_problems, *disagreements(self.users, self.series, what="series")]
        problems += disagreements_of_days(
            self.counted,
            self.corrected,
            raw_bytes=self.days.raw_bytes,
            billed_bytes=self.days.billed_bytes,
        )
        problems += disagreements_of_corrections(self.corrected)
        return Audit(
            problems,
            self.users.raw_bytes,
            self.series.raw_bytes,
            self.days.raw_bytes,
            self.users.billed_bytes,
            self.users.reports,
            self.unfolded,
            self.corrected.lines,
            self.corrected.added.raw_bytes,
            self.corrected.added.billed_bytes,
        )


def sums_of_users(db: Database) -> Sums:
    """Return the sums of all users of all time, without corrections."""
    return _sums(db, "user_total", reports="reports")


def _sums(db: Database, table: str, *, reports: str) -> Sums:
    sum_of = db.dialect.sum_of
    raw, billed, count = one_row(
        db,
        f"SELECT {sum_of('upload_bytes + download_bytes')}, {sum_of('billed_bytes')}, "
        f"CAST(coalesce(sum({reports}), 0) AS bigint) FROM {table}",
    )
    return Sums(whole(raw), whole(billed), count)
