"""Encodes rows of the ledger as lines for InfluxDB.

A point's timestamp is the report's time in milliseconds, with the sequence number in the digits
below (`ordered_nanos`). So reports of the same millisecond do not overwrite each other, and a point
that is written again overwrites itself. For a database that knows milliseconds only it is the
report's second, with the number in the milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import attrgetter
from typing import TypeVar

from collector.influx.delivery import Refused
from collector.influx.lines import (
    NANOS_PER_MILLI,
    PackedLines,
    UnwritableError,
    ordered_nanos,
    series_key,
)
from collector.influx.server_sums import block_start, sum_lines
from collector.ledger import DayRow, ReportRow
from collector.reports.report import DAY_MILLIS
from collector.schema import TRAFFIC

Row = TypeVar("Row", ReportRow, DayRow)
REMEMBERED_SERIES = 20_000
"""Of a larger fleet, whose users report in turns, each one would be forgotten before its next
report, and 100,000 of them take 33 MB."""
_SPECIAL = re.compile(r"[,= \\\n\r]")
"""What a tag cannot have, or not without an escape."""
MILLIS_PER_SECOND = 1000
SAMPLES_PER_SECOND = 997
"""The samples of a series that a second has room for. A prime: senders repeat their lists of users,
whose lengths are round, and reports a multiple of it apart would share a sample."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of rows, encoded as lines."""

    lines: Sequence[str]
    refused: list[Refused]
    """Rows that line protocol cannot encode."""
    expired: int
    """Rows older than the retention, which InfluxDB would refuse."""
    to_seq: int = field(kw_only=True)
    sums: Sequence[str] = field(default=(), kw_only=True)
    """Lines of sums over these rows, which are no points of their own."""
    packed: Sequence[PackedLines] = field(default=(), kw_only=True)
    """In place of `lines`: the requests with the lines of reports and of sums, in any order."""
    is_full: bool = field(default=False, kw_only=True)
    """Whether there may be more rows after it."""
    rewrites_seq: int = field(default=0, kw_only=True)
    """Its points overwrite points of pages up to this seq, which have to be written before it."""
    keys: frozenset[Hashable] = field(default=frozenset(), kw_only=True)
    """What distinguishes those of its points that other pages may have too."""

    @property
    def requests(self) -> Sequence[Sequence[str]]:
        """The lines to write, by request; which of them is carried out first does not matter."""
        return self.packed or [[*self.lines, *self.sums]]

    @property
    def points(self) -> int:
        """How many points it has, without sums."""
        return sum(map(len, self.packed)) - len(self.sums) if self.packed else len(self.lines)


def raw_page(
    rows: Sequence[ReportRow],
    *,
    oldest_millis: int,
    earlier: Iterable[ReportRow] = (),
    is_full: bool = False,
) -> Page:
    """Encode a line per report, and the sums per server.

    `rows` are in the order of `seq` and not empty; `earlier` has those of the same block of sums
    before them (`block_start`).
    """
    before_seq = rows[0].seq - 1
    rewrites_seq = before_seq
    if before_seq == block_start(before_seq):
        voided = (row.voids_seq for row in rows if row.voids_seq is not None)
        rewrites_seq = max((seq for seq in voided if seq <= before_seq), default=0)
    return Page(
        *_encode(
            rows,
            at_millis=_reported_at,
            spell=_spell_report,
            oldest_millis=oldest_millis,
            key_of=traffic_key,
        ),
        to_seq=rows[-1].seq,
        sums=sum_lines(rows, earlier=earlier, oldest_millis=oldest_millis),
        is_full=is_full,
        rewrites_seq=rewrites_seq,
    )


def sample_page(rows: Sequence[ReportRow], *, oldest_millis: int, is_full: bool = False) -> Page:
    """Encode a line per report for a database that never overwrites a sample, in milliseconds.

    A report that takes back another one has negative amounts in place of overwriting it.
    """
    return Page(
        *_encode(
            rows,
            at_millis=_reported_at,
            spell=_spell_sample,
            oldest_millis=oldest_millis,
            key_of=_sample_key,
        ),
        to_seq=rows[-1].seq,
        is_full=is_full,
    )


def daily_page(rows: Sequence[DayRow], *, oldest_millis: int, is_full: bool = False) -> Page:
    """Encode a line per series and day; `rows` are in the order of `change_seq`, not empty."""
    return Page(
        *_encode(
            rows,
            at_millis=_day_millis,
            spell=_spell_day,
            oldest_millis=oldest_millis,
            key_of=traffic_key,
        ),
        to_seq=rows[-1].change_seq,
        is_full=is_full,
        keys=frozenset((row.username, row.server, row.port, row.protocol, row.day) for row in rows),
    )


def _encode(
    rows: Sequence[Row],
    *,
    at_millis: Callable[[Row], int],
    spell: Callable[[Row, str], str],
    oldest_millis: int,
    key_of: Callable[[str, str, int, str], str],
) -> tuple[list[str], list[Refused], int]:
    lines: list[str] = []
    refused: list[Refused] = []
    expired = 0
    for row in rows:
        if at_millis(row) < oldest_millis:
            expired += 1
            continue
        try:
            key = key_of(row.username, row.server, row.port, row.protocol)
        except UnwritableError as error:
            refused.append(Refused(repr(row), str(error)))
            continue
        lines.append(spell(row, key))
    return lines, refused, expired


_reported_at = attrgetter("reported_at_millis")


def _day_millis(row: DayRow) -> int:
    return row.day * DAY_MILLIS


def _spell_report(row: ReportRow, key: str) -> str:
    if row.voids_seq is not None:
        # With the timestamp of the voided report's point, so that it overwrites that point.
        nanos = ordered_nanos(row.reported_at_millis, row.voids_seq)
        return f"{key} upload_bytes=0i,download_bytes=0i,billed_bytes=0i,connections=0i {nanos}"
    return (
        f"{key} upload_bytes={row.upload_bytes}i,download_bytes={row.download_bytes}i,"
        f"billed_bytes={row.billed_bytes}i,connections={row.connections}i "
        f"{ordered_nanos(row.reported_at_millis, row.seq)}"
    )


def _spell_sample(row: ReportRow, key: str) -> str:
    second_millis = row.reported_at_millis // MILLIS_PER_SECOND * MILLIS_PER_SECOND
    at_millis = second_millis + row.seq % SAMPLES_PER_SECOND
    return (
        f"{key} upload_bytes={row.upload_bytes}i,download_bytes={row.download_bytes}i,"
        f"billed_bytes={row.billed_bytes}i,connections={row.connections}i "
        f"{at_millis * NANOS_PER_MILLI}"
    )


def _spell_day(row: DayRow, key: str) -> str:
    return (
        f"{key} upload_bytes={row.upload_bytes}i,download_bytes={row.download_bytes}i,"
        f"billed_bytes={row.billed_bytes}i,connections={row.connections}i,reports={row.reports}i,"
        f"last_used_at_millis={row.last_used_at_millis}i "
        f"{row.day * DAY_MILLIS * NANOS_PER_MILLI}"
    )


@lru_cache(maxsize=REMEMBERED_SERIES)
def traffic_key(username: str, server: str, port: int, protocol: str) -> str:
    """Return the series of a user on a server, encoded; UnwritableError where it cannot be."""
    if username and server and protocol and not _SPECIAL.search(f"{username}{server}{protocol}"):
        return f"{TRAFFIC.name},port={port},protocol={protocol},server={server},user={username}"
    tags = {"user": username, "server": server, "port": str(port), "protocol": protocol}
    return series_key(TRAFFIC.name, tags)


@lru_cache(maxsize=REMEMBERED_SERIES)
def _sample_key(username: str, server: str, port: int, protocol: str) -> str:
    """Return the series as VictoriaMetrics reads it, for which a backslash is escaped, too."""
    return traffic_key(*(each.replace("\\", "\\\\") for each in (username, server)), port, protocol)
