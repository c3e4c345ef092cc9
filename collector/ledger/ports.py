"""The ports of a ledger: its writer, its reader, and what a shared ledger adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from collector.ledger import (
    Backlog,
    Batch,
    Changes,
    DayRow,
    DeadLetter,
    ExportState,
    Progress,
    Receipt,
    ReportRow,
)
from collector.ledger.corrections import (
    CORRECTED_REPORTS,
    CorrectedSum,
    Correction,
    Stretch,
    VoidPreview,
    Wanted,
)
from collector.ledger.grouped_reports import GroupedReports, Grouping, SeriesReports
from collector.ledger.import_amounts import Amounts, Grown
from collector.ledger.lost_commits import Losses
from collector.ledger.sql.database import Database
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
from collector.reports.contacts import Contacts
from collector.reports.reporters import Configured, Reporter
from collector.reports.sender_days import SenderBytes
from collector.reports.server_bounds import Place
from collector.reports.spikes import BusyHour

Alongside = Callable[[Database, Sequence[Receipt]], None]
"""A call that writes something else in the commit of reports, given their receipts."""


class Ledger(Protocol):
    """The writer of a ledger, for one thread.

    Raises DiskFullError or NotStoredError when nothing of a call was stored.
    """

    def record(
        self,
        batches: Sequence[Batch],
        *,
        received_at_millis: int,
        defers_sums: bool = False,
        alongside: Alongside | None = None,
    ) -> list[Receipt]:
        """Store all batches in one commit; returns when it is on disk.

        With `defers_sums` the reports are not added up before the next `fold`. `alongside` is
        called within the same transaction; an exception of it rolls everything back.
        """
        ...

    def fold(self) -> None:
        """Add up the stored reports that are not in the sums yet; opening a ledger does so, too."""
        ...

    def age(self, *, ran_millis: int, kept_millis: int) -> int:
        """Add to the running time of the ledger's collectors.

        Return the seq up to which reports are older than `kept_millis` of running time.
        """
        ...

    def forget_reports(
        self,
        *,
        before_millis: int,
        limit: int,
        keeps_unexported: bool,
        through_seq: int | None = None,
    ) -> int:
        """Drop up to `limit` of the oldest reports received before a time; return how many.

        With `keeps_unexported`, reports that are not exported yet are kept. Reports after
        `through_seq` are kept as well, if it is given. The ids of kept reports stay known.
        """
        ...

    def note_progress(self, progress: Progress, *, at_millis: int) -> bool:
        """Store an export's progress, unless it was rewound meanwhile; return whether."""
        ...

    def note_export_problem(self, stream: str, problem: str | None) -> None:
        """Store why an export is stopped, or None."""
        ...

    def forget_days(self, *, before_day: int, limit: int) -> int:
        """Drop up to `limit` of the oldest daily rows before a day; return how many."""
        ...

    def correct(self, *, now_millis: int, limit: int = CORRECTED_REPORTS) -> bool:
        """Carry out a step of the oldest open correction; return whether there is more to do.

        A step voids up to `limit` reports, in one commit. With a shared ledger only the leader does
        anything.
        """
        ...

    def forget_series(self, found: Sequence[IdleSeries]) -> int:
        """Drop those series that have not changed since; return how many. No sum changes."""
        ...

    def close(self) -> None:
        """Close the ledger and release its lock or lease."""
        ...


class EmbeddedLedger(Ledger, Protocol):
    """A ledger that one collector writes."""

    def fold_some(self) -> bool:
        """Carry out a step of a fold; return whether it goes on.

        A step may gather some of the reports that were stored at the first step, or add up all of
        these of some users; with the last one all are in the sums. One that failed is tried again.
        """
        ...

    @property
    def needs_indexing(self) -> bool:
        """Whether `index_some` should be called, since many ids are kept in memory."""
        ...

    def index_some(self) -> None:
        """Index some of the ids that are kept in memory; a step that needs no fold."""
        ...

    @property
    def unfolded_reports(self) -> int:
        """How many reports are stored and in no sum yet, such as a crash left."""
        ...


class LedgerCheck(Protocol):
    """The check of an embedded ledger, beside its writer."""

    def start(self) -> None:
        """Start checking."""
        ...

    def stop(self) -> None:
        """End, whether it is done or not."""
        ...


class LedgerReader(Protocol):
    """The reader of a ledger, for any number of threads."""

    def changes(self, *, after: int, limit: int) -> Changes:
        """Return the users changed after a seq."""
        ...

    def configured(self) -> list[Configured]:
        """Return the keys of collectors' environments, including revoked ones."""
        ...

    def reporters(self) -> list[Reporter]:
        """Return all reporters by name, including revoked ones."""
        ...

    def contacts(self) -> Contacts:
        """Return when reporters were last in contact, and who was refused."""
        ...

    def ratios(self) -> list[Ratio]:
        """Return the ratios that are set, by server."""
        ...

    def corrections(self, *, limit: int) -> list[Correction]:
        """Return the newest corrections first."""
        ...

    def open_correction(self) -> Correction | None:
        """Return the oldest correction that is not carried out completely."""
        ...

    def preview(self, wanted: Wanted) -> VoidPreview:
        """Compute what a void would subtract now, by user."""
        ...

    def corrected_sum(self, stretch: Stretch) -> CorrectedSum:
        """Return what corrections added to a user in a range of lines, and the part of a period."""
        ...

    def last_reports(self) -> dict[str, int]:
        """Return when the newest stored report of each sender arrived, by its scope."""
        ...

    def sender_bytes(self, sender: str, *, hour: int) -> SenderBytes:
        """Return what a sender reported in an hour (since 1970), and in the day of that hour.

        Reports that are not added up yet are included.
        """
        ...

    def busy_hours(self, *, days: Sequence[int], above_bytes: int, limit: int) -> list[BusyHour]:
        """Return the senders with an hour above so many bytes on the given days.

        At most `limit` per day, those with the largest hours.
        """
        ...

    def sender_places(self, sender: str, *, day: int) -> list[Place]:
        """Return the servers, ports and protocols that a sender named on a day since 1970.

        By arrival. For a user without a key: all that any sender reported for that user.
        """
        ...

    def first_received_at(self, keys: Sequence[bytes]) -> int | None:
        """Return when the first report with one of these keys arrived; None if there is none."""
        ...

    def imported(self, identities: Sequence[bytes]) -> dict[bytes, dict[str, Amounts]]:
        """Return what imports have counted for each identity, by protocol."""
        ...

    def last_seq(self) -> int:
        """Return the last assigned seq."""
        ...

    def imported_since(self, origin: str, *, after_seq: int) -> Grown:
        """Return what the imports of an origin stored after a seq."""
        ...

    def reports_after(self, seq: int, *, limit: int) -> list[ReportRow]:
        """Return the reports after a seq, in order."""
        ...

    def grouped_reports(
        self, grouping: Grouping, *, after: int, least: int, most: int
    ) -> GroupedReports | None:
        """Return a range after a seq of up to `most` reports, to be read by series, and its sums.

        None if there are fewer than `least` up to the end of a block, or if one of them voids
        another one or is too old: these are to be read by `reports_after`.
        """
        ...

    def series_reports(
        self, grouping: Grouping, found: GroupedReports, *, part: int
    ) -> list[SeriesReports]:
        """Return one of the parts of grouped reports, counted from 0: some of the series."""
        ...

    def days_after(self, change_seq: int, *, limit: int) -> list[DayRow]:
        """Return the daily sums that changed after a seq, in the order of their last change."""
        ...

    def export_state(self, stream: str) -> ExportState:
        """Return the position of an export."""
        ...

    def backlog(self, stream: str) -> Backlog:
        """Return the backlog of an export."""
        ...

    def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        """Return the newest dead letters first."""
        ...

    def servers_of(
        self,
        username: str | None,
        *,
        since_day: int | None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[ServerUsage]:
        """Return usage by server, most first, of one user or of all, since a day or of all time.

        Skips the first `after` of them, and returns up to `limit`; None for all.
        """
        ...

    def idle_series(self, *, kept_per_user: int, limit: int) -> list[IdleSeries]:
        """Return up to `limit` series without stored reports and daily rows.

        The `kept_per_user` most recent series of each user with sums other than zero are left out.
        """
        ...

    def sums_of_user(self, username: str, *, since_day: int | None) -> UsageSums:
        """Return the sums over all servers of a user, since a day or of all time."""
        ...

    def sums_of_server(self, server: str, port: int, *, since_day: int | None) -> UsageSums:
        """Return the sums over all users of a server, since a day or of all time."""
        ...

    def days_of_server(self, server: str, port: int, *, since_day: int) -> list[DailyUsage]:
        """Return a server's usage by day."""
        ...

    def summary(self, *, since_day: int | None) -> Summary:
        """Return the sums of all users on all servers, since a day or of all time."""
        ...

    def facts(self) -> Facts:
        """Return the ledger's size and counts."""
        ...

    def audit(self) -> Audit:
        """Check the ledger's integrity and compare its sums with each other."""
        ...

    def close(self) -> None:
        """Close all reading connections."""
        ...


class SharedLedger(Ledger, Protocol):
    """A ledger that several collectors write and add up; one of them leads."""

    @property
    def leads(self) -> bool:
        """Whether this process is the leader, as far as it knows."""
        ...

    @property
    def losses(self) -> Losses:
        """What this process has seen in the ledger and was lost since."""
        ...

    @property
    def behind(self) -> Sequence[int]:
        """The partitions for which `add_up` should be called, as `lead` found them."""
        ...

    @property
    def is_settled(self) -> bool:
        """Whether the sums were complete up to the last number, as `lead` found them."""
        ...

    @property
    def others(self) -> int:
        """How many other collectors run, as `lead` found."""
        ...

    def lead(self, *, defers_sums: bool = False, is_awaited: bool = False) -> int:
        """Take or extend the lease if possible; return the seq up to which the sums go.

        With `defers_sums`, nothing is added up but by `add_up`; with `is_awaited` too, a reader
        waits for the sums.
        """
        ...

    def add_up(self, part: int) -> bool:
        """Add up reports of a partition; return whether there may be more of them.

        One thread at a time for each partition, on any collector. Raises NotStoredError.
        """
        ...


class SharedReader(LedgerReader, Protocol):
    """The reader of a shared ledger."""

    def commits_waiting(self) -> int:
        """Return how many commits have waited for a synchronous standby for seconds."""
        ...

    def await_sums(self) -> None:
        """Return once all reports stored so far are in the sums, whichever collector leads."""
        ...
