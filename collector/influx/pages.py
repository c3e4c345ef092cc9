"""Reads pages of the ledger and encodes them; blocking.

A long backlog is read in large pages, in which the reports of a series are together: the ledger
spells them, and InfluxDB stores points of one series that come in one request for less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from collector.influx import server_sums
from collector.influx.lines import PackedLines, UnwritableError
from collector.influx.points import Page, daily_page, raw_page, sample_page, traffic_key
from collector.influx.server_sums import block_start
from collector.ledger import ReportRow
from collector.ledger.grouped_reports import (
    BETWEEN_REPORTS,
    GroupedReports,
    Grouping,
    SeriesReports,
)
from collector.ledger.ports import LedgerReader
from collector.schema import Policy

REQUEST_LINES = 5000
"""InfluxDB's documentation advises 5,000 lines a request."""
RETENTION_MARGIN_MILLIS = 60_000
"""Points that would expire within this time are not sent."""


class PageReader:
    """Reads the rows of each stream after a position; any number of threads.

    `kept_seconds` says for how long a stream's points are kept; 0 is for ever. Without
    `overwrites`, pages are for a database in which no point takes the place of another one.
    """

    def __init__(
        self,
        reader: LedgerReader,
        *,
        kept_seconds: Callable[[Policy], int],
        now_millis: Callable[[], int],
        page_rows: int,
        overwrites: bool = True,
    ) -> None:
        self._reader = reader
        self._kept_seconds = kept_seconds
        self._now_millis = now_millis
        self._page_rows = page_rows
        self._overwrites = overwrites
        self._unencodable_seq = 0
        """Up to here is a name that line protocol cannot encode."""

    def after(self, policy: Policy, seq: int, *, most_rows: int = 0) -> Page | None:
        """Return the page after a position; None at the end of the ledger.

        It has up to `page_rows` rows. Where the ledger has more after that position, it may be a
        page of reports with up to `most_rows`.
        """
        oldest_millis = self._oldest_millis(policy)
        if policy is Policy.DAILY:
            days = self._reader.days_after(seq, limit=self._page_rows)
            is_full = len(days) == self._page_rows
            return daily_page(days, oldest_millis=oldest_millis, is_full=is_full) if days else None
        if grouped := self._grouped(seq, most_rows, oldest_millis=oldest_millis):
            return grouped
        limit = self._rows_after(seq)
        reports = self._reader.reports_after(seq, limit=limit)
        if not reports:
            return None
        is_full = len(reports) == limit
        if not self._overwrites:
            return sample_page(reports, oldest_millis=oldest_millis, is_full=is_full)
        return raw_page(
            reports,
            oldest_millis=oldest_millis,
            earlier=self._before_in_block(seq),
            is_full=is_full,
        )

    def _grouped(self, seq: int, most_rows: int, *, oldest_millis: int) -> Page | None:
        """Return a page of more than `page_rows` rows, if there is one."""
        if not self._overwrites or most_rows <= self._page_rows or seq != block_start(seq):
            return None
        if seq < self._unencodable_seq:
            return None
        grouping = _grouping(oldest_millis=oldest_millis)
        found = self._reader.grouped_reports(
            grouping, after=seq, least=self._page_rows + 1, most=most_rows
        )
        if found is None:
            return None
        parts = (
            self._reader.series_reports(grouping, found, part=part) for part in range(found.parts)
        )
        try:
            return grouped_page(found, parts)
        except UnwritableError:
            self._unencodable_seq = found.through_seq
            return None

    def _rows_after(self, seq: int) -> int:
        """Return the rows of a page: it ends with a block of sums, if it can.

        So the next page begins with one, and both may be written at a time.
        """
        end = block_start(seq + self._page_rows)
        return end - seq if end > seq else self._page_rows

    def _before_in_block(self, seq: int) -> list[ReportRow]:
        """Return the reports up to `seq` that are summed with those after it."""
        start = block_start(seq)
        rows = self._reader.reports_after(start, limit=seq - start) if seq > start else []
        return [row for row in rows if row.seq <= seq]

    def _oldest_millis(self, policy: Policy) -> int:
        kept_seconds = self._kept_seconds(policy)
        if not kept_seconds:
            return 0
        return self._now_millis() - kept_seconds * 1000 + RETENTION_MARGIN_MILLIS


def _grouping(*, oldest_millis: int) -> Grouping:
    """Return how the ledger is to spell reports for `grouped_page`."""
    return Grouping(
        upload_bytes="upload_bytes=",
        download_bytes="i,download_bytes=",
        billed_bytes="i,billed_bytes=",
        connections="i,connections=",
        time="i ",
        slice_millis=server_sums.SLICE_MILLIS,
        block_rows=server_sums.BLOCK_ROWS,
        oldest_millis=oldest_millis,
    )


def grouped_page(found: GroupedReports, parts: Iterable[Iterable[SeriesReports]]) -> Page:
    """Encode the lines that `raw_page` has for the same reports, those of a series together.

    InfluxDB stores points of one series that are in one request for a good half of the time.
    Raises UnwritableError where line protocol cannot encode a name.
    """
    sums = server_sums.grouped_sum_lines(found.sums)
    series = chain.from_iterable(parts)
    requests = list(_requests(_texts(series), last=sums))
    return Page((), [], 0, to_seq=found.through_seq, sums=sums, packed=requests, is_full=True)


def _texts(series: Iterable[SeriesReports]) -> Iterator[tuple[int, str]]:
    """Yield lines of reports and how many they are; not more than go into one request."""
    for each in series:
        key = traffic_key(each.username, each.server, each.port, each.protocol) + " "
        text = key + each.spelled.replace(BETWEEN_REPORTS, "\n" + key)
        if each.reports <= REQUEST_LINES:
            yield each.reports, text
        else:
            lines = text.split("\n")
            for start in range(0, len(lines), REQUEST_LINES):
                part = lines[start : start + REQUEST_LINES]
                yield len(part), "\n".join(part)


def _requests(texts: Iterable[tuple[int, str]], *, last: Sequence[str]) -> Iterator[PackedLines]:
    waiting: list[str] = []
    waiting_lines = 0
    for lines, text in texts:
        if waiting_lines + lines > REQUEST_LINES:
            yield PackedLines("\n".join(waiting), lines=waiting_lines)
            waiting, waiting_lines = [], 0
        waiting.append(text)
        waiting_lines += lines
    if waiting or last:
        yield PackedLines("\n".join([*waiting, *last]), lines=waiting_lines + len(last))
