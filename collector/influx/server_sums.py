"""Sums per server and ten minutes, so that a graph of all servers need not read every report.

Reports are summed in blocks of a thousand by their numbers. A page of the export sums each block
that it touches from the block's beginning, so a point that is written again, or whose block has
grown, overwrites itself: a crash, a rebuild or pages of another length change no sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from collector.influx.lines import NANOS_PER_MILLI, UnwritableError, ordered_nanos, series_key
from collector.ledger import ReportRow
from collector.schema import SERVER_TRAFFIC

BLOCK_ROWS = 1000
SLICE_MILLIS = 600_000
"""A report counts in the ten minutes in which it was reported."""
_Key = tuple[str, int]
"""A server and a timestamp in nanoseconds."""


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
        if _slice_millis(row) >= oldest_millis:
            _add(sums.setdefault(_key(row), [0, 0, 0, 0]), row)
    for row in earlier:
        if found := sums.get(_key(row)):
            _add(found, row)
    lines = []
    for (server, nanos), (upload, download, billed, connections) in sums.items():
        try:
            series = series_key(SERVER_TRAFFIC.name, {"server": server})
        except UnwritableError:
            continue  # the reports themselves are set aside with the reason
        lines.append(
            f"{series} upload_bytes={upload}i,download_bytes={download}i,billed_bytes={billed}i,"
            f"connections={connections}i {nanos}"
        )
    return lines


def _slice_millis(row: ReportRow) -> int:
    return row.reported_at_millis // SLICE_MILLIS * SLICE_MILLIS


def _key(row: ReportRow) -> _Key:
    """Return what the row is summed under; one that takes back another has a point of its own.

    The reports beside which that one was summed may be purged by now.
    """
    at_millis = _slice_millis(row)
    if row.voids_seq is not None:
        return row.server, ordered_nanos(at_millis, row.seq) + NANOS_PER_MILLI
    return row.server, ordered_nanos(at_millis, (row.seq - 1) // BLOCK_ROWS)


def _add(sums: list[int], row: ReportRow) -> None:
    sums[0] += row.upload_bytes
    sums[1] += row.download_bytes
    sums[2] += row.billed_bytes
    sums[3] += row.connections
