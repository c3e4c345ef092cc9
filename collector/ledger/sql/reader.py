"""The part of a ledger's reader that is the same for both engines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from collector.ledger import Backlog, Changes, DayRow, DeadLetter, ExportState, ReportRow
from collector.ledger.corrections import CorrectedSum, Correction, Stretch, VoidPreview, Wanted
from collector.ledger.grouped_reports import GroupedReports, Grouping, SeriesReports
from collector.ledger.import_amounts import Amounts, Grown
from collector.ledger.sql import corrected as sql_corrected
from collector.ledger.sql import export as sql_export
from collector.ledger.sql import feed as sql_feed
from collector.ledger.sql import imports as sql_imports
from collector.ledger.sql import ratios as sql_ratios
from collector.ledger.sql import reporters as sql_reporters
from collector.ledger.sql import senders as sql_senders
from collector.ledger.sql import series as sql_series
from collector.ledger.sql import statistics as sql_statistics
from collector.ledger.sql.database import Database, last_seq
from collector.ledger.statistics_values import (
    DailyUsage,
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

T = TypeVar("T")


class SqlReader(ABC):
    """Reads a ledger; see `LedgerReader` for each method's contract."""

    @abstractmethod
    def read(
        self, work: Callable[[Database], T], *, is_snapshot: bool = False, is_long: bool = False
    ) -> T:
        """Run queries: from one snapshot with `is_snapshot`, with more time with `is_long`."""

    def changes(self, *, after: int, limit: int) -> Changes:
        """Return the users changed after a seq, as of one moment."""
        return self.read(
            lambda db: sql_feed.changes(db, after=after, limit=limit), is_snapshot=True
        )

    def configured(self) -> list[Configured]:
        """Return the keys of collectors' environments."""
        return self.read(sql_reporters.configured)

    def reporters(self) -> list[Reporter]:
        """Return all reporters by name, including revoked ones."""
        return self.read(sql_reporters.reporters)

    def contacts(self) -> Contacts:
        """Return when reporters were last in contact, and who was refused."""
        return self.read(sql_reporters.contacts)

    def ratios(self) -> list[Ratio]:
        """Return the ratios that are set, by server."""
        return self.read(sql_ratios.ratios)

    def corrections(self, *, limit: int) -> list[Correction]:
        """Return the newest corrections first."""
        return self.read(lambda db: sql_corrected.corrections(db, limit=limit))

    def open_correction(self) -> Correction | None:
        """Return the oldest correction that is not carried out completely."""
        return self.read(sql_corrected.open_correction)

    def preview(self, wanted: Wanted) -> VoidPreview:
        """Compute what a void would subtract now, by user."""
        return self.read(
            lambda db: sql_corrected.preview(db, wanted), is_snapshot=True, is_long=True
        )

    def corrected_sum(self, stretch: Stretch) -> CorrectedSum:
        """Return what corrections added to a user in a range of lines, and the part of a period."""
        return self.read(lambda db: sql_corrected.corrected_sum(db, stretch), is_snapshot=True)

    def sender_bytes(self, sender: str, *, hour: int) -> SenderBytes:
        """Return what a sender reported in an hour and its day, from one snapshot."""
        return self.read(lambda db: sql_senders.bytes_of(db, sender, hour=hour), is_snapshot=True)

    def busy_hours(self, *, days: Sequence[int], above_bytes: int, limit: int) -> list[BusyHour]:
        """Return the senders with an hour above so many bytes on the given days."""
        return self.read(
            lambda db: sql_senders.busy_hours(db, days=days, above_bytes=above_bytes, limit=limit),
            is_long=True,
        )

    def sender_places(self, sender: str, *, day: int) -> list[Place]:
        """Return the servers, ports and protocols that a sender named on a day."""
        return self.read(
            lambda db: sql_senders.places_of(db, sender, day=day), is_snapshot=True, is_long=True
        )

    def imported(self, identities: Sequence[bytes]) -> dict[bytes, dict[str, Amounts]]:
        """Return what imports have counted for each identity, by protocol."""
        return self.read(lambda db: sql_imports.counted_of(db, identities))

    def last_seq(self) -> int:
        """Return the last assigned seq."""
        return self.read(last_seq)

    def imported_since(self, origin: str, *, after_seq: int) -> Grown:
        """Return what the imports of an origin stored after a seq."""
        return self.read(
            lambda db: sql_imports.stored_since(db, origin, after_seq=after_seq),
            is_snapshot=True,
            is_long=True,
        )

    def reports_after(self, seq: int, *, limit: int) -> list[ReportRow]:
        """Return the reports after a seq, in order; those that are numbered."""
        return self.read(lambda db: sql_feed.reports_after(db, seq, limit=limit))

    def grouped_reports(
        self, grouping: Grouping, *, after: int, least: int, most: int
    ) -> GroupedReports | None:
        """Return the reports after a seq by series; None where `reports_after` is to be asked."""
        return self.read(
            lambda db: sql_feed.grouped_reports(db, grouping, after=after, least=least, most=most),
            is_long=True,
        )

    def series_reports(
        self, grouping: Grouping, found: GroupedReports, *, part: int
    ) -> list[SeriesReports]:
        """Return one of the parts of grouped reports, counted from 0."""
        return self.read(
            lambda db: sql_feed.series_reports(db, grouping, found, part=part), is_long=True
        )

    def days_after(self, change_seq: int, *, limit: int) -> list[DayRow]:
        """Return the daily sums that changed after a seq, in the order of their last change."""
        return self.read(lambda db: sql_feed.days_after(db, change_seq, limit=limit))

    def export_state(self, stream: str) -> ExportState:
        """Return the position of an export."""
        return self.read(lambda db: sql_export.state_of(db, stream))

    def backlog(self, stream: str) -> Backlog:
        """Return the backlog of an export."""
        return self.read(lambda db: sql_export.backlog_of(db, stream), is_snapshot=True)

    def dead_letters(self, *, limit: int) -> list[DeadLetter]:
        """Return the newest dead letters first."""
        return self.read(lambda db: sql_export.dead_letters(db, limit=limit))

    def servers_of(
        self,
        username: str | None,
        *,
        since_day: int | None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[ServerUsage]:
        """Return usage by server, most first: of one user or of all, since a day or of all time."""
        return self.read(
            lambda db: sql_statistics.servers_of(
                db, username, since_day=since_day, after=after, limit=limit
            ),
            is_long=True,
        )

    def idle_series(self, *, kept_per_user: int, limit: int) -> list[IdleSeries]:
        """Return series without stored reports and daily rows."""
        return self.read(
            lambda db: sql_series.idle(db, kept_per_user=kept_per_user, limit=limit), is_long=True
        )

    def sums_of_user(self, username: str, *, since_day: int | None) -> UsageSums:
        """Return the sums over all servers of a user, since a day or of all time."""
        return self.read(
            lambda db: sql_statistics.sums_of_user(db, username, since_day=since_day), is_long=True
        )

    def sums_of_server(self, server: str, port: int, *, since_day: int | None) -> UsageSums:
        """Return the sums over all users of a server, since a day or of all time."""
        return self.read(
            lambda db: sql_statistics.sums_of_server(db, server, port, since_day=since_day),
            is_long=True,
        )

    def days_of_server(self, server: str, port: int, *, since_day: int) -> list[DailyUsage]:
        """Return a server's usage by day, oldest first."""
        return self.read(
            lambda db: sql_statistics.days_of_server(db, server, port, since_day=since_day),
            is_long=True,
        )

    def summary(self, *, since_day: int | None) -> Summary:
        """Return the sums of all users on all servers, since a day or of all time."""
        return self.read(lambda db: sql_statistics.summary(db, since_day=since_day), is_long=True)
