"""Reads pages of the ledger and encodes them; blocking."""

from __future__ import annotations

from collections.abc import Callable

from collector.influx.points import Page, daily_page, raw_page, sample_page
from collector.influx.server_sums import block_start
from collector.ledger import ReportRow
from collector.ledger.ports import LedgerReader
from collector.schema import Policy

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

    def after(self, policy: Policy, seq: int) -> Page | None:
        """Return the page after a position; None at the end of the ledger."""
        oldest_millis = self._oldest_millis(policy)
        if policy is Policy.DAILY:
            days = self._reader.days_after(seq, limit=self._page_rows)
            is_full = len(days) == self._page_rows
            return daily_page(days, oldest_millis=oldest_millis, is_full=is_full) if days else None
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
