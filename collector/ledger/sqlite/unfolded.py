"""Keeps in memory what a fold needs of the reports that are not added up yet.

Reading it back would take longer than adding it up as it is stored, and would hold up commits. It
is only a copy: after a crash, or a commit that failed, the next fold reads the reports.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

from collector.ledger.sqlite.rows import ReportColumns
from collector.reports.report import DAY_MILLIS
from collector.reports.sender_days import HOUR_MILLIS, HourBytes

SumRow = Sequence[Any]
"""What some reports of one series and day add up to: username, day, series_id, upload_bytes,
download_bytes, billed_bytes, connections, reports, last_used_at, and the seq of the last one."""
_USERNAME = itemgetter(0)


_BITS = 64
_AMOUNT = (1 << _BITS) - 1
"""No user, and so no series, has a sum of more bytes; see `MAX_AMOUNT_BYTES`."""
_ONE_REPORT = 1 << 2 * _BITS


class _SumsOfDay:
    """The sums of reports of one day, by series_id.

    They are in as few objects as can be: of adding a report to them, most of the time is waiting
    for memory.
    """

    def __init__(self) -> None:
        self._amounts: dict[int, int] = {}
        """In one number the reports, then the download_bytes, then the upload_bytes."""
        self._latest: dict[int, tuple[int, int, str]] = {}
        """When a series was used last, the seq of its last report, and its user."""
        self._latest_at = 0
        self._billed_more: dict[int, int] = {}
        """What is billed beyond the raw bytes, where it is not these."""
        self._connections_more: dict[int, int] = {}
        """What was connected beyond one connection for each report."""

    def __len__(self) -> int:
        return len(self._amounts)

    def add(self, columns: ReportColumns, seqs: Sequence[int]) -> None:
        ids, amounts, latest = columns.series_ids, self._amounts, self._latest
        find = amounts.get
        for series_id, up, down in zip(
            ids, columns.upload_bytes, columns.download_bytes, strict=True
        ):
            amounts[series_id] = find(series_id, 0) + (down << _BITS | _ONE_REPORT) + up
        times = columns.reported_at
        news = zip(times, seqs, columns.usernames, strict=True)
        if times[0] >= self._latest_at and sorted(times) == list(times):
            latest.update(zip(ids, news, strict=True))
        else:
            for series_id, (at, seq, username) in zip(ids, news, strict=True):
                before = latest.get(series_id, (at,))
                latest[series_id] = max(at, before[0]), seq, username
        newest_at = max(times)
        self._latest_at = max(self._latest_at, newest_at)
        if columns.connections.count(1) != columns.size:
            for series_id, connections in zip(ids, columns.connections, strict=True):
                _add(self._connections_more, series_id, connections - 1)
        if not columns.are_billed_as_reported:
            for series_id, up, down, billed in zip(
                *(ids, columns.upload_bytes, columns.download_bytes, columns.billed_bytes),
                strict=True,
            ):
                if billed is not None:
                    _add(self._billed_more, series_id, billed - up - down)

    def rows(self, day: int) -> Iterator[SumRow]:
        billed_more, connections_more = self._billed_more.get, self._connections_more.get
        for series_id, amounts in self._amounts.items():
            at, seq, username = self._latest[series_id]
            up, down = amounts & _AMOUNT, amounts >> _BITS & _AMOUNT
            billed = up + down + billed_more(series_id, 0)
            reports = amounts >> 2 * _BITS
            connections = reports + connections_more(series_id, 0)
            yield username, day, series_id, up, down, billed, connections, reports, at, seq


def _add(sums: dict[int, int], series_id: int, amount: int) -> None:
    if amount:
        sums[series_id] = sums.get(series_id, 0) + amount


class Sums:
    """The sums of reports by day and series, and by sender and hour."""

    def __init__(self) -> None:
        self._days: dict[int, _SumsOfDay] = {}
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
        seqs = range(after_seq + 1, after_seq + columns.size + 1)
        times = columns.reported_at
        first_day = min(times) // DAY_MILLIS
        if first_day == max(times) // DAY_MILLIS:
            self._day(first_day).add(columns, seqs)
            return
        places: dict[int, list[int]] = {}
        for place, at in enumerate(times):
            places.setdefault(at // DAY_MILLIS, []).append(place)
        for day, of_day in places.items():
            self._day(day).add(columns.at(of_day), [seqs[place] for place in of_day])

    def _day(self, day: int) -> _SumsOfDay:
        if (found := self._days.get(day)) is None:
            found = self._days[day] = _SumsOfDay()
        return found

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
        days = self._days.items()
        return sorted(
            chain.from_iterable(sums.rows(day) for day, sums in days),
            key=_USERNAME,
        )

    def forget_rows(self) -> None:
        """Forget the sums by day and series."""
        self._days.clear()

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
        rows_per_step: int,
        is_rest: bool,
        orders_changes: bool,
    ) -> None:
        self.after, self.through = after, through
        """The seqs between which these reports are."""
        self.sums = sums
        """None if they were read."""
        self.is_rest = is_rest
        """Whether it was interrupted, and more was stored before it went on."""
        self._rows, self._rows_per_step = rows, rows_per_step
        self._orders_changes = orders_changes
        self._done = 0

    @property
    def reports(self) -> int:
        """How many reports it adds up."""
        return self.through - self.after

    @property
    def rows_left(self) -> int:
        """How many rows are left to be added."""
        return len(self._rows) - self._done

    @property
    def changes_after(self) -> int | None:
        """The seq after which the next rows have their seqs as changes of days.

        They are at most as many as the reports, so all are within `after` and `through`, and each
        is of one row; also where a fold goes on that was interrupted. None where a row has the seq
        of its last report.
        """
        return self.through - self.rows_left if self._orders_changes else None

    def next_rows(self) -> Sequence[SumRow]:
        """Return the rows that are to be added next, all of each of their users."""
        rows, end = self._rows, min(self._done + self._rows_per_step, len(self._rows))
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
