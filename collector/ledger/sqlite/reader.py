"""The reading side of an SQLite ledger: beside the writer, never in its way."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

from collector.ledger import Backlog, Changes, DayRow, DeadLetter, ExportState, ReportRow, UserTotal
from collector.ledger.corrections import (
    CorrectedSum,
    Correction,
    Stretch,
    Sums,
    VoidPreview,
    Wanted,
    disagreements,
    disagreements_of_corrections,
    disagreements_of_days,
)
from collector.ledger.sqlite import export as sqlite_export
from collector.ledger.sqlite import runs as sqlite_runs
from collector.ledger.sqlite import series as sqlite_series
from collector.ledger.sqlite.administration import corrected as sqlite_corrected
from collector.ledger.sqlite.administration import corrections as sqlite_corrections
from collector.ledger.sqlite.administration import reporters as sqlite_reporters
from collector.ledger.sqlite.administration import senders as sqlite_senders
from collector.ledger.sqlite.file import connect
from collector.ledger.sqlite.fold import folded_seq
from collector.ledger.sqlite.key_index import seqs_of
from collector.ledger.sqlite.sums import sum_of, whole
from collector.ledger.statistics_values import (
    Audit,
    DailyUsage,
    Facts,
    IdleSeries,
    ServerUsage,
    Summary,
    UsageSums,
)
from collector.reports.billing import Ratio
from collector.reports.reporters import Configured, Reporter
from collector.reports.sender_days import SenderBytes
from collector.reports.server_bounds import Place
from collector.reports.spikes import BusyHour

# Of a series all of whose reports were voided nothing is left to be shown.
_IN_USE = "(u.reports > 0 OR u.upload_bytes <> 0 OR u.download_bytes <> 0)"
_ALL_SERIES = f"SELECT * FROM series AS u WHERE {_IN_USE}"
_SERIES_OF_USER = f"SELECT * FROM series AS u WHERE username = :username AND {_IN_USE}"
_DAYS_SUMS = (
    "sum(u.upload_bytes) AS upload_bytes, sum(u.download_bytes) AS download_bytes, "
    "sum(u.billed_bytes) AS billed_bytes, sum(u.connections) AS connections, "
    "sum(u.reports) AS reports, max(u.last_used_at) AS last_used_at"
)
_SERIES_SINCE = f"""
    SELECT s.username, s.server, s.port, s.protocol, d.* FROM (
        SELECT u.series_id, {_DAYS_SUMS} FROM usage_day AS u WHERE u.day >= :since AND {_IN_USE}
        GROUP BY u.series_id
    ) AS d JOIN series AS s ON s.id = d.series_id
"""
# Days are ordered before series: a user's few rows are looked up day by day, and not searched for
# among everybody's. The plus keeps SQLite from walking through all series to have them in order.
_SERIES_OF_USER_SINCE = f"""
    WITH RECURSIVE listed (day) AS (
        SELECT max(:since, (SELECT min(day) FROM usage_day))
        UNION ALL SELECT day + 1 FROM listed WHERE day < (SELECT max(day) FROM usage_day)
    )
    SELECT s.username, s.server, s.port, s.protocol, {_DAYS_SUMS}
    FROM series AS s CROSS JOIN listed CROSS JOIN usage_day AS u
    WHERE s.username = :username AND u.day = listed.day AND u.series_id = s.id AND {_IN_USE}
    GROUP BY +s.id
"""
_THREE_SUMS = ", ".join(map(sum_of, ("upload_bytes", "download_bytes", "billed_bytes")))
_NET_SUMS = ", ".join(
    sum_of(f"{each} + corrected_{each}")
    for each in ("upload_bytes", "download_bytes", "billed_bytes")
)


class SqliteReader:
    """Reads a ledger file; one connection per thread that asks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._guard = threading.Lock()

    @property
    def _db(self) -> sqlite3.Connection:
        db: sqlite3.Connection | None = getattr(self._local, "db", None)
        if db is None:
            db = self._local.db = connect(self._path, read_only=True)
            with self._guard:
                self._opened.append(db)
        return db

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._guard:
            for db in self._opened:
                db.close()
            self._opened.clear()
        self._local = threading.local()

    def changes(self, *, after: int, limit: int) -> Changes:
        """Return the users changed after a seq, as of one moment."""
        db = self._db
        db.execute("BEGIN")
        try:
            head = folded_seq(db)
            rows = db.execute(
                "SELECT username, upload_bytes, download_bytes, billed_bytes, reports, "
                "last_used_at, change_seq, corrected_upload_bytes, corrected_download_bytes, "
                "corrected_billed_bytes, corrected_seq FROM user_total WHERE change_seq > ? "
                "ORDER BY change_seq LIMIT ?",
                (after, limit),
            ).fetchall()
            runs = sqlite_runs.runs_since(db, after)
        finally:
            db.execute("COMMIT")
        return Changes(
            ledger_id=self._ledger_id(),
            head=head,
            changes=[UserTotal(*each) for each in rows],
            runs=runs,
        )

    def _ledger_id(self) -> str:
        query = "SELECT value FROM meta WHERE key = 'ledger_id'"
        return str(self._db.execute(query).fetchone()[0])

    def configured(self) -> list[Configured]:
        """Return the keys of collectors' environments."""
        return sqlite_reporters.configured(self._db)

    def reporters(self) -> list[Reporter]:
        """Return all reporters by name, revoked ones too."""
        return sqlite_reporters.reporters(self._db)

    def ratios(self) -> list[Ratio]:
        """Return the ratios that are set, by server."""
        rows = self._db.execute("SELECT server, ratio_millis, set_at FROM ratio ORDER BY server")
        return [Ratio(*row) for row in rows]

    def corrections(self, *, limit: int) -> list[Correction]:
        """Return the newest corrections first."""
        return sqlite_corrected.corrections(self._db, limit=limit)

    def open_correction(self) -> Correction | None:
        """Return the oldest correction that is not carried out to its end."""
        return sqlite_corrections.open_correction(self._db)

    def preview(self, wanted: Wanted) -> VoidPreview:
        """Work out what a void would take now, from whom."""
        return sqlite_corrected.preview(self._db, wanted)

    def corrected_sum(self, stretch: Stretch) -> CorrectedSum:
        """Return what corrections added to a user within a stretch, and what is of a period."""
        return sqlite_corrected.corrected_sum(self._db, stretch)

    def last_reports(self) -> dict[str, int]:
        """Return when the newest report that is still kept came from each sender, by its scope."""
        query = "SELECT reporter, max(received_at) FROM report GROUP BY reporter"
        return dict(self._db.execute(query).fetchall())

    def sender_bytes(self, sender: str, *, hour: int) -> SenderBytes:
        """Return what a sender reported in an hour and its day, as of one moment."""
        db = self._db
        db.execute("BEGIN")
        try:
            return sqlite_senders.bytes_of(db, sender, hour=hour, folded_seq=folded_seq(db))
        finally:
            db.execute("COMMIT")

    def busy_hours(self, *, days: Sequence[int], above_bytes: int, limit: int) -> list[BusyHour]:
        """Return the senders with an hour of more than so many bytes on some days."""
        return sqlite_senders.busy_hours(self._db, days=days, above_bytes=above_bytes, limit=limit)

    def sender_places(self, sender: str, *, day: int) -> list[Place]:
        """Return the servers, ports and protocols that a sender named on a day."""
        return sqlite_senders.places_of(self._db, sender, day=day)

    def first_received_at(self, keys: Sequence[bytes]) -> int | None:
        """Return when the first of the reports with these keys came, None when there is none.

        Reports that are in no sum yet are not found.
        """
        seqs = [seq for _, seq in seqs_of(self._db, keys)]
        if not seqs:
            return None
        query = "SELECT received_at FROM report WHERE seq = ?"
        row = self._db.execute(query, (min(seqs),)).fetchone()
        return None if row is None else int(row[0])

    def reports_after(self, seq: int, *, limit: int) -> list[ReportRow]:
        """Return the reports after a seq, in order."""
        rows = self._db.execute(
            "SELECT r.seq, username, server, port, protocol, r.upload_bytes, r.download_bytes, "
            "coalesce(r.billed_bytes, r.upload_bytes + r.download_bytes), r.connections, "
            "reported_at, l.voids_seq FROM report AS r JOIN series AS s ON s.id = r.series_id "
            "LEFT JOIN correction_line AS l ON l.seq = r.seq "
            "WHERE r.seq > ? ORDER BY r.seq LIMIT ?",
            (seq, limit),
        )
        return [ReportRow(*row) for row in rows]

    def days_after(self, change_seq: int, *, limit: int) -> list[DayRow]:
        """Return the days' sums that changed after a seq, in the order of their last change."""
        rows = self._db.execute(
            "SELECT change_seq, day, username, server, port, protocol, d.upload_bytes, "
            "d.download_bytes, d.billed_bytes, d.connections, d.reports, d.last_used_at "
            "FROM usage_day AS d JOIN series AS s ON s.id = d.series_id "
            "WHERE change_seq > ? ORDER BY change_seq LIMIT ?",
            (change_seq, limit),
        )
        return [DayRow(*row) for row in rows]

    def export_state(self, stream: str) -> ExportState:
        """Return how far an export is."""
        return sqlite_export.state_of(self._db, stream)

    def backlog(self, stream: str) -> Backlog:
        """Return what an export has still before it."""
        return sqlite_export.backlog_of(self._db, stream)

    def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        """Return the newest dead letters first."""
        return sqlite_export.dead_letters(self._db, limit=limit)

    def servers_of(
        self,
        username: str | None,
        *,
        since_day: int | None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[ServerUsage]:
        """Return usage by server, most first: of one user or of all, since a day or for ever."""
        # A user has one series on a server, port and protocol: to count series is to count users.
        rows = self._db.execute(
            f"SELECT server, port, protocol, {_THREE_SUMS}, sum(connections), count(*), "
            f"max(last_used_at) FROM ({_source(username, since_day)}) "
            "GROUP BY server, port, protocol "
            "ORDER BY total(upload_bytes + download_bytes) DESC, server, port, protocol "
            "LIMIT :limit OFFSET :after",
            {
                "username": username,
                "since": since_day,
                "after": after,
                "limit": -1 if limit is None else limit,
            },
        )
        return [ServerUsage(*row[:3], *map(whole, row[3:6]), *row[6:]) for row in rows]

    def idle_series(self, *, kept_per_user: int, limit: int) -> list[IdleSeries]:
        """Return series that no kept report and no day refers to."""
        return sqlite_series.idle(self._db, kept_per_user=kept_per_user, limit=limit)

    def sums_of_user(self, username: str, *, since_day: int | None) -> UsageSums:
        """Return the sums over all servers of a user, since a day or for ever."""
        source = _source(username, since_day)
        return self._sums(source, {"username": username, "since": since_day})

    def sums_of_server(self, server: str, port: int, *, since_day: int | None) -> UsageSums:
        """Return the sums over all users of a server, since a day or for ever."""
        source = (
            f"SELECT * FROM ({_source(None, since_day)}) WHERE server = :server AND port = :port"
        )
        return self._sums(source, {"server": server, "port": port, "since": since_day})

    def _sums(self, source: str, parameters: dict[str, object]) -> UsageSums:
        series, users, *sums, connections = self._db.execute(
            f"SELECT count(*), count(DISTINCT username), {_THREE_SUMS}, "
            f"coalesce(sum(connections), 0) FROM ({source})",
            parameters,
        ).fetchone()
        up, down, billed = map(whole, sums)
        return UsageSums(series, users, up, down, billed, connections)

    def days_of_server(self, server: str, port: int, *, since_day: int) -> list[DailyUsage]:
        """Return a server's usage by day, oldest first."""
        rows = self._db.execute(
            f"SELECT u.day, {sum_of('u.upload_bytes')}, {sum_of('u.download_bytes')}, "
            "count(DISTINCT s.username) FROM usage_day AS u JOIN series AS s ON s.id = u.series_id "
            f"WHERE s.server = ? AND s.port = ? AND u.day >= ? AND {_IN_USE} "
            "GROUP BY u.day ORDER BY u.day",
            (server, port, since_day),
        )
        return [DailyUsage(day, whole(up), whole(down), users) for day, up, down, users in rows]

    def summary(self, *, since_day: int | None) -> Summary:
        """Return the sums over everything, since a day or for ever."""
        source = _ALL_SERIES if since_day is None else _SERIES_SINCE
        row = self._db.execute(
            "SELECT count(DISTINCT username), count(DISTINCT server || char(31) || port), "
            f"count(DISTINCT protocol), {_THREE_SUMS}, "
            f"coalesce(sum(connections), 0), coalesce(sum(reports), 0) FROM ({source})",
            {"since": since_day},
        ).fetchone()
        return Summary(*row[:3], *map(whole, row[3:6]), *row[6:])

    def facts(self) -> Facts:
        """Return the ledger's size and counts."""
        db = self._db
        # Reports are numbered and kept without gaps; counting them would read them all.
        records, day_rows, users, *sums, servers = db.execute(
            "SELECT coalesce((SELECT max(seq) FROM report) - (SELECT min(seq) FROM report) + 1, 0),"
            f" (SELECT count(*) FROM usage_day), count(*), {_NET_SUMS}, "
            "(SELECT count(*) FROM (SELECT DISTINCT server, port FROM series WHERE reports > 0)) "
            "FROM user_total"
        ).fetchone()
        upload_bytes, download_bytes, billed_bytes = map(whole, sums)
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        page_bytes = db.execute("PRAGMA page_size").fetchone()[0]
        return Facts(
            location=self._path.name,
            ledger_id=self._ledger_id(),
            records=records,
            day_rows=day_rows,
            users=users,
            servers=servers,
            upload_bytes=upload_bytes,
            download_bytes=download_bytes,
            billed_bytes=billed_bytes,
            size_bytes=pages * page_bytes,
        )

    def audit(self) -> Audit:
        """Check the file and compare the sums of users, series and days with each other."""
        db = self._db
        problems = [str(row[0]) for row in db.execute("PRAGMA integrity_check(20)")]
        if problems == ["ok"]:
            problems = []
        user_bytes, user_billed, reports = _sums_of(db, "user_total")
        series_bytes, series_billed, series_reports = _sums_of(db, "series")
        day_bytes, day_billed, _ = _sums_of(db, "usage_day")
        corrected = sqlite_corrected.sums(db)
        counted = Sums(user_bytes, user_billed, reports)
        users = counted.plus(corrected.added)
        series = Sums(series_bytes, series_billed, series_reports)
        problems += disagreements(users, series, what="series")
        problems += disagreements_of_days(
            counted, corrected, raw_bytes=day_bytes, billed_bytes=day_billed
        )
        problems += disagreements_of_corrections(corrected)
        query = "SELECT count(*) FROM report WHERE seq > ?"
        unfolded = db.execute(query, (folded_seq(db),)).fetchone()[0]
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


def _sums_of(db: sqlite3.Connection, table: str) -> tuple[int, int, int]:
    """Return the raw and the billed bytes of a table, and its reports."""
    raw, billed, reports = db.execute(
        f"SELECT {sum_of('upload_bytes + download_bytes')}, {sum_of('billed_bytes')}, "
        f"coalesce(sum(reports), 0) FROM {table}"
    ).fetchone()
    return whole(raw), whole(billed), reports


def _source(username: str | None, since_day: int | None) -> str:
    """Return the query for the series of one user or of all, since a day or for ever."""
    if since_day is None:
        return _ALL_SERIES if username is None else _SERIES_OF_USER
    return _SERIES_SINCE if username is None else _SERIES_OF_USER_SINCE
