"""The writer of a PostgreSQL ledger: all collectors append, the leader adds up.

A commit appends a group of reports in a few statements, whatever its size. The leader updates the
sums, see `numbering`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from collector.errors import LedgerError, NotStoredError
from collector.ledger import Batch, Progress, Receipt
from collector.ledger.corrections import CORRECTED_REPORTS
from collector.ledger.lost_commits import Losses
from collector.ledger.ports import Alongside
from collector.ledger.postgres import correction_rows as postgres_rows
from collector.ledger.postgres import numbering as postgres_fold
from collector.ledger.postgres import purge as postgres_purge
from collector.ledger.postgres import series as postgres_series
from collector.ledger.postgres.append import new_group_id
from collector.ledger.postgres.database import PostgresDatabase
from collector.ledger.postgres.lease import Lease, NotLeadingError
from collector.ledger.postgres.link import Db, Link
from collector.ledger.postgres.recall import Head, Recall
from collector.ledger.postgres.recording import Writer
from collector.ledger.postgres.schema import bring_forward
from collector.ledger.sql import corrected as sql_corrected
from collector.ledger.sql import corrections as sql_corrections
from collector.ledger.sql import export as sql_export
from collector.ledger.sql import purge as sql_purge
from collector.ledger.statistics_values import IdleSeries
from collector.schema import Policy

log = logging.getLogger(__name__)

T = TypeVar("T")


class PostgresLedger:
    """One collector's writer of a ledger that others may write as well.

    `record` belongs to one thread. All else has another connection, one after the other, from any
    thread: adding up holds no commit up. Opening makes the
    tables where there are none, and takes the lease if it is free.
    """

    def __init__(self, url: str, *, lease_seconds: float | None = None) -> None:
        self._recall = Recall()
        self._writer = Writer(url, self._recall)
        self._keeper = Link(url, is_patient=True)
        self.lease = Lease() if lease_seconds is None else Lease(lease_seconds)
        self._leading = threading.RLock()
        self._is_run_noted = False
        self._folded_seq = 0
        self._recalled_connections = 0
        try:
            bring_forward(self._writer.link)
            self.lead()
        except NotStoredError as error:
            self._drop()
            raise LedgerError(str(error)) from error
        except BaseException:
            self._drop()
            raise

    @property
    def name(self) -> str:
        """The ledger's URL, without secrets."""
        return self._writer.link.name

    @property
    def leads(self) -> bool:
        """Whether this process is the leader, as far as it knows."""
        return self.lease.is_held

    @property
    def losses(self) -> Losses:
        """What this process has seen in the ledger and was lost since."""
        return self._recall.losses

    def close(self) -> None:
        """Release the lease and close the connections."""
        if self.lease.token is not None:
            with contextlib.suppress(NotStoredError):
                self._keeper.run(self.lease.release)
        self._drop()

    def _drop(self) -> None:
        self._writer.link.close()
        self._keeper.close()

    # --- appending ---------------------------------------------------------------------------

    def record(
        self,
        batches: Sequence[Batch],
        *,
        received_at_millis: int,
        defers_sums: bool = False,
        alongside: Alongside | None = None,
    ) -> list[Receipt]:
        """Store all batches in one commit; returns when it is on disk.

        With `defers_sums`, or if another collector leads, the reports are not added up before the
        leader's next `fold`. Raises LedgerUnavailableError if the outcome is not known; then
        reports with ids can be sent again safely.
        """
        receipts = self._writer.record(
            batches, received_at_millis=received_at_millis, alongside=alongside
        )
        if not defers_sums and self.lease.is_held:
            with contextlib.suppress(NotStoredError):  # the reports are stored nevertheless
                self.fold()
        return receipts

    # --- leading -----------------------------------------------------------------------------

    def lead(self) -> int:
        """Take or extend the lease if possible, then add up; return the last seq in the sums.

        Raises LedgerUnavailableError; then this collector no longer leads.
        """
        with self._leading:
            return self._lead()

    def _lead(self) -> int:
        try:
            if self.lease.is_held and self.lease.is_due:
                with contextlib.suppress(NotLeadingError):
                    self._as_leader(lambda _: None)
            head = self._read_head()
            seq, self._writer.led_by, has_unfolded = head.seq, head.led_by, head.has_unfolded
            if self.lease.is_held and seq != self._folded_seq:
                # Restored while in use, or a commit whose answer was lost: begin another run.
                self.lease.lose()
            if not self.lease.is_held and not self._take():
                return seq
            if has_unfolded:
                with contextlib.suppress(NotLeadingError):
                    self.fold()
        except NotStoredError:
            self.lease.lose()
            raise
        return self._folded_seq if self.lease.is_held else seq

    def _read_head(self) -> Head:
        """Read the head of the sums; on a new connection, check for lost commits."""
        self._keeper.connect()
        if self._recalled_connections != self._keeper.connections:
            self._keeper.ask(self._recall.compare)
            self._recalled_connections = self._keeper.connections
        return self._keeper.ask(self._recall.read_head)

    def _take(self) -> bool:
        if not self._keeper.run(self.lease.take):
            return False
        self._is_run_noted = False
        self._folded_seq = self._keeper.ask(postgres_fold.folded_seq)
        log.info("leads the ledger %s, epoch %d", self.name, self.lease.epoch)
        self.fold()
        return True

    def fold(self) -> None:
        """Add up the reports that are not in the sums yet; NotLeadingError if another leads."""
        reports = postgres_fold.FOLD_REPORTS
        while reports >= postgres_fold.FOLD_REPORTS:
            with self._leading:
                reports, self._folded_seq = self._as_leader(self._fold_some)
                if reports:
                    self._recall.folded(self._folded_seq, self.lease.token)
                self._is_run_noted = self._is_run_noted or reports > 0

    def _fold_some(self, db: Db) -> tuple[int, int]:
        self._check_sums(db)
        return postgres_fold.fold(db, token=self.lease.token or "", is_run_noted=self._is_run_noted)

    def _check_sums(self, db: Db) -> None:
        if postgres_fold.folded_seq(db) != self._folded_seq:
            self.lease.lose()
            raise NotLeadingError("the sums are not where this collector left them")

    def _as_leader(self, work: Callable[[Db], T]) -> T:
        """Run something in a transaction that only the leader can commit."""
        begun = 0.0

        def fenced(db: Db) -> T:
            nonlocal begun
            begun = self.lease.extend(db)
            return work(db)

        result = self._keeper.run(fenced)
        self.lease.confirm(begun)
        return result

    # --- what the leader keeps ---------------------------------------------------------------

    def age(self, *, ran_millis: int, kept_millis: int) -> int:
        """Add to the running time; return the seq up to which reports are old."""
        return self._beside_leader(
            lambda db: sql_purge.age(
                PostgresDatabase(db),
                ran_millis=ran_millis,
                kept_millis=kept_millis,
                last_seq=postgres_fold.folded_seq(db),
            )
        )

    def forget_reports(
        self,
        *,
        before_millis: int,
        limit: int,
        keeps_unexported: bool,
        through_seq: int | None = None,
    ) -> int:
        """Drop up to `limit` of the oldest reports received before a time; return how many.

        Any collector may do it, one at a time, since an admin's cleanup may be sent to any of them.
        """

        def forget(db: Db) -> int:
            last = through_seq
            if keeps_unexported:
                exported_seq = sql_export.state_of(PostgresDatabase(db), Policy.RAW).seq
                last = exported_seq if last is None else min(last, exported_seq)
            return postgres_purge.forget_reports(
                db, before_millis=before_millis, limit=limit, through_seq=last
            )

        return self._beside_leader(forget)

    def forget_days(self, *, before_day: int, limit: int) -> int:
        """Drop up to `limit` of the oldest daily rows before a day; return how many."""
        return self._beside_leader(
            lambda db: sql_purge.forget_days(
                PostgresDatabase(db),
                before_day=before_day,
                limit=limit,
                folded_seq=postgres_fold.folded_seq(db),
            )
        )

    def forget_series(self, found: Sequence[IdleSeries]) -> int:
        """Drop those series that have not changed since; return how many. No sum changes."""
        return self._beside_leader(lambda db: postgres_series.drop(db, found))

    def _beside_leader(self, work: Callable[[Db], T]) -> T:
        """Run `work` in one transaction that waits for the leader's, and that the next waits for.

        Any collector may: it need not lead.
        """

        def waiting(db: Db) -> T:
            db.execute("SELECT 1 FROM lease WHERE name = 'leader' FOR UPDATE")
            return work(db)

        return self._keeper.run(waiting)

    def correct(self, *, now_millis: int, limit: int = CORRECTED_REPORTS) -> bool:
        """Carry out a step of the oldest open correction; return whether there is more to do.

        If another collector leads, nothing is done.
        """
        with self._leading, contextlib.suppress(NotLeadingError):
            if not self.lease.is_held:
                return False
            self.fold()  # only reports that are in the sums can be subtracted
            group_id = new_group_id()
            seq, has_more = self._as_leader(
                lambda db: self._correct_some(db, group_id, now_millis=now_millis, limit=limit)
            )
            self._is_run_noted = self._is_run_noted or seq > self._folded_seq
            self._folded_seq = seq
            return has_more
        return False

    def _correct_some(
        self, db: Db, group_id: int, *, now_millis: int, limit: int
    ) -> tuple[int, bool]:
        self._check_sums(db)
        database = PostgresDatabase(db)
        correction = sql_corrected.open_correction(database)
        if correction is None:
            return self._folded_seq, False
        seq, is_done = sql_corrections.carry_out(
            database,
            correction,
            lambda lines: postgres_rows.append(
                db,
                lines,
                group_id=group_id,
                after_seq=self._folded_seq,
                number=correction.number,
                now_millis=now_millis,
            ),
            last_seq=self._folded_seq,
            now_millis=now_millis,
            limit=limit,
        )
        if seq > self._folded_seq and not self._is_run_noted:
            postgres_fold.note_run(db, after_seq=self._folded_seq, token=self.lease.token or "")
        return seq, not is_done or sql_corrected.open_correction(database) is not None

    def note_progress(self, progress: Progress, *, at_millis: int) -> bool:
        """Store an export's progress, unless it was rewound or another collector leads."""
        try:
            return self._as_leader(
                lambda db: sql_export.advance(PostgresDatabase(db), progress, at_millis=at_millis)
            )
        except NotLeadingError:
            return False

    def note_export_problem(self, stream: str, problem: str | None) -> None:
        """Store why an export is stopped, or None."""
        with contextlib.suppress(NotLeadingError):
            self._as_leader(
                lambda db: sql_export.note_problem(PostgresDatabase(db), stream, problem)
            )
