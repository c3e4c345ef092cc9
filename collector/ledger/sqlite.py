"""The writing side of an SQLite ledger: many requests, one commit, one fsync."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from collector.errors import DiskFullError, LedgerError, NotStoredError
from collector.ledger import Batch, Progress, Receipt, sqlite_export
from collector.ledger.sqlite_file import connect, lock
from collector.reports import DAY_MILLIS, MAX_AMOUNT_BYTES, Report
from collector.schema import Policy

KEYS_PER_QUERY = 500
MAX_CACHED_SERIES = 500_000

_SeriesKey = tuple[str, str, int, str]
_Content = tuple[int, int, int]
_Delta = list[int]
"""upload, download, connections, reports, last used, last seq"""


class SqliteLedger:
    """The one writer of a ledger file; not for several threads at once.

    Opening takes the file's lock, checks its integrity and migrates it; LedgerError otherwise.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = lock(path)
        try:
            self._db = connect(path)
            self._check_integrity()
        except BaseException:
            self._lock.close()
            raise
        self._series: dict[_SeriesKey, int] = {}
        self._load()

    def _check_integrity(self) -> None:
        try:
            verdict = self._db.execute("PRAGMA quick_check(3)").fetchone()[0]
        except sqlite3.DatabaseError as error:
            verdict = str(error)
        if verdict != "ok":
            self._db.close()
            raise LedgerError(
                f"the ledger {self.path} is damaged ({verdict}): restore a backup; to begin with "
                "an empty ledger, move the file away yourself"
            )

    def _load(self) -> None:
        """Read what is kept in memory; after a failed commit memory may be ahead of the file."""
        self._series.clear()
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'report'").fetchone()
        self._last_seq: int = row[0] if row else 0
        query = "SELECT coalesce(sum(upload_bytes + download_bytes), 0) FROM user_total"
        self._all_bytes: int = self._db.execute(query).fetchone()[0]

    def close(self) -> None:
        """Close the file and let another process have it."""
        self._db.close()
        self._lock.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                self._db.execute("ROLLBACK")
            with suppress(sqlite3.Error):  # a file that cannot be read now is read at the next try
                self._load()
            if not isinstance(error, (sqlite3.Error, OverflowError, UnicodeError)):
                raise
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise DiskFullError(f"the disk under the ledger {self.path} is full") from error
            raise NotStoredError(f"the ledger {self.path} did not store: {error}") from error

    def record(self, batches: Sequence[Batch], *, received_at_millis: int) -> list[Receipt]:
        """Store all batches in one commit; returns when it is on disk."""
        with self._transaction():
            group = _Group(self._last_seq, self._all_bytes, received_at_millis)
            known = self._known_contents(batches)
            receipts = [self._take(batch, group, known) for batch in batches]
            self._write(group)
        self._last_seq, self._all_bytes = group.last_seq, group.all_bytes
        return receipts

    def _known_contents(self, batches: Sequence[Batch]) -> dict[bytes, _Content]:
        """Look up which of the ids are stored already, and with what content."""
        keys = [
            report.report_key
            for batch in batches
            for report in batch.reports
            if report.report_key is not None
        ]
        known: dict[bytes, _Content] = {}
        for start in range(0, len(keys), KEYS_PER_QUERY):
            page = keys[start : start + KEYS_PER_QUERY]
            marks = ",".join("?" * len(page))
            rows = self._db.execute(
                "SELECT report_key, series_id, upload_bytes, download_bytes FROM report "
                f"WHERE report_key IN ({marks})",
                page,
            )
            known.update((row[0], (row[1], row[2], row[3])) for row in rows)
        return known

    def _take(self, batch: Batch, group: _Group, known: dict[bytes, _Content]) -> Receipt:
        batch_bytes = sum(each.upload_bytes + each.download_bytes for each in batch.reports)
        if group.all_bytes + batch_bytes > MAX_AMOUNT_BYTES:
            return Receipt(accepted=0, duplicates=0, is_beyond_capacity=True)
        accepted = duplicates = conflicts = 0
        for report in batch.reports:
            key = report.report_key
            stored = None if key is None else known.get(key)
            if stored is not None:
                duplicates += 1
                content = (self._find_series(report), report.upload_bytes, report.download_bytes)
                conflicts += stored != content
                continue
            series_id = self._find_series(report) or self._add_series(report)
            if key is not None:
                known[key] = (series_id, report.upload_bytes, report.download_bytes)
            accepted += 1
            group.add(report, series_id, batch.reporter)
        return Receipt(accepted, duplicates, conflicts)

    def _find_series(self, report: Report) -> int | None:
        key = (report.username, report.server, report.port, report.protocol)
        if (found := self._series.get(key)) is not None:
            return found
        query = (
            "SELECT id FROM series WHERE username = ? AND server = ? AND port = ? AND protocol = ?"
        )
        row = self._db.execute(query, key).fetchone()
        return None if row is None else self._remember_series(key, row[0])

    def _add_series(self, report: Report) -> int:
        key = (report.username, report.server, report.port, report.protocol)
        statement = (
            "INSERT INTO series (username, server, port, protocol) VALUES (?, ?, ?, ?) RETURNING id"
        )
        return self._remember_series(key, self._db.execute(statement, key).fetchone()[0])

    def _remember_series(self, key: _SeriesKey, series_id: int) -> int:
        if len(self._series) >= MAX_CACHED_SERIES:
            self._series.clear()
        self._series[key] = series_id
        return series_id

    def _write(self, group: _Group) -> None:
        self._db.executemany(
            "INSERT INTO report (seq, report_key, series_id, upload_bytes, download_bytes, "
            "connections, reported_at, received_at, reporter) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            group.rows,
        )
        self._db.executemany(
            "UPDATE series SET upload_bytes = upload_bytes + ?, "
            "download_bytes = download_bytes + ?, connections = connections + ?, "
            "reports = reports + ?, last_used_at = max(last_used_at, ?) WHERE id = ?",
            ((*delta[:5], series_id) for series_id, delta in group.series.items()),
        )
        self._db.executemany(
            "INSERT INTO usage_day (day, series_id, upload_bytes, download_bytes, connections, "
            "reports, last_used_at, change_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (day, series_id) DO UPDATE SET "
            "upload_bytes = upload_bytes + excluded.upload_bytes, "
            "download_bytes = download_bytes + excluded.download_bytes, "
            "connections = connections + excluded.connections, "
            "reports = reports + excluded.reports, "
            "last_used_at = max(last_used_at, excluded.last_used_at), "
            "change_seq = excluded.change_seq",
            ((*day_and_series, *delta) for day_and_series, delta in group.days.items()),
        )
        self._db.executemany(
            "INSERT INTO user_total (username, upload_bytes, download_bytes, reports, "
            "last_used_at, change_seq) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (username) DO UPDATE SET "
            "upload_bytes = upload_bytes + excluded.upload_bytes, "
            "download_bytes = download_bytes + excluded.download_bytes, "
            "reports = reports + excluded.reports, "
            "last_used_at = max(last_used_at, excluded.last_used_at), "
            "change_seq = excluded.change_seq",
            (
                (username, delta[0], delta[1], delta[3], delta[4], delta[5])
                for username, delta in group.users.items()
            ),
        )

    def forget_reports(self, *, before_millis: int, limit: int, keeps_unexported: bool) -> int:
        """Drop up to `limit` of the oldest reports received before; return how many were.

        With `keeps_unexported`, what is not in InfluxDB yet stays.
        """
        with self._transaction():
            through_seq = self._last_seq
            if keeps_unexported:
                through_seq = sqlite_export.state_of(self._db, Policy.RAW).seq
            # Only from the front, so that what is kept has no gaps, wherever clocks jumped.
            statement = (
                "DELETE FROM report WHERE seq IN (SELECT seq FROM "
                "(SELECT seq, max(received_at) OVER (ORDER BY seq) AS latest FROM "
                "(SELECT seq, received_at FROM report WHERE seq <= ? ORDER BY seq LIMIT ?)) "
                "WHERE latest < ?)"
            )
            return self._db.execute(statement, (through_seq, limit, before_millis)).rowcount

    def note_progress(self, progress: Progress, *, at_millis: int) -> bool:
        """Store that an export went on, unless it was begun anew meanwhile; return whether."""
        with self._transaction():
            return sqlite_export.advance(self._db, progress, at_millis=at_millis)

    def note_export_problem(self, stream: str, problem: str | None) -> None:
        """Store why an export does not go on, None when it does."""
        with self._transaction():
            sqlite_export.note_problem(self._db, stream, problem)

    def forget_days(self, *, before_day: int, limit: int) -> int:
        """Drop up to `limit` of the oldest daily rows before a day; return how many were."""
        with self._transaction():
            statement = (
                "DELETE FROM usage_day WHERE (day, series_id) IN (SELECT day, series_id "
                "FROM usage_day WHERE day < ? ORDER BY day, series_id LIMIT ?)"
            )
            return self._db.execute(statement, (before_day, limit)).rowcount


class _Group:
    """What one commit will write: the reports' rows, and the sums they add up to."""

    def __init__(self, last_seq: int, all_bytes: int, received_at_millis: int) -> None:
        self.last_seq = last_seq
        self.all_bytes = all_bytes
        self._received_at_millis = received_at_millis
        self.rows: list[tuple[object, ...]] = []
        self.series: dict[int, _Delta] = {}
        self.days: dict[tuple[int, int], _Delta] = {}
        self.users: dict[str, _Delta] = {}

    def add(self, report: Report, series_id: int, reporter: str) -> None:
        """Take a report in under the next seq."""
        self.last_seq += 1
        self.all_bytes += report.upload_bytes + report.download_bytes
        self.rows.append(
            (
                self.last_seq,
                report.report_key,
                series_id,
                report.upload_bytes,
                report.download_bytes,
                report.connections,
                report.reported_at_millis,
                self._received_at_millis,
                reporter,
            )
        )
        day = report.reported_at_millis // DAY_MILLIS
        for delta in self._deltas(report.username, series_id, day):
            delta[0] += report.upload_bytes
            delta[1] += report.download_bytes
            delta[2] += report.connections
            delta[3] += 1
            delta[4] = max(delta[4], report.reported_at_millis)
            delta[5] = self.last_seq

    def _deltas(self, username: str, series_id: int, day: int) -> Iterable[_Delta]:
        yield self.series.setdefault(series_id, [0, 0, 0, 0, 0, 0])
        yield self.days.setdefault((day, series_id), [0, 0, 0, 0, 0, 0])
        yield self.users.setdefault(username, [0, 0, 0, 0, 0, 0])
