"""The writer of an SQLite ledger: many requests in one commit, with one fsync."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from collector.errors import LedgerError, NotStoredError
from collector.ledger import Batch, Progress, Receipt
from collector.ledger.capacity import Amounts, Capacity, Room
from collector.ledger.corrections import CORRECTED_REPORTS
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
from collector.ledger.sqlite.checkpoints import Checkpoints
from collector.ledger.sqlite.commit_group import CommitGroup
from collector.ledger.sqlite.database import SqliteDatabase
from collector.ledger.sqlite.file import LEDGER, connect, lock, not_stored
from collector.ledger.sqlite.fold import Position
from collector.ledger.sqlite.key_filter import KeyFilter
from collector.ledger.sqlite.series_ids import SeriesIds
from collector.ledger.sqlite.unfolded import Folding, SenderHours, Unfolded
from collector.ledger.statistics_values import IdleSeries
from collector.runtime.sqlite.background_check import check_noted
from collector.runtime.sqlite.file import check_whole, closed_on_fault
from collector.schema import Policy

KEYS_PER_STEP = 32_768
"""How many ids are indexed in one step; a few more at times."""
REPORTS_PER_STEP = 16_384
"""How many reports of a fold are gathered in one step."""
SUMS_PER_STEP = 3072
"""How many rows of sums are added to in one step, at least."""
PARTS_PER_REPORT = 0.5
"""So many parts of a fold may there be for each report and known series, and one more: each writes
pages of all series again. That takes a fifth of a microsecond for each report then."""
REPORTS_PER_PAGE, KEYS_PER_PAGE, SUMS_PER_PAGE = 50, 7, 4
"""About how many of each a page that is written has: ids and sums are spread over their tables."""
REPORTS_AT_ONCE = 8192
"""A fold of so many reports has one step, which also indexes their ids."""


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
        self._is_run_noted = self._is_durable = False
        self._series = SeriesIds()
        self._filter = KeyFilter(path)
        self._checkpoints = Checkpoints(path)
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
        sqlite_fold.prepare(self._db)
        row = self._db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'report'").fetchone()
        last_seq: int = row[0] if row else 0
        (first_seq,) = self._db.execute("SELECT min(seq) FROM report").fetchone()
        self._first_seq: int = first_seq or last_seq + 1
        self._folded_seq = sqlite_fold.folded_seq(self._db)
        self._position = sqlite_fold.position(self._db)
        self._indexed_seq = max(self._folded_seq, key_index.indexed_seq(self._db))
        self._capacity = self._read_capacity()
        query = "SELECT report_key, seq FROM report WHERE seq > ? AND report_key IS NOT NULL"
        keys = dict(self._db.execute(query, (self._indexed_seq,)))
        hours = None if last_seq > self._folded_seq else SenderHours()
        self._unfolded = Unfolded(keys, hours=hours)
        # Last: with an earlier one commits of new reports fail, until all of this can be read.
        self._last_seq = last_seq

    def _read_capacity(self) -> Capacity:
        return Capacity(sql_capacity.nearly_full(self._database))

    def _room_for(self, batches: Sequence[Batch], offered: Amounts) -> Room | None:
        """Return what decides about each report of a commit; None where all fit in any case."""
        if self._capacity.is_ample_for(offered):
            return None
        self._capacity = self._read_capacity()
        if self._capacity.is_ample_for(offered):
            return None
        return self._capacity.room(
            batches, lambda username: sql_capacity.total_of(self._database, username)
        )

    def close(self) -> None:
        """Close the file and let another process have it."""
        self._filter.close(self._db, last_seq=self._last_seq)
        self._checkpoints.close()
        self._db.close()
        self._lock.close()

    @property
    def _database(self) -> SqliteDatabase:
        return SqliteDatabase(self._db)

    @contextmanager
    def _transaction(self, *, is_durable: bool = True) -> Iterator[None]:
        """Commit what is done within; where it need not be on disk yet, later commits see to it."""
        try:
            if not (is_durable and self._is_durable):
                self._is_durable = False
                self._db.execute(f"PRAGMA synchronous = {'FULL' if is_durable else 'NORMAL'}")
                self._is_durable = is_durable
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            self._unfolded.folding = self._unfolded.hours = None
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
        if not defers_sums and self.unfolded_reports:
            self.fold()
        self._filter.keep_up(self._last_seq - self._first_seq, self._unfolded.keys)
        group = CommitGroup(self._db, self._series, batches)
        after_seq = self._last_seq
        with self._transaction():
            room = self._room_for(batches, group.offered)
            # claimed whatever becomes of the commit
            known = self._known_seqs(self._filter.claim(group.keys))
            receipts = group.take(known=known, room=room, after_seq=after_seq)
            columns = group.columns
            last_seq = after_seq + columns.size
            if columns.size and not self._is_run_noted:
                sqlite_runs.begin(self._db, after_seq=after_seq)
            rows.append(
                self._db, columns, after_seq=after_seq, received_at_millis=received_at_millis
            )
            if alongside is not None:
                alongside(self._database, receipts)
            if not defers_sums and columns.size:
                hours = SenderHours()
                hours.add(group.sent, at_millis=received_at_millis)
                sqlite_fold.add_up(self._db, hours, after=after_seq, through=last_seq)
                key_index.index(self._db, after=self._indexed_seq, through=last_seq)
        if defers_sums:
            try:
                self._unfolded.add(group.seqs, group.sent, at_millis=received_at_millis)
            except BaseException:  # as for want of memory; what is stored is read again
                self._unfolded = Unfolded({}, hours=None)
                self._load()
                raise
        self._last_seq = last_seq
        if columns.size and not defers_sums:
            self._folded_seq = self._indexed_seq = last_seq
            self._unfolded.forget_keys(last_seq)
        self._is_run_noted = self._is_run_noted or bool(columns.size)
        self._capacity.note(**group.taken._asdict(), room=room)
        self._checkpoints.note_commit(pages=3 + columns.size // REPORTS_PER_PAGE)
        return receipts

    def fold(self) -> None:
        """Add up what is stored and in no sum yet."""
        while self._folded_seq < self._last_seq:
            self.fold_some()

    def fold_some(self) -> bool:
        """Carry out a step of a fold, in a commit of its own; return whether it goes on.

        A step adds up all reports of some users that were stored at the first step, or indexes
        ids; with the last one all these reports are in the sums. One that failed is tried again.
        """
        if self._folded_seq == self._last_seq:
            return False
        folding = self._unfolded.folding or self._begin_fold()
        through, is_small = folding.through, folding.is_small
        if folding.gathered_through < through and not is_small:
            self._gather_some(folding)
            return True
        if (end := folding.next_end) is not None:
            position = Position(through, end)
            with self._transaction(is_durable=False):
                added = sqlite_fold.add_next(self._db, folding)
                sqlite_fold.note_position(self._db, position)
            folding.note_added(end, rows=added)
            self._position = position
            self._checkpoints.note_commit(pages=added // SUMS_PER_PAGE)
            return True
        if self._indexed_seq < through and not is_small:
            self.index_some()
            return True
        with self._transaction():
            if is_small:
                sqlite_fold.gather_next(self._db, folding, through=through)
            added = sqlite_fold.add_next(self._db, folding)
            sqlite_fold.finish(self._db, folding.hours, after=folding.after, through=through)
            if self._indexed_seq < through:
                key_index.index(self._db, after=self._indexed_seq, through=through)
        if self._indexed_seq < through:
            self._note_indexed(through)
        self._folded_seq, self._position, self._unfolded.folding = through, None, None
        self._checkpoints.note_commit(pages=added // SUMS_PER_PAGE)
        return folding.is_rest

    def _begin_fold(self) -> Folding:
        """Begin a fold of all that is stored; or go on with one that was interrupted."""
        unfolded, after = self._unfolded, self._folded_seq
        through, after_user = self._position or (self._last_seq, None)
        is_large = through - after > REPORTS_AT_ONCE
        folding = Folding(
            after=after,
            through=through,
            after_user=after_user,
            hours=unfolded.hours,
            is_small=not is_large,
            is_rest=through < self._last_seq,
            orders_changes=is_large and sqlite_fold.came_on_one_day(self._db, after, through),
        )
        hours_after = unfolded.hours if folding.is_rest else SenderHours()
        unfolded.folding, unfolded.hours = folding, hours_after
        return folding

    def _gather_some(self, folding: Folding) -> None:
        """Gather the next reports of a fold; with the last ones it is divided into parts."""
        through = min(folding.gathered_through + REPORTS_PER_STEP, folding.through)
        with self._transaction(is_durable=False):
            sqlite_fold.gather_next(self._db, folding, through=through)
            if through == folding.through:
                sqlite_fold.divide(
                    self._db, folding, part_rows=SUMS_PER_STEP, parts_per_report=PARTS_PER_REPORT
                )
            folding.gathered_through = through

    @property
    def needs_indexing(self) -> bool:
        """Whether `index_some` should be called, since many ids are kept in memory."""
        return self._unfolded.ids >= KEYS_PER_STEP

    def index_some(self) -> None:
        """Index the oldest ids that are not indexed yet, in a commit of its own."""
        through = self._last_seq
        if through - self._indexed_seq > 2 * KEYS_PER_STEP:
            through = self._indexed_seq + KEYS_PER_STEP
        with self._transaction(is_durable=False):
            key_index.index(self._db, after=self._indexed_seq, through=through)
        pages = (through - self._indexed_seq) // KEYS_PER_PAGE
        self._note_indexed(through)
        self._checkpoints.note_commit(pages=pages)

    def _note_indexed(self, through: int) -> None:
        self._indexed_seq = through
        self._unfolded.forget_keys(through)

    def _known_seqs(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Look up which of the ids are stored already, and where."""
        known = self._unfolded.seqs_of(keys)
        known.update(key_index.seqs_of(self._db, keys))
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
        while self._position is not None:  # or rows would be dropped that are in part added up
            self.fold_some()
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
                lambda lines: rows.append_lines(
                    *(self._db, correction, lines),
                    after_seq=self._last_seq,
                    received_at_millis=now_millis,
                ),
                last_seq=self._last_seq,
                now_millis=now_millis,
                limit=limit,
            )
            is_stored = last_seq > self._last_seq
            if is_stored:
                sqlite_fold.note_folded(self._db, last_seq)
            if is_stored and not self._is_run_noted:
                sqlite_runs.begin(self._db, after_seq=self._last_seq)
        self._last_seq = self._folded_seq = self._indexed_seq = last_seq
        self._is_run_noted = self._is_run_noted or is_stored
        return not is_done or sql_corrected.open_correction(self._database) is not None

    def forget_series(self, found: Sequence[IdleSeries]) -> int:
        """Drop those series that have not changed since; return how many. No sum changes."""
        self.fold()
        self._series.clear()
        with self._transaction():
            return sql_series.drop(self._database, found)
