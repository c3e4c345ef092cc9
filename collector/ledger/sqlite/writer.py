"""The writer of an SQLite ledger: many requests in one commit, with one fsync."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from collector.errors import LedgerError, NotStoredError
from collector.ledger import Batch, Progress, Receipt
from collector.ledger.capacity import Capacity, Room
from collector.ledger.corrections import CORRECTED_REPORTS, SCOPE, Correction, Line
from collector.ledger.ports import Alongside
from collector.ledger.sql import capacity as sql_capacity
from collector.ledger.sql import corrected as sql_corrected
from collector.ledger.sql import corrections as sql_corrections
from collector.ledger.sql import export as sql_export
from collector.ledger.sql import purge as sql_purge
from collector.ledger.sql import series as sql_series
from collector.ledger.sqlite import fold as sqlite_fold
from collector.ledger.sqlite import key_index, rows
from collector.ledger.sqlite import runs as sqlite_runs
from collector.ledger.sqlite.commit_group import CommitGroup
from collector.ledger.sqlite.database import SqliteDatabase
from collector.ledger.sqlite.file import LEDGER, connect, lock, not_stored
from collector.ledger.sqlite.key_filter import KeyFilter
from collector.ledger.sqlite.series_ids import SeriesIds
from collector.ledger.sqlite.unfolded import REPORTS_PER_SLICE, Folding, Sums, Unfolded
from collector.ledger.statistics_values import IdleSeries
from collector.runtime.sqlite.background_check import check_noted
from collector.runtime.sqlite.file import check_whole, closed_on_fault
from collector.schema import Policy

_APPEND = (
    "INSERT INTO report (seq, report_key, series_id, upload_bytes, download_bytes, "
    "connections, reported_at, received_at, reporter, billed_bytes)"
)


class SqliteLedger:
    """The only writer of a ledger file; for one thread at a time.

    Opening locks the file, migrates it, checks its integrity and adds up reports that a crash left;
    raises LedgerError. With `is_at_once` the last two, which take longer the more there is, are the
    caller's: a `BackgroundCheck` and `fold`. A file in which one has found damage is checked first.
    """

    def __init__(self, path: Path, *, is_at_once: bool = False) -> None:
        self.path = path
        self._lock = lock(path)
        check = check_noted if is_at_once else check_whole
        self._is_run_noted = False
        self._series = SeriesIds()
        self._filter = KeyFilter(path)
        try:
            self._db = connect(path)
            check(LEDGER, self._db, path)
            with closed_on_fault(LEDGER, path, self._db):
                self._load()
        except BaseException:
            self._lock.close()
            raise
        if is_at_once:
            return
        try:
            self.fold()
        except NotStoredError as error:
            self.close()
            raise LedgerError(f"{error}; make room, then start again") from error

    @property
    def unfolded_reports(self) -> int:
        """How many reports are stored and in no sum yet."""
        return self._last_seq - self._folded_seq

    def _load(self) -> None:
        """Read the cached values; after a failed commit they may be ahead of the file."""
        self._series.clear()
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'report'").fetchone()
        self._last_seq: int = row[0] if row else 0
        (first_seq,) = self._db.execute("SELECT min(seq) FROM report").fetchone()
        self._first_seq: int = first_seq or self._last_seq + 1
        self._folded_seq = sqlite_fold.folded_seq(self._db)
        self._capacity = self._read_capacity()
        query = "SELECT report_key, seq FROM report WHERE seq > ? AND report_key IS NOT NULL"
        keys = dict(self._db.execute(query, (self._folded_seq,)))
        self._unfolded = Unfolded(keys, sums=None if self.unfolded_reports else Sums())

    def _read_capacity(self) -> Capacity:
        return Capacity(sql_capacity.nearly_full(self._database))

    def _room_for(self, batches: Sequence[Batch]) -> Room | None:
        """Return what decides about each report of a commit; None where all fit in any case."""
        if self._capacity.is_ample(batches):
            return None
        self._capacity = self._read_capacity()
        if self._capacity.is_ample(batches):
            return None
        return self._capacity.room(
            batches, lambda username: sql_capacity.total_of(self._database, username)
        )

    def close(self) -> None:
        """Close the file and let another process have it."""
        self._filter.close(last_seq=self._last_seq)
        self._db.close()
        self._lock.close()

    @property
    def _database(self) -> SqliteDatabase:
        return SqliteDatabase(self._db)

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
            raise not_stored(self.path, error) from error

    def record(
        self,
        batches: Sequence[Batch],
        *,
        received_at_millis: int,
        defers_sums: bool = False,
        alongside: Alongside | None = None,
    ) -> list[Receipt]:
        """Store all batches in one commit; returns when it is on disk.

        With `defers_sums` the reports are stored, and in no sum before the next `fold`. What
        `alongside` writes is in the same commit; what it raises undoes all of it.
        """
        self._filter.keep_up(self._last_seq - self._first_seq, self._unfolded.keys())
        with self._transaction():
            room = self._room_for(batches)
            keys = [
                report.report_key
                for batch in batches
                for report in batch.reports
                if report.report_key is not None
            ]
            group = CommitGroup(
                self._db,
                self._series,
                known=self._known_seqs(keys),
                room=room,
                last_seq=self._last_seq,
                received_at_millis=received_at_millis,
            )
            receipts = group.take(batches, keys)
            if group.rows and not self._is_run_noted:
                sqlite_runs.begin(self._db, after_seq=self._last_seq)
            # whatever becomes of the commit
            self._filter.add([row[1] for row in group.rows if row[1] is not None])
            rows.insert(self._db, _APPEND, group.rows)
            if alongside is not None:
                alongside(self._database, receipts)
            if not defers_sums and group.last_seq > self._folded_seq:
                sqlite_fold.fold(self._db, after=self._folded_seq, through=group.last_seq)
        self._last_seq = group.last_seq
        self._capacity.note(raw_bytes=group.raw_bytes, billed_bytes=group.billed_bytes, room=room)
        self._is_run_noted = self._is_run_noted or bool(group.rows)
        if defers_sums:
            self._unfolded.add(group.rows, group.sent, received_at_millis=received_at_millis)
        else:
            self._folded_seq, self._unfolded = self._last_seq, Unfolded({}, sums=Sums())
        return receipts

    def fold(self) -> None:
        """Add up what is stored and in no sum yet."""
        while self._folded_seq < self._last_seq:
            self.fold_some()

    def fold_some(self) -> bool:
        """Carry out a step of a fold, in a commit of its own; return whether it goes on.

        The last step adds up all reports that were stored at the first one; the steps before index
        their keys, and change nothing that is read.
        """
        if self._folded_seq == self._last_seq:
            return False
        folding = self._unfolded.folding or self._unfolded.begin(
            after=self._folded_seq, through=self._last_seq
        )
        bounds = {"after": folding.after, "through": folding.through}
        if folding.through - folding.after <= REPORTS_PER_SLICE:
            with self._transaction():
                sqlite_fold.prepare(self._db, folding.sums, **bounds)
                sqlite_fold.add_prepared(self._db, folding.sums, **bounds)
                key_index.index(self._db, **bounds)
        elif folding.indexed_seq < folding.through:
            self._index_some(folding)
            return True
        else:
            with self._transaction():
                if not folding.is_prepared:
                    sqlite_fold.prepare(self._db, folding.sums, **bounds)
                    folding.is_prepared = True
                    return True
                sqlite_fold.add_prepared(self._db, folding.sums, **bounds)
        self._folded_seq, self._unfolded.folding = folding.through, None
        return False

    def _index_some(self, folding: Folding) -> None:
        """Index some keys, in a commit that need not be on disk before the sums are."""
        after = folding.indexed_seq
        folding.indexed_seq = min(after + REPORTS_PER_SLICE, folding.through)
        self._db.execute("PRAGMA synchronous = NORMAL")
        try:
            with self._transaction():
                key_index.index(self._db, after=after, through=folding.indexed_seq)
        finally:
            self._db.execute("PRAGMA synchronous = FULL")

    def _known_seqs(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Look up which of the ids are stored already, and where."""
        known = self._unfolded.seqs_of(keys)
        known.update(key_index.seqs_of(self._db, self._filter.may_have(keys)))
        return known

    def age(self, *, ran_millis: int, kept_millis: int) -> int:
        """Note that a collector ran so much longer; return up to which seq reports are old."""
        with self._transaction():
            return sql_purge.age(
                self._database,
                ran_millis=ran_millis,
                kept_millis=kept_millis,
                last_seq=self._last_seq,
            )

    def forget_reports(
        self,
        *,
        before_millis: int,
        limit: int,
        keeps_unexported: bool,
        through_seq: int | None = None,
    ) -> int:
        """Drop up to `limit` of the oldest reports received before; return how many were.

        Their ids are forgotten at some time after. With `keeps_unexported`, what is not in InfluxDB
        yet stays; so does what is after `through_seq`, and its ids.
        """
        with self._transaction():
            if key_index.forget(self._db, before_millis=before_millis, through_seq=through_seq):
                self._filter.note_forgotten()
            last = self._folded_seq
            if keeps_unexported:
                last = min(last, sql_export.state_of(self._database, Policy.RAW).seq)
            if through_seq is not None:
                last = min(last, through_seq)
            # Only from the front, so that what is kept has no gaps, wherever clocks jumped.
            statement = (
                "DELETE FROM report WHERE seq IN (SELECT seq FROM "
                "(SELECT seq, max(received_at) OVER (ORDER BY seq) AS latest FROM "
                "(SELECT seq, received_at FROM report WHERE seq <= ? ORDER BY seq LIMIT ?)) "
                "WHERE latest < ?)"
            )
            return self._db.execute(statement, (last, limit, before_millis)).rowcount

    def note_progress(self, progress: Progress, *, at_millis: int) -> bool:
        """Store an export's progress, unless it was rewound meanwhile; return whether."""
        with self._transaction():
            return sql_export.advance(self._database, progress, at_millis=at_millis)

    def note_export_problem(self, stream: str, problem: str | None) -> None:
        """Store why an export is stopped, or None."""
        with self._transaction():
            sql_export.note_problem(self._database, stream, problem)

    def forget_days(self, *, before_day: int, limit: int) -> int:
        """Drop up to `limit` of the oldest daily rows before a day; return how many."""
        with self._transaction():
            return sql_purge.forget_days(
                self._database, before_day=before_day, limit=limit, folded_seq=self._folded_seq
            )

    def correct(self, *, now_millis: int, limit: int = CORRECTED_REPORTS) -> bool:
        """Carry out a step of the oldest correction that is open; return whether there is more."""
        correction = sql_corrected.open_correction(self._database)
        if correction is None:
            return False
        self.fold()  # only what is in the sums can be taken out of them
        with self._transaction():
            last_seq, is_done = sql_corrections.carry_out(
                self._database,
                correction,
                lambda lines: self._append_lines(correction, lines, now_millis),
                last_seq=self._last_seq,
                now_millis=now_millis,
                limit=limit,
            )
            is_stored = last_seq > self._last_seq
            if is_stored:
                sqlite_fold.note_folded(self._db, last_seq)
            if is_stored and not self._is_run_noted:
                sqlite_runs.begin(self._db, after_seq=self._last_seq)
        self._last_seq = self._folded_seq = last_seq
        self._is_run_noted = self._is_run_noted or is_stored
        return not is_done or sql_corrected.open_correction(self._database) is not None

    def _append_lines(self, correction: Correction, lines: Sequence[Line], now_millis: int) -> None:
        appended = [
            (
                *(seq, None, it.series_id, it.upload_bytes, it.download_bytes, it.connections),
                *(it.reported_at, now_millis, f"{SCOPE}{correction.number}", it.billed_bytes),
            )
            for seq, it in enumerate(lines, start=self._last_seq + 1)
        ]
        rows.insert(self._db, _APPEND, appended)

    def forget_series(self, found: Sequence[IdleSeries]) -> int:
        """Drop those series that have not changed since; return how many. No sum changes."""
        self.fold()
        with self._transaction():
            dropped = sql_series.drop(self._database, found)
        self._series.clear()
        return dropped
