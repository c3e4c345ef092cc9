"""Keeps in memory what a fold needs of the reports that are not added up yet.

Reading it back would take longer than adding it up as it is stored, and would hold up commits. It
is only a copy: after a crash, or a commit that failed, the next fold reads the reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import add, itemgetter
from typing import Any, cast

from collector.ledger.sqlite.report_columns import ReportColumns
from collector.reports.report import DAY_MILLIS
from collector.reports.sender_days import HOUR_MILLIS, HourBytes

SumRow = Sequence[Any]
"""What some reports of one series and day add up to: username, day, series_id, upload_bytes,
download_bytes, billed_bytes, connections, reports, last_used_at, and the seq of the last one."""
_USERNAME = itemgetter(0)


class Sums:
    """The sums of reports by day and series, and by sender and hour."""

    def __init__(self) -> None:
        self._days: dict[int, dict[int, list[Any]]] = {}
        """A SumRow by day and series_id."""
        self._hours: dict[tuple[str, int], int] = {}
        self.heard: dict[str, int] = {}
        """When the newest report of each sender arrived."""

    def __len__(self) -> int:
        """Return how many rows there are."""
        return sum(map(len, self._days.values()))

    def add(self, columns: ReportColumns, *, after_seq: int) -> None:
        """Add reports that are stored after a seq."""
        if not columns.size:
            return
        billed = list(map(add, columns.upload_bytes, columns.download_bytes))
        if not columns.are_billed_as_reported:
            amounts = zip(columns.billed_bytes, billed, strict=True)
            billed = [raw if it is None else it for it, raw in amounts]
        seqs = range(after_seq + 1, after_seq + columns.size + 1)
        added = (columns.usernames, *columns[1:6], billed, seqs)
        first, last = min(columns.reported_at), max(columns.reported_at)
        if first // DAY_MILLIS == last // DAY_MILLIS:
            self._add_to_day(first // DAY_MILLIS, zip(*added, strict=True))
            return
        days: dict[int, list[tuple[Any, ...]]] = {}
        for at, report in zip(columns.reported_at, zip(*added, strict=True), strict=True):
            days.setdefault(at // DAY_MILLIS, []).append(report)
        for day, reports in days.items():
            self._add_to_day(day, reports)

    def _add_to_day(self, day: int, reports: Iterable[tuple[Any, ...]]) -> None:
        series = self._days.setdefault(day, {})
        find = series.get
        for username, series_id, up, down, connections, at, billed, seq in reports:
            row = find(series_id)
            if row is None:
                row = [username, day, series_id, up, down, billed, connections, 1, at, seq]
                series[series_id] = row
                continue
            row[3] += up
            row[4] += down
            row[5] += billed
            row[6] += connections
            row[7] += 1
            if at > row[8]:  # noqa: PLR1730 - a call of max() takes longer
                row[8] = at
            row[9] = seq

    def add_commit(
        self,
        columns: ReportColumns,
        sent: Iterable[tuple[str, int]],
        *,
        after_seq: int,
        at_millis: int,
    ) -> None:
        """Add the reports of a commit after a seq, and the raw bytes of each of its senders."""
        self.add(columns, after_seq=after_seq)
        hour = at_millis // HOUR_MILLIS
        for sender, raw_bytes in sent:
            self._hours[sender, hour] = self._hours.get((sender, hour), 0) + raw_bytes
            self.heard[sender] = max(at_millis, self.heard.get(sender, 0))

    def rows(self) -> list[SumRow]:
        """Return the sums, those of a user after each other, in the order of the names' bytes."""
        return sorted(
            chain.from_iterable(series.values() for series in self._days.values()), key=_USERNAME
        )

    def hours(self) -> list[HourBytes]:
        """Return what each sender reported in each hour, by arrival."""
        return [HourBytes(*key, raw_bytes) for key, raw_bytes in self._hours.items()]


class Folding:
    """A fold under way: of all reports that were stored when it began, some users at a time."""

    def __init__(
        self,
        *,
        after: int,
        through: int,
        sums: Sums | None,
        rows: Sequence[SumRow],
        is_rest: bool,
    ) -> None:
        self.after, self.through = after, through
        """The seqs between which these reports are."""
        self.sums = sums
        """None if they were read."""
        self.is_rest = is_rest
        """Whether it was interrupted, and more was stored before it went on."""
        self._rows = rows
        self._done = 0

    @property
    def reports(self) -> int:
        """How many reports it adds up."""
        return self.through - self.after

    @property
    def rows_left(self) -> int:
        """How many rows are left to be added."""
        return len(self._rows) - self._done

    def next_rows(self, most: int) -> Sequence[SumRow]:
        """Return about so many rows that are to be added next, all of each of their users."""
        rows, end = self._rows, min(self._done + most, len(self._rows))
        while 0 < end < len(rows) and rows[end][0] == rows[end - 1][0]:
            end += 1
        return rows[self._done : end]

    def note_added(self, rows: Sequence[SumRow]) -> None:
        """Note that what `next_rows` returned is stored."""
        self._done += len(rows)


class Unfolded:
    """The reports that are stored and not in the sums yet: their sums; and ids not indexed yet."""

    def __init__(self, keys: dict[bytes, int], *, sums: Sums | None) -> None:
        self.keys = keys
        """The seqs of ids that are in no index yet."""
        self.sums = sums
        """Of the reports after the fold under way; None if they have to be read."""
        self.folding: Folding | None = None

    def add(
        self,
        columns: ReportColumns,
        sent: Iterable[tuple[str, int]],
        *,
        after_seq: int,
        at_millis: int,
    ) -> None:
        """Add the reports of a commit after a seq, and the raw bytes of each of its senders."""
        seqs = range(after_seq + 1, after_seq + columns.size + 1)
        added = dict(zip(columns.keys, seqs, strict=True))
        added.pop(None, None)
        self.keys |= cast("dict[bytes, int]", added)
        if self.sums is not None:
            self.sums.add_commit(columns, sent, after_seq=after_seq, at_millis=at_millis)

    def forget_keys(self, through: int) -> None:
        """Forget the keys of reports up to a seq, which are indexed."""
        self.keys = {key: seq for key, seq in self.keys.items() if seq > through}

    def seqs_of(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Return those of the keys that a report has that is not indexed, with its seq."""
        known = self.keys
        if known.keys().isdisjoint(keys):
            return {}
        return {key: known[key] for key in keys if key in known}
