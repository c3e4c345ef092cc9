"""The reading side of a PostgreSQL ledger: a pool of connections, for any number of threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from collector.errors import LedgerUnavailableError, NotStoredError
from collector.ledger import (
    Backlog,
    Changes,
    DayRow,
    DeadLetter,
    ExportState,
    ReportRow,
    Run,
    UserTotal,
)
from collector.ledger.corrections import (
    CorrectedSum,
    Correction,
    Stretch,
    VoidPreview,
    Wanted,
)
from collector.ledger.postgres import export as postgres_export
from collector.ledger.postgres import numbering as postgres_fold
from collector.ledger.postgres import series as postgres_series
from collector.ledger.postgres import statistics as postgres_statistics
from collector.ledger.postgres.administration import corrected as postgres_corrected
from collector.ledger.postgres.administration import corrections as postgres_corrections
from collector.ledger.postgres.administration import names as postgres_names
from collector.ledger.postgres.administration import senders as postgres_senders
from collector.ledger.postgres.link import (
    PATIENT_ANSWER_SECONDS,
    Db,
    conninfo_of,
    name_of,
    prepare_session,
    run_in,
    translate,
)
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
from collector.runtime.postgres.connection import ANSWER_SECONDS, BoundedConnection, text_of
from collector.runtime.postgres.link import PING_SECONDS
from collector.runtime.postgres.session import commits_waiting

T = TypeVar("T")

MAX_CONNECTIONS = 8
GET_SECONDS = 2.0
AGAIN_SECONDS = 5.0
"""The same where the server was there a moment ago: another may be about to take its place."""
CATCH_UP_SECONDS = 5.0
POLL_SECONDS = 0.02


class PostgresReader:
    """Reads a ledger. Raises LedgerUnavailableError while its server cannot be reached."""

    def __init__(self, url: str) -> None:
        self.name = name_of(url)
        self._is_away = False
        self._problem: str | None = None
        self._pool: ConnectionPool[BoundedConnection] = ConnectionPool(
            conninfo_of(url),
            connection_class=BoundedConnection,
            kwargs={"autocommit": True},
            min_size=1,
            max_size=MAX_CONNECTIONS,
            configure=self._prepare,
            timeout=GET_SECONDS,
            # Who asks next tries anew: an attempt that is left to itself waits longer each time.
            reconnect_timeout=GET_SECONDS,
            open=True,
            name="ledger-reader",
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def _ask(
        self, work: Callable[[Db], T], *, is_snapshot: bool = False, is_long: bool = False
    ) -> T:
        """Read; what reads through a whole table may take longer than what reports wait for.

        A connection that is lost meanwhile is followed by another one, for some seconds.
        """
        until_seconds = time.monotonic() + (GET_SECONDS if self._is_away else AGAIN_SECONDS)
        while True:
            wait_seconds = max(GET_SECONDS, until_seconds - time.monotonic())
            db: BoundedConnection | None = None
            try:
                with self._pool.connection(timeout=wait_seconds) as db:
                    db.answer_seconds = PING_SECONDS
                    db.execute("")  # where it was cut off, the next one is asked at once
                    db.answer_seconds = PATIENT_ANSWER_SECONDS if is_long else ANSWER_SECONDS
                    found = run_in(db, work, is_snapshot=True) if is_snapshot else work(db)
            except PoolTimeout as error:
                self._is_away = True
                why = f": {self._problem}" if self._problem else ""
                raise LedgerUnavailableError(
                    f"the ledger {self.name} cannot be reached{why}"
                ) from error
            except (psycopg.Error, NotStoredError) as error:
                if db is None or not db.closed or time.monotonic() >= until_seconds:
                    raise translate(error, self.name) from error
            else:
                self._is_away = False
                return found

    def _prepare(self, db: BoundedConnection) -> None:
        try:
            prepare_session(db, seconds=PATIENT_ANSWER_SECONDS)
        except psycopg.Error as error:
            self._problem = text_of(error)
            db.close()
            raise
        self._problem = None

    def commits_waiting(self) -> int:
        """Return how many commits have waited for a synchronous standby for seconds."""
        return self._ask(commits_waiting)

    def await_sums(self) -> None:
        """Return once all that is stored now is in the sums, whoever adds it up.

        Raises NotStoredError when nobody does in time.
        """
        ids = self._ask(postgres_fold.unfolded_ids)
        until_seconds = time.monotonic() + CATCH_UP_SECONDS
        is_left = bool(ids)
        while is_left:
            is_left = self._ask(lambda db: postgres_fold.is_any_unfolded(db, ids))
            if is_left and time.monotonic() > until_seconds:
                raise NotStoredError("reports are stored, and not added up now; ask again")
            if is_left:
                time.sleep(POLL_SECONDS)

    def changes(self, *, after: int, limit: int) -> Changes:
        """Return the users changed after a seq, as of one moment."""
        return self._ask(lambda db: _changes(db, after, limit), is_snapshot=True)

    def configured(self) -> list[Configured]:
        """Return the keys of collectors' environments."""
        return self._ask(postgres_names.configured)

    def reporters(self) -> list[Reporter]:
        """Return all reporters by name, revoked ones too."""
        return self._ask(postgres_names.reporters)

    def ratios(self) -> list[Ratio]:
        """Return the ratios that are set, by server."""
        query = "SELECT server, ratio_millis, set_at FROM ratio ORDER BY server"
        return [Ratio(*row) for row in self._ask(lambda db: db.execute(query).fetchall())]

    def corrections(self, *, limit: int) -> list[Correction]:
        """Return the newest corrections first."""
        return self._ask(lambda db: postgres_corrected.corrections(db, limit=limit))

    def open_correction(self) -> Correction | None:
        """Return the oldest correction that is not carried out to its end."""
        return self._ask(postgres_corrections.open_correction)

    def preview(self, wanted: Wanted) -> VoidPreview:
        """Work out what a void would take now, from whom."""
        return self._ask(
            lambda db: postgres_corrected.preview(db, wanted), is_snapshot=True, is_long=True
        )

    def corrected_sum(self, stretch: Stretch) -> CorrectedSum:
        """Return what corrections added to a user within a stretch, and what is of a period."""
        return self._ask(lambda db: postgres_corrected.corrected_sum(db, stretch), is_snapshot=True)

    def last_reports(self) -> dict[str, int]:
        """Return when the newest report that is still kept came from each sender, by its scope."""
        query = (
            "SELECT scope, received_at FROM heard WHERE received_at >= "
            "(SELECT min(received_at) FROM report_group)"
        )
        return dict(self._ask(lambda db: db.execute(query).fetchall()))

    def sender_bytes(self, sender: str, *, hour: int) -> SenderBytes:
        """Return what a sender reported in an hour and its day, as of one moment."""
        return self._ask(
            lambda db: postgres_senders.bytes_of(db, sender, hour=hour), is_snapshot=True
        )

    def busy_hours(self, *, days: Sequence[int], above_bytes: int, limit: int) -> list[BusyHour]:
        """Return the senders with an hour of more than so many bytes on some days."""
        return self._ask(
            lambda db: postgres_senders.busy_hours(
                db, days=days, above_bytes=above_bytes, limit=limit
            ),
            is_long=True,
        )

    def sender_places(self, sender: str, *, day: int) -> list[Place]:
        """Return the servers, ports and protocols that a sender named on a day."""
        return self._ask(lambda db: postgres_senders.places_of(db, sender, day=day), is_long=True)

    def first_received_at(self, keys: Sequence[bytes]) -> int | None:
        """Return when the first of the reports with these keys came, None when there is none."""
        query = (
            "SELECT min(received_at) FROM report_group WHERE id IN "
            "(SELECT group_id FROM report WHERE report_key = ANY(%s))"
        )
        row = self._ask(lambda db: db.execute(query, (list(keys),)).fetchone())
        return None if row is None else row[0]

    def reports_after(self, seq: int, *, limit: int) -> list[ReportRow]:
        """Return the reports after a seq, in order; those that are numbered."""
        return self._ask(lambda db: _reports_after(db, seq, limit))

    def days_after(self, change_seq: int, *, limit: int) -> list[DayRow]:
        """Return the days' sums that changed after a seq, in the order of their last change."""
        rows = self._ask(
            lambda db: db.execute(
                "SELECT change_seq, day, username, server, port, protocol, d.upload_bytes, "
                "d.download_bytes, d.billed_bytes, d.connections, d.reports, d.last_used_at "
                "FROM usage_day AS d JOIN series AS s ON s.id = d.series_id "
                "WHERE change_seq > %s ORDER BY change_seq LIMIT %s",
                (change_seq, limit),
            ).fetchall()
        )
        return [DayRow(*row) for row in rows]

    def export_state(self, stream: str) -> ExportState:
        """Return how far an export is."""
        return self._ask(lambda db: postgres_export.state_of(db, stream))

    def backlog(self, stream: str) -> Backlog:
        """Return what an export has still before it."""
        return self._ask(lambda db: postgres_export.backlog_of(db, stream))

    def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        """Return the newest dead letters first."""
        return self._ask(lambda db: postgres_export.dead_letters(db, limit=limit))

    def servers_of(
        self,
        username: str | None,
        *,
        since_day: int | None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[ServerUsage]:
        """Return usage by server, most first: of one user or of all, since a day or for ever."""
        return self._ask(
            lambda db: postgres_statistics.servers_of(
                db, username, since_day, after=after, limit=limit
            ),
            is_long=True,
        )

    def idle_series(self, *, kept_per_user: int, limit: int) -> list[IdleSeries]:
        """Return series that no kept report and no day refers to."""
        return self._ask(
            lambda db: postgres_series.idle(db, kept_per_user=kept_per_user, limit=limit),
            is_long=True,
        )

    def sums_of_user(self, username: str, *, since_day: int | None) -> UsageSums:
        """Return the sums over all servers of a user, since a day or for ever."""
        return self._ask(
            lambda db: postgres_statistics.sums_of_user(db, username, since_day), is_long=True
        )

    def sums_of_server(self, server: str, port: int, *, since_day: int | None) -> UsageSums:
        """Return the sums over all users of a server, since a day or for ever."""
        return self._ask(
            lambda db: postgres_statistics.sums_of_server(db, server, port, since_day),
            is_long=True,
        )

    def days_of_server(self, server: str, port: int, *, since_day: int) -> list[DailyUsage]:
        """Return a server's usage by day, oldest first."""
        return self._ask(
            lambda db: postgres_statistics.days_of_server(db, server, port, since_day), is_long=True
        )

    def summary(self, *, since_day: int | None) -> Summary:
        """Return the sums over everything, since a day or for ever."""
        return self._ask(lambda db: postgres_statistics.summary(db, since_day), is_long=True)

    def facts(self) -> Facts:
        """Return the ledger's size and counts."""
        return self._ask(
            lambda db: postgres_statistics.facts(db, self.name), is_snapshot=True, is_long=True
        )

    def audit(self) -> Audit:
        """Compare the sums of users, series and days with each other."""
        return self._ask(postgres_statistics.audit, is_snapshot=True, is_long=True)


def _changes(db: Db, after: int, limit: int) -> Changes:
    ledger_id = db.execute("SELECT value FROM meta WHERE key = 'ledger_id'").fetchone()
    head = postgres_fold.folded_seq(db)
    rows = db.execute(
        "SELECT username, upload_bytes, download_bytes, billed_bytes, reports, last_used_at, "
        "change_seq, corrected_upload_bytes, corrected_download_bytes, corrected_billed_bytes, "
        "corrected_seq FROM user_total WHERE change_seq > %s ORDER BY change_seq LIMIT %s",
        (after, limit),
    ).fetchall()
    runs = db.execute(
        "SELECT after_seq, token FROM run WHERE after_seq >= "
        "coalesce((SELECT max(after_seq) FROM run WHERE after_seq < %s), 0) ORDER BY after_seq",
        (after,),
    ).fetchall()
    return Changes(
        ledger_id=str(ledger_id[0]) if ledger_id else "",
        head=head,
        changes=[UserTotal(*row) for row in rows],
        runs=[Run(*row) for row in runs],
    )


def _reports_after(db: Db, seq: int, limit: int) -> list[ReportRow]:
    """Read from the group that holds the next number on; kept numbers have no gaps."""
    start = db.execute(
        "SELECT first_seq, first_seq + purged FROM report_group "
        "WHERE first_seq >= coalesce("
        "(SELECT max(first_seq) FROM report_group WHERE first_seq <= %(next)s), 0) "
        "AND first_seq + reports > %(next)s ORDER BY first_seq LIMIT 1",
        {"next": seq + 1},
    ).fetchone()
    if start is None:
        return []
    group_seq, first = start[0], max(seq + 1, start[1])
    rows = db.execute(
        "SELECT g.first_seq + r.position AS seq, username, server, port, protocol, r.upload_bytes, "
        "r.download_bytes, coalesce(r.billed_bytes, r.upload_bytes + r.download_bytes), "
        "r.connections, r.reported_at, l.voids_seq FROM report_group AS g "
        "JOIN report AS r ON r.group_id = g.id JOIN series AS s ON s.id = r.series_id "
        "LEFT JOIN correction_line AS l ON l.seq = g.first_seq + r.position "
        "WHERE g.first_seq >= %(group)s AND g.first_seq < %(until)s "
        "AND g.first_seq + r.position >= %(first)s AND g.first_seq + r.position < %(until)s "
        "ORDER BY g.first_seq + r.position",
        {"group": group_seq, "first": first, "until": first + limit},
    )
    return [ReportRow(*row) for row in rows]
