"""Keeps in memory what a fold needs of the reports that are not added up yet.

Reading it back would take longer than adding it up as it is stored, and would hold up commits. It
is only a copy: after a crash, or a commit that failed, the next fold reads the reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from collector.reports.report import DAY_MILLIS
from collector.reports.sender_days import HOUR_MILLIS, HourBytes

REPORTS_PER_SLICE = 16_384

ReportRow = tuple[int, bytes | None, int, int, int, int, int, int, str, int | None]
"""The columns of a stored report: seq, report_key, series_id, upload_bytes, download_bytes,
connections, reported_at, received_at, reporter, billed_bytes."""


class Sums:
    """The sums of reports by day and series, and by sender and hour."""

    def __init__(self) -> None:
        self._days: dict[int, dict[int, list[int]]] = {}
        self._hours: dict[tuple[str, int], int] = {}
        self.heard: dict[str, int] = {}
        """When the newest report of each sender arrived."""

    def add(self, rows: Iterable[ReportRow]) -> None:
        """Add stored reports, in their order."""
        day, series = -1, dict[int, list[int]]()
        for seq, _, series_id, up, down, connections, reported_at, _, _, billed in rows:
            if reported_at // DAY_MILLIS != day:
                day = reported_at // DAY_MILLIS
                series = self._days.setdefault(day, {})
            if billed is None:
                billed = up + down  # noqa: PLW2901 - this is done for every report
            sums = series.get(series_id)
            if sums is None:
                series[series_id] = [up, down, billed, connections, 1, reported_at, seq]
                continue
            sums[0] += up
            sums[1] += down
            sums[2] += billed
            sums[3] += connections
            sums[4] += 1
            if reported_at > sums[5]:  # noqa: PLR1730 - a call of max() takes longer
                sums[5] = reported_at
            sums[6] = seq

    def add_sent(self, sender: str, raw_bytes: int, *, received_at_millis: int) -> None:
        """Add what a sender reported in one request."""
        key = sender, received_at_millis // HOUR_MILLIS
        self._hours[key] = self._hours.get(key, 0) + raw_bytes
        self.heard[sender] = max(received_at_millis, self.heard.get(sender, 0))

    def rows(self) -> list[tuple[int, ...]]:
        """Return the sums of each day and series, in that order, with the last seq at the end.

        The columns are those of the table `folding`, see `fold`.
        """
        return [
            (day, series_id, *series[series_id])
            for day, series in sorted(self._days.items())
            for series_id in sorted(series)
        ]

    def hours(self) -> list[HourBytes]:
        """Return what each sender reported in each hour, by arrival."""
        return [HourBytes(*key, raw_bytes) for key, raw_bytes in self._hours.items()]


class Folding:
    """A fold under way: of all reports that were stored when it began."""

    def __init__(
        self, *, after: int, through: int, keys: dict[bytes, int], sums: Sums | None
    ) -> None:
        self.after, self.through = after, through
        """The seqs between which these reports are."""
        self.keys = keys
        self.sums = sums
        """None if they have to be read."""
        self.indexed_seq = after
        """The seq up to which their keys are indexed."""
        self.is_prepared = False
        """Whether the sums are in the temporary table."""


class Unfolded:
    """The reports that are stored and not in the sums yet: their keys, and their sums."""

    def __init__(self, keys: dict[bytes, int], *, sums: Sums | None) -> None:
        self._keys = keys
        self._sums = sums
        self.folding: Folding | None = None
        """The fold under way; the keys and sums of its reports are kept there."""

    def begin(self, *, after: int, through: int) -> Folding:
        """Begin a fold of all reports: those after one seq through another."""
        self.folding = Folding(after=after, through=through, keys=self._keys, sums=self._sums)
        self._keys, self._sums = {}, Sums()
        return self.folding

    def add(
        self,
        rows: Sequence[ReportRow],
        sent: Iterable[tuple[str, int]],
        *,
        received_at_millis: int,
    ) -> None:
        """Add the reports of a commit, and the raw bytes of each of its senders."""
        self._keys.update([(row[1], row[0]) for row in rows if row[1] is not None])
        if self._sums is not None:
            self._sums.add(rows)
            for sender, raw_bytes in sent:
                self._sums.add_sent(sender, raw_bytes, received_at_millis=received_at_millis)

    def keys(self) -> Iterator[bytes]:
        """Yield the keys of all these reports."""
        yield from self._keys
        if self.folding is not None:
            yield from self.folding.keys

    def seqs_of(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Return those of the keys that a report has, with its seq."""
        known: dict[bytes, int] = {}
        for recent in (self._keys, self.folding.keys if self.folding else {}):
            if recent:
                known.update([(key, recent[key]) for key in keys if key in recent])
        return known
