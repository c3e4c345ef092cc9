"""The ledger: exact, durable totals. The port and its values; adapters are beside it.

Totals are cumulative since for ever and never go down; what is taken back is a correction beside
them (see `corrections`), and sums by server and day are less it. `seq` numbers reports in the order
they were stored; a user's `change_seq` is the seq of the last report that touched it, so that the
users changed after a seq can be read in pages.

`upload_bytes` and `download_bytes` are raw, as they were reported. `billed_bytes` is what the same
reports count for against quotas, each as it was decided when it was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from collector.ledger.corrections import (
    CORRECTED_REPORTS,
    CorrectedSum,
    Correction,
    Stretch,
    VoidPreview,
    Wanted,
)
from collector.ledger.import_amounts import Amounts, Grown
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
from collector.reports.report import Report
from collector.reports.reporters import Configured, Reporter
from collector.reports.sender_days import SenderBytes
from collector.reports.server_bounds import Place
from collector.reports.spikes import BusyHour


class Batch(msgspec.Struct, frozen=True):
    """The reports of one request, and who sent it."""

    reporter: str
    reports: Sequence[Report]


class Receipt(msgspec.Struct, frozen=True):
    """What became of a batch. All of it is on disk."""

    accepted: int
    duplicates: int
    conflicts: int = 0
    """Duplicates whose content differs from what was stored first under their id."""
    full: tuple[int, ...] = ()
    """Places in the batch of the reports that were not stored, since their user's total, raw or
    billed, would be beyond what the ledger counts for one user."""


class UserTotal(msgspec.Struct, frozen=True):
    """A user's traffic since for ever."""

    username: str
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    reports: int
    last_used_at_millis: int
    change_seq: int
    corrected_upload_bytes: int = 0
    """What corrections added, negative for what was taken back; so are the next two."""
    corrected_download_bytes: int = 0
    corrected_billed_bytes: int = 0
    corrected_seq: int = 0
    """The number of the user's newest line of a correction; 0 where there is none."""


class WriterRun(msgspec.Struct, frozen=True):
    """One life of a collector's process: it stored all reports after a seq, up to the next run."""

    after_seq: int
    token: str
    """Random: a ledger that was restored from a copy and went on has others from there on."""


class Changes(msgspec.Struct, frozen=True):
    """A page of users that changed, in the order of their last change."""

    ledger_id: str
    head: int
    """The last report that is in the sums."""
    changes: list[UserTotal]
    runs: list[WriterRun]
    """The run that stored the report the page begins after, and all later ones."""


class ReportRow(msgspec.Struct, frozen=True, gc=False):
    """A stored report, to be exported."""

    seq: int
    username: str
    server: str
    port: int
    protocol: str
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    connections: int
    reported_at_millis: int
    voids_seq: int | None = None
    """The report that this row takes back."""


class DayRow(msgspec.Struct, frozen=True, gc=False):
    """A series' sums of one UTC day, to be exported; `change_seq` is the last report in them."""

    change_seq: int
    day: int
    username: str
    server: str
    port: int
    protocol: str
    upload_bytes: int
    download_bytes: int
    billed_bytes: int
    connections: int
    reports: int
    last_used_at_millis: int


class ExportState(msgspec.Struct, frozen=True):
    """How far the ledger has been exported to one retention policy."""

    stream: str
    seq: int = 0
    """Everything up to here is in InfluxDB, or set aside as a dead letter."""
    points: int = 0
    advanced_at_millis: int | None = None
    problem: str | None = None
    """Why it does not go on now."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A line that InfluxDB refused for good."""

    stream: str
    line: str
    reason: str
    at_millis: int


class Backlog(msgspec.Struct, frozen=True):
    """Reports that are stored and not yet exported."""

    reports: int
    oldest_received_at_millis: int | None


class Progress(msgspec.Struct, frozen=True):
    """What one step of an export came to."""

    stream: str
    from_seq: int
    to_seq: int
    points: int
    dead_letters: Sequence[DeadLetter] = ()


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
