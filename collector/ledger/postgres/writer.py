"""The writer of a PostgreSQL ledger: all collectors append and add up, the leader numbers.

A commit appends a group of reports in a few statements, whatever its size. The leader numbers the
groups, see `sums.numbering`; each collector adds up some of the partitions, see `sums.partitions`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from collector.errors import LedgerError, NotStoredError
from collector.ledger import Batch, Progress, Receipt
from collector.ledger.corrections import CORRECTED_REPORTS
from collector.ledger.lost_commits import Losses
from collector.ledger.ports import Alongside
from collector.ledger.postgres import correction_rows as postgres_rows
from collector.ledger.postgres import purge as postgres_purge
from collector.ledger.postgres import series as postgres_series
from collector.ledger.postgres.append import new_group_id
from collector.ledger.postgres.database import PostgresDatabase
from collector.ledger.postgres.lease import Lease, NotLeadingError
from collector.ledger.postgres.link import Db, Link
from collector.ledger.postgres.recall import Head, Recall
from collector.ledger.postgres.recording import Writer
from collector.ledger.postgres.schema import bring_forward
from collector.ledger.postgres.sums import numbering, partitions
from collector.ledger.postgres.sums.adders import Adders
from collector.ledger.postgres.sums.rounds import Rounds
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

    `record` belongs to one thread, and so does `add_up` of each partition. All else has another
    connection, one after the other, from any thread: adding up holds no commit up. Opening makes
    the tables where there are none, and takes the lease if it is free. `partitions` is into how
    many the reports of this collector are divided.
    """

    def __init__(
        self, url: str, *, lease_seconds: float | None = None, partitions: int = 1
    ) -> None:
        self._recall = Recall()
        self._writer = Writer(url, self._recall, partitions=partitions)
        self._keeper = Link(url, is_patient=True, is_by_index=True)
        self.lease = Lease() if lease_seconds is None else Lease(lease_seconds)
        self._adders = Adders(
            lambda: Link(url, is_patient=True, is_by_index=True),
            holder=self.lease.holder,
            lease_seconds=self.lease.seconds,
        )
        self._leading = threading.RLock()
        self._rounds = Rounds()
        self._is_run_noted = False
        self._numbered_seq = 0
        self._recalled_connections = 0
        try:
            with contextlib.closing(Link(url)) as link:
                bring_forward(link)
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
        """Release the lease and the partitions, and close the connections."""
        with contextlib.suppress(NotStoredError):
            if self.lease.token is not None:
                self._keeper.run(self.lease.release)
            self._keeper.run(self._adders.leave)
        self._drop()

    def _drop(self) -> None:
        self._writer.link.close()
        self._keeper.close()
        self._adders.close()

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

        With `defers_sums`, or if another collector leads, the reports are not numbered and added up
        by this call. Raises LedgerUnavailableError if the outcome is not known; then
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

    def lead(self, *, defers_sums: bool = False, is_awaited: bool = False) -> int:
        """Take or extend the lease if possible; as the leader, number reports and add them up.

        Returns the seq up to which reports are in the sums. With `defers_sums` they are only
        numbered, a round at a time: see `behind`; sooner if that `is_awaited`. Raises
        LedgerUnavailableError; then this collector no longer leads.
        """
        with self._leading:
            return self._lead(defers_sums=defers_sums, is_awaited=is_awaited)

    def _lead(self, *, defers_sums: bool, is_awaited: bool) -> int:
        try:
            if self.lease.is_held and self.lease.is_due:
                with contextlib.suppress(NotLeadingError):
                    self._as_leader(lambda _: None)
            head = self._read_head()
            self._writer.led_by = head.lease.token
            if self.lease.is_held and head.seq != self._numbered_seq:
                # Restored while in use, or a commit whose answer was lost: begin another run.
                self.lease.lose()
            is_new = not self.lease.is_held and self.lease.may_take(head.lease) and self._take()
            has_new = is_new or head.has_unnumbered
            self._look(head.positions, takes_part=defers_sums)
            with contextlib.suppress(NotLeadingError):
                if not self.lease.is_held:
                    return head.positions.head
                if defers_sums:
                    is_moved = has_new and self._number_round(head.positions, is_awaited=is_awaited)
                else:
                    is_moved = has_new or bool(head.positions.behind)
                    if is_moved:
                        self._fold(waits=False)
                if not is_moved:
                    return head.positions.head
                positions = self._keeper.ask(partitions.positions)
                self._look(positions, takes_part=defers_sums)
                return positions.head
        except NotStoredError:
            self.lease.lose()
            raise
        return head.positions.head

    def _look(self, positions: partitions.Positions, *, takes_part: bool) -> None:
        leads = self.lease.is_held
        self._keeper.ask(
            lambda db: self._adders.look(db, positions, takes_part=takes_part, leads=leads)
        )

    def _read_head(self) -> Head:
        """Read the last number; on a new connection, check for lost commits."""
        self._keeper.connect()
        if self._recalled_connections != self._keeper.connections:
            self._keeper.ask(self._recall.compare)
            self._recalled_connections = self._keeper.connections
        return self._keeper.ask(self._recall.read_head)

    def _take(self) -> bool:
        if not self._keeper.run(self.lease.take):
            return False
        self._is_run_noted = False
        self._numbered_seq = self._keeper.ask(numbering.numbered_seq)
        log.info("leads the ledger %s, epoch %d", self.name, self.lease.epoch)
        return True

    def _number_round(self, positions: partitions.Positions, *, is_awaited: bool) -> bool:
        """Number reports, if it is time for another round; return whether it was."""
        ahead, now_seconds = positions.numbered - positions.head, time.monotonic()
        if not self._rounds.may_number(ahead=ahead, now_seconds=now_seconds, is_awaited=is_awaited):
            return False
        self._rounds.numbered(now_seconds)
        self._number()
        return True

    def _number(self) -> int:
        with self._leading:
            reports, self._numbered_seq = self._as_leader(self._number_some)
            if reports:
                self._recall.numbered(self._numbered_seq, self.lease.token)
            self._is_run_noted = self._is_run_noted or reports > 0
            return reports

    def _number_some(self, db: Db) -> tuple[int, int]:
        self._check_numbers(db)
        return numbering.number(db, token=self.lease.token or "", is_run_noted=self._is_run_noted)

    def _check_numbers(self, db: Db) -> None:
        if numbering.numbered_seq(db) != self._numbered_seq:
            self.lease.lose()
            raise NotLeadingError("the numbers are not where this collector left them")

    def fold(self) -> None:
        """Number and add up all stored reports; NotLeadingError if another leads."""
        self._fold(waits=True)

    def _fold(self, *, waits: bool) -> None:
        is_last = False
        while not is_last:
            is_last = not self._number()
            self._adders.add_all(self._keeper, waits=waits)

    # --- adding up, on every collector -------------------------------------------------------

    @property
    def behind(self) -> Sequence[int]:
        """The partitions of this collector that have something to add up, as `lead` found them."""
        return self._adders.behind

    @property
    def is_settled(self) -> bool:
        """Whether all numbered reports are in the sums, as `lead` found them."""
        return self._adders.is_settled

    @property
    def others(self) -> int:
        """How many other collectors run, as `lead` found."""
        return self._adders.others

    def add_up(self, part: int) -> bool:
        """Add up numbered reports of a partition; return whether there may be more of them."""
        return self._adders.add_up(part)

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
                last_seq=numbering.numbered_seq(db),
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
                folded_seq=partitions.settle(db),
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
            self._is_run_noted = self._is_run_noted or seq > self._numbered_seq
            self._numbered_seq = seq
            return has_more
        return False

    def _correct_some(
        self, db: Db, group_id: int, *, now_millis: int, limit: int
    ) -> tuple[int, bool]:
        self._check_numbers(db)
        partitions.settle(db)
        database = PostgresDatabase(db)
        correction = sql_corrected.open_correction(database)
        if correction is None:
            return self._numbered_seq, False
        seq, is_done = sql_corrections.carry_out(
            database,
            correction,
            lambda lines: postgres_rows.append(
                db,
                lines,
                group_id=group_id,
                after_seq=self._numbered_seq,
                number=correction.number,
                now_millis=now_millis,
            ),
            last_seq=self._numbered_seq,
            now_millis=now_millis,
            limit=limit,
        )
        if seq > self._numbered_seq and not self._is_run_noted:
            numbering.note_run(db, after_seq=self._numbered_seq, token=self.lease.token or "")
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
