"""Sums per server are right however the export is cut into pages, and however often it is repeated."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collector.influx.points import raw_page
from collector.influx.server_sums import BLOCK_ROWS, SLICE_MILLIS, block_start, sum_lines
from collector.ledger import ReportRow
from collector.schema import SERVER_TRAFFIC

AT = 1_779_278_400_000
FIELDS = list(SERVER_TRAFFIC.fields)


def row(seq, *, server="de-1", at=AT, upload=1, voids=None):
    amounts = (-upload, -10, -20, -1) if voids else (upload, 10, 20, 1)
    return ReportRow(seq, "alice", server, 443, "vless", *amounts, at, voids)


class Points:
    """Keeps lines as InfluxDB does: a series has one value at a time."""

    def __init__(self):
        self.values = {}

    def write(self, lines):
        for line in lines:
            series, fields, nanos = line.split(" ")
            found = [each.split("=") for each in fields.split(",")]
            assert [name for name, _ in found] == FIELDS
            self.values[series, nanos] = [int(value.removesuffix("i")) for _, value in found]

    def sums(self):
        found = {}
        for (series, _), values in self.values.items():
            so_far = found.get(series, [0, 0, 0, 0])
            found[series] = [one + other for one, other in zip(so_far, values, strict=True)]
        return {
            series.removeprefix("server_traffic,server="): each for series, each in found.items()
        }


def export(rows, cursor, until, points):
    """Write one page as the exporter does."""
    page = [each for each in rows if cursor < each.seq <= until]
    earlier = [each for each in rows if block_start(cursor) < each.seq <= cursor]
    points.write(raw_page(page, oldest_millis=0, earlier=earlier).sums)


def expected(rows):
    found = {}
    for each in rows:
        values = (each.upload_bytes, each.download_bytes, each.billed_bytes, each.connections)
        so_far = found.get(each.server, [0, 0, 0, 0])
        found[each.server] = [one + other for one, other in zip(so_far, values, strict=True)]
    return found


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 2), st.integers(0, 9)),
        min_size=1,
        max_size=40,
    ),
    st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=12),
)
def test_any_pages_with_any_repetitions_add_up(reports, cuts):
    first = BLOCK_ROWS - 15  # so that a block ends within the rows
    rows = [
        row(first + n, server=server, at=AT + slices * SLICE_MILLIS, upload=upload)
        for n, (server, slices, upload) in enumerate(reports)
    ]
    points, cursor, last = Points(), first - 1, rows[-1].seq
    for length, is_kept in [*cuts, (len(rows), True)]:
        until = min(cursor + length, last)
        if until > cursor:
            export(rows, cursor, until, points)
            cursor = until if is_kept else cursor  # a crash before the cursor was stored
    export(rows, first - 1, last, points)  # and a rebuild
    assert points.sums() == expected(rows)


def test_a_report_taken_back_is_taken_out_of_the_sum_though_the_others_are_purged():
    points, old, void = Points(), row(5), row(700, voids=5)
    points.write(sum_lines([old, row(6)], earlier=[], oldest_millis=0))
    points.write(sum_lines([void], earlier=[], oldest_millis=0))
    assert points.sums() == {"de-1": [1, 10, 20, 1]}


def test_what_is_not_kept_any_more_and_what_has_no_spelling_is_left_out():
    rows = [row(1, at=AT - SLICE_MILLIS), row(2, server="ends\\"), row(3)]
    [line] = sum_lines(rows, earlier=[], oldest_millis=AT)
    assert line.startswith("server_traffic,server=de-1 ")


def test_other_ten_minutes_of_the_first_block_are_not_written_again():
    lines = sum_lines([row(3)], earlier=[row(1, at=AT - SLICE_MILLIS), row(2)], oldest_millis=0)
    assert len(lines) == 1
    assert "upload_bytes=2i" in lines[0]
