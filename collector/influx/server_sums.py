"""Sums per server and ten minutes, so that a graph of all servers need not read every report.

Reports are summed in blocks of a thousand by their numbers. A page of the export sums each block
that it touches from the block's beginning, so a point that is written again, or whose block has
grown, overwrites itself: a crash, a rebuild or pages of another length change no sum.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from collector.influx.lines import NANOS_PER_MILLI, UnwritableError, ordered_nanos, series_key
from collector.ledger import ReportRow
from collector.ledger.grouped_reports import ServerSum
from collector.ledger.sql.database import whole
from collector.schema import SERVER_TRAFFIC

BLOCK_ROWS = 1000
SLICE_MILLIS = 600_000
"""A report counts in the ten minutes in which it was reported."""
_Key = tuple[str, int, int]
"""A server, the number of ten minutes, and that of the block; of a report that takes back another
one, which has a point of its own, its seq below zero. The reports beside which the other one was
summed may be purged by now."""


def block_start(seq: int) -> int:
    """Return the number after which the block of the report after `seq` begins."""
    return seq // BLOCK_ROWS * BLOCK_ROWS


def sum_lines(
    rows: Sequence[ReportRow], *, earlier: Iterable[ReportRow], oldest_millis: int
) -> list[str]:
    """Return a line for each server, ten minutes and block that `rows` touch.

    `earlier` has the rows of the first block before them. Ten minutes that began before
    `oldest_millis` are left out, and servers that line protocol cannot encode.
    """
    sums: dict[_Key, list[int]] = {}
    for row in rows:
        key = _key(row)
        found = sums.get(key)
        if found is None:
            if key[1] * SLICE_MILLIS < oldest_millis:
                continue
            found = sums[key] = [0, 0, 0, 0]
        _add(found, row)
    for row in earlier:
        if found := sums.get(_key(row)):
            _add(found, row)
    lines = []
    for key, amounts in sums.items():
        with contextlib.suppress(UnwritableError):  # the reports are set aside with the reason
            lines.append(_line(key, amounts))
    return lines


def grouped_sum_lines(sums: Iterable[ServerSum]) -> list[str]:
    """Return the lines of sums that the ledger made; UnwritableError for one without a spelling."""
    return [
        _line(
            (each.server, each.slice_number, each.block_number),
            [
                whole(each.upload_bytes),
                whole(each.download_bytes),
                whole(each.billed_bytes),
                whole(each.connections),
            ],
        )
        for each in sums
    ]


def _line(key: _Key, amounts: Sequence[int]) -> str:
    server, ten_minutes, number = key
    upload, download, billed, connections = amounts
    series = series_key(SERVER_TRAFFIC.name, {"server": server})
    return (
        f"{series} upload_bytes={upload}i,download_bytes={download}i,billed_bytes={billed}i,"
        f"connections={connections}i {_nanos(ten_minutes * SLICE_MILLIS, number)}"
    )


def _key(row: ReportRow) -> _Key:
    number = (row.seq - 1) // BLOCK_ROWS if row.voids_seq is None else -row.seq
    return row.server, row.reported_at_millis // SLICE_MILLIS, number


def _nanos(at_millis: int, number: int) -> int:
    if number < 0:
        return ordered_nanos(at_millis, -number) + NANOS_PER_MILLI
    return ordered_nanos(at_millis, number)


def _add(sums: list[int], row: ReportRow) -> None:
    sums[0] += row.upload_bytes
    sums[1] += row.download_bytes
    sums[2] += row.billed_bytes
    sums[3] += row.connections
