"""Encodes rows of the ledger as lines for InfluxDB.

A point's timestamp is the report's time in milliseconds, with the sequence number in the digits
below (`ordered_nanos`). So reports of the same millisecond do not overwrite each other, and a point
that is written again overwrites itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

from collector.influx.delivery import Refused
from collector.influx.lines import NANOS_PER_MILLI, UnwritableError, ordered_nanos, series_key
from collector.influx.server_sums import sum_lines
from collector.ledger import DayRow, ReportRow
from collector.reports.report import DAY_MILLIS
from collector.schema import TRAFFIC

Row = TypeVar("Row", ReportRow, DayRow)
REMEMBERED_SERIES = 100_000


@dataclass(frozen=True, slots=True)
class Page:
    """A page of rows, encoded as lines."""

    to_seq: int
    lines: list[str]
    refused: list[Refused]
    """Rows that line protocol cannot encode."""
    expired: int
    """Rows older than the retention, which InfluxDB would refuse."""
    sums: Sequence[str] = ()
    """Lines of sums over these rows, which are no points of their own."""

    @property
    def rows(self) -> int:
        """How many rows of the ledger are in it."""
        return len(self.lines) + len(self.refused) + self.expired


def raw_page(
    rows: Sequence[ReportRow], *, oldest_millis: int, earlier: Iterable[ReportRow] = ()
) -> Page:
    """Encode a line per report, and the sums per server.

    `rows` are in the order of `seq` and not empty; `earlier` has those of the same block of sums
    before them (`block_start`).
    """
    page = _page(
        rows,
        to_seq=rows[-1].seq,
        at_millis=lambda row: row.reported_at_millis,
        spell=_spell_report,
        oldest_millis=oldest_millis,
    )
    return replace(page, sums=sum_lines(rows, earlier=earlier, oldest_millis=oldest_millis))


def daily_page(rows: Sequence[DayRow], *, oldest_millis: int) -> Page:
    """Encode a line per series and day; `rows` are in the order of `change_seq`, not empty."""
    return _page(
        rows,
        to_seq=rows[-1].change_seq,
        at_millis=lambda row: row.day * DAY_MILLIS,
        spell=_spell_day,
        oldest_millis=oldest_millis,
    )


def _page(
    rows: Sequence[Row],
    *,
    to_seq: int,
    at_millis: Callable[[Row], int],
    spell: Callable[[Row], str],
    oldest_millis: int,
) -> Page:
    lines: list[str] = []
    refused: list[Refused] = []
    expired = 0
    for row in rows:
        if at_millis(row) < oldest_millis:
            expired += 1
            continue
        try:
            key = _key(row.username, row.server, row.port, row.protocol)
        except UnwritableError as error:
            refused.append(Refused(repr(row), str(error)))
            continue
        lines.append(f"{key} {spell(row)}")
    return Page(to_seq, lines, refused, expired)


def _spell_report(row: ReportRow) -> str:
    if row.voids_seq is not None:
        # With the timestamp of the voided report's point, so that it overwrites that point.
        nanos = ordered_nanos(row.reported_at_millis, row.voids_seq)
        return f"upload_bytes=0i,download_bytes=0i,billed_bytes=0i,connections=0i {nanos}"
    return (
        f"upload_bytes={row.upload_bytes}i,download_bytes={row.download_bytes}i,"
        f"billed_bytes={row.billed_bytes}i,connections={row.connections}i "
        f"{ordered_nanos(row.reported_at_millis, row.seq)}"
    )


def _spell_day(row: DayRow) -> str:
    return (
        f"upload_bytes={row.upload_bytes}i,download_bytes={row.download_bytes}i,"
        f"billed_bytes={row.billed_bytes}i,connections={row.connections}i,reports={row.reports}i,"
        f"last_used_at_millis={row.last_used_at_millis}i "
        f"{row.day * DAY_MILLIS * NANOS_PER_MILLI}"
    )


@lru_cache(maxsize=REMEMBERED_SERIES)
def _key(username: str, server: str, port: int, protocol: str) -> str:
    tags = {"user": username, "server": server, "port": str(port), "protocol": protocol}
    return series_key(TRAFFIC.name, tags)
