"""The ports of a ledger: its writing side, its reading side, and what a shared one adds."""

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
from collector.reports.reporters import Configured, Reporter
from collector.reports.sender_days import SenderBytes
from collector.reports.server_bounds import Place
from collector.reports.spikes import BusyHour

Alongside = Callable[[Database, Sequence[Receipt]], None]
"""Writes what belongs to a commit of reports, with what became of them."""


class Ledger(Protocol):
    """The writing side, used by one thread.

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

        With `defers_sums` the reports are stored, and in no sum before the next `fold`. What
        `alongside` writes is in the same commit; what it raises undoes all of it.
        """
        ...

    def fold(self) -> None:
        """Add up what is stored and in no sum yet; a ledger that is opened does so by itself."""
        ...

    def age(self, *, ran_millis: int, kept_millis: int) -> int:
        """Note that a collector ran so much longer than at the last call.

        Return the seq up to which reports came before `kept_millis` of the time that was run.
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
        """Drop up to `limit` of the oldest reports received before; return how many were.

        With `keeps_unexported`, what is not in InfluxDB yet stays; so does what is after
        `through_seq`, if that is given, and its ids are remembered.
        """
        ...

    def note_progress(self, progress: Progress, *, at_millis: int) -> bool:
        """Store that an export went on, unless it was begun anew meanwhile; return whether."""
        ...

    def note_export_problem(self, stream: str, problem: str | None) -> None:
        """Store why an export does not go on, None when it does."""
        ...

    def forget_days(self, *, before_day: int, limit: int) -> int:
        """Drop up to `limit` of the oldest daily rows before a day; return how many were."""
        ...

    def correct(self, *, now_millis: int, limit: int = CORRECTED_REPORTS) -> bool:
        """Carry out a step of the oldest correction that is open; return whether there is more.

        A step voids up to `limit` reports, in one commit. Where another collector leads a shared
        ledger nothing is done.
        """
        ...

    def forget_series(self, found: Sequence[IdleSeries]) -> int:
        """Drop series that are still as they were found; return how many. No sum changes."""
        ...

    def close(self) -> None:
        """Close the ledger and let another process have it."""
        ...


class LedgerReader(Protocol):
    """The reading side; any number of threads."""

    def changes(self, *, after: int, limit: int) -> Changes:
        """Return the users changed after a seq."""
        ...

    def configured(self) -> list[Configured]:
        """Return the keys of collectors' environments, those revoked since too."""
        ...

    def reporters(self) -> list[Reporter]:
        """Return all reporters by name, revoked ones too."""
        ...

    def ratios(self) -> list[Ratio]:
        """Return the ratios that are set, by server."""
        ...

    def corrections(self, *, limit: int) -> list[Correction]:
        """Return the newest corrections first."""
        ...

    def open_correction(self) -> Correction | None:
        """Return the oldest correction that is not carried out to its end."""
        ...

    def preview(self, wanted: Wanted) -> VoidPreview:
        """Work out what a void would take now, from whom."""
        ...

    def corrected_sum(self, stretch: Stretch) -> CorrectedSum:
        """Return what corrections added to a user within a stretch, and what is of a period."""
        ...

    def last_reports(self) -> dict[str, int]:
        """Return when the newest report that is still kept came from each sender, by its scope."""
        ...

    def sender_bytes(self, sender: str, *, hour: int) -> SenderBytes:
        """Return what a sender, by its scope, reported in an hour since 1970 and in its day.

        With what is in no sum yet.
        """
        ...

    def busy_hours(self, *, days: Sequence[int], above_bytes: int, limit: int) -> list[BusyHour]:
        """Return the senders with an hour of more than so many bytes on some days.

        Up to `limit` for each day, those with the largest hours.
        """
        ...

    def sender_places(self, sender: str, *, day: int) -> list[Place]:
        """Return the servers, ports and protocols that a sender named on a day since 1970.

        By when it arrived. Of a user without a key: all that were reported for that user.
        """
        ...

    def first_received_at(self, keys: Sequence[bytes]) -> int | None:
        """Return when the first of the reports with these keys came, None when there is none."""
        ...

    def imported(self, identities: Sequence[bytes]) -> dict[bytes, dict[str, Amounts]]:
        """Return what imports have counted under each identity, by protocol."""
        ...

    def last_seq(self) -> int:
        """Return the last number that was given to a report."""
        ...

    def imported_since(self, origin: str, *, after_seq: int) -> Grown:
        """Return what the imports of an origin stored after a number."""
        ...

    def reports_after(self, seq: int, *, limit: int) -> list[ReportRow]:
        """Return the reports after a seq, in order."""
        ...

    def days_after(self, change_seq: int, *, limit: int) -> list[DayRow]:
        """Return the days' sums that changed after a seq, in the order of their last change."""
        ...

    def export_state(self, stream: str) -> ExportState:
        """Return how far an export is."""
        ...

    def backlog(self, stream: str) -> Backlog:
        """Return what an export has still before it."""
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
        """Return usage by server, most first, of one user or of all, since a day or for ever.

        Leaves out the first `after` of them, and returns up to `limit`; None for all.
        """
        ...

    def idle_series(self, *, kept_per_user: int, limit: int) -> list[IdleSeries]:
        """Return up to `limit` series that no kept report and no day refers to.

        Without those of each user that were used last, as far as there is anything in their sums.
        """
        ...

    def sums_of_user(self, username: str, *, since_day: int | None) -> UsageSums:
        """Return the sums over all servers of a user, since a day or for ever."""
        ...

    def sums_of_server(self, server: str, port: int, *, since_day: int | None) -> UsageSums:
        """Return the sums over all users of a server, since a day or for ever."""
        ...

    def days_of_server(self, server: str, port: int, *, since_day: int) -> list[DailyUsage]:
        """Return a server's usage by day."""
        ...

    def summary(self, *, since_day: int | None) -> Summary:
        """Return the sums over everything, since a day or for ever."""
        ...

    def facts(self) -> Facts:
        """Return the ledger's size and counts."""
        ...

    def audit(self) -> Audit:
        """Check the file and compare the ledger's sums with each other."""
        ...

    def close(self) -> None:
        """Close all reading connections."""
        ...


class SharedLedger(Ledger, Protocol):
    """A ledger that several collectors write; one of them leads."""

    @property
    def leads(self) -> bool:
        """Whether this process is the one, as far as it knows."""
        ...

    @property
    def losses(self) -> Losses:
        """What this process has seen in the ledger and is not there any more."""
        ...

    def lead(self) -> int:
        """Take or keep the lead if possible; return up to where the sums go."""
        ...


class SharedReader(LedgerReader, Protocol):
    """The reading side of such a ledger."""

    def commits_waiting(self) -> int:
        """Return how many commits have waited for a synchronous standby for seconds."""
        ...

    def await_sums(self) -> None:
        """Return once all that is stored now is in the sums, whoever adds it up."""
        ...
