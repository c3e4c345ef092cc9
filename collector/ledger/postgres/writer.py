"""The writing side of a PostgreSQL ledger: any number of collectors append, one of them adds up.

A commit appends a group of reports in a few statements, whatever its size. What a report changes
beside its own row is left to the leader, see `postgres_fold`.
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
    """One collector's side of a ledger that others may write as well.

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
        """Where the ledger is, without secrets."""
        return self._writer.link.name

    @property
    def leads(self) -> bool:
        """Whether this process is the one that adds up, as far as it knows."""
        return self.lease.is_held

    @property
    def losses(self) -> Losses:
        """What this process has seen in the ledger and is not there any more."""
        return self._recall.losses

    def close(self) -> None:
        """Let go of the lease, and of the server."""
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

        With `defers_sums`, or where another collector leads, the reports are in no sum before the
        leader's next `fold`. Raises LedgerUnavailableError where the outcome is not known: then
        ids are safe to be sent again.
        """
        receipts = self._writer.record(
            batches, received_at_millis=received_at_millis, alongside=alongside
        )
        if not defers_sums and self.lease.is_held:
            with contextlib.suppress(NotStoredError):  # it is stored all the same
                self.fold()
        return receipts

    # --- leading -----------------------------------------------------------------------------

    def lead(self) -> int:
        """Take or keep the lease if possible, then add up; return up to where the sums go.

        Raises LedgerUnavailableError, and then this collector leads no more.
        """
        with self._leading:
            return self._lead()

    def _lead(self) -> int:
        try:
            if self.lease.is_held and self.lease.is_due:
                with contextlib.suppress(NotLeadingError):
                    self._as_leader(lambda _: None)
            head = self._look()
            seq, self._writer.led_by, has_unfolded = head.seq, head.led_by, head.has_unfolded
            if self.lease.is_held and seq != self._folded_seq:
                # Restored while in use, or a commit whose answer was lost: another run from here.
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

    def _look(self) -> Head:
        """Return how far the sums are; on a new connection, see that all is there that was."""
        self._keeper.connect()
        if self._recalled_connections != self._keeper.connections:
            self._keeper.ask(self._recall.compare)
            self._recalled_connections = self._keeper.connections
        return self._keeper.ask(self._recall.look)

    def _take(self) -> bool:
        if not self._keeper.run(self.lease.take):
            return False
        self._is_run_noted = False
        self._folded_seq = self._keeper.ask(postgres_fold.folded_seq)
        log.info("leads the ledger %s, epoch %d", self.name, self.lease.epoch)
        self.fold()
        return True

    def fold(self) -> None:
        """Add up what is stored and in no sum yet; NotLeadingError where another leads."""
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
        """Run something in a transaction that the leader alone can commit."""
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
        """Note that a collector ran so much longer; return up to which seq reports are old."""
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
        """Drop up to `limit` of the oldest reports received before; return how many were.

        Any collector may, one at a time: an admin's cleanup comes to whichever it comes to.
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
        """Drop up to `limit` of the oldest daily rows before a day; return how many were."""
        return self._beside_leader(
            lambda db: sql_purge.forget_days(
                PostgresDatabase(db),
                before_day=before_day,
                limit=limit,
                folded_seq=postgres_fold.folded_seq(db),
            )
        )

    def forget_series(self, found: Sequence[IdleSeries]) -> int:
        """Drop series that are still as they were found; return how many. No sum changes."""
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
        """Carry out a step of the oldest correction that is open; return whether there is more.

        Where another collector leads, that one does.
        """
        with self._leading, contextlib.suppress(NotLeadingError):
            if not self.lease.is_held:
                return False
            self.fold()  # only what is in the sums can be taken out of them
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
        """Store that an export went on; not if it was begun anew, or another leads, meanwhile."""
        try:
            return self._as_leader(
                lambda db: sql_export.advance(PostgresDatabase(db), progress, at_millis=at_millis)
            )
        except NotLeadingError:
            return False

    def note_export_problem(self, stream: str, problem: str | None) -> None:
        """Store why an export does not go on, None when it does."""
        with contextlib.suppress(NotLeadingError):
            self._as_leader(
                lambda db: sql_export.note_problem(PostgresDatabase(db), stream, problem)
            )
