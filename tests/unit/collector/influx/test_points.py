"""The ledger's rows as points: what they say, when they are stamped, which are left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.influx.lines import NANOS_PER_MILLI, UnwritableError, ordered_nanos, series_key
from collector.influx.points import daily_page, raw_page, sample_page, traffic_key
from collector.ledger import DayRow, ReportRow
from collector.reports.report import DAY_MILLIS
from collector.schema import DAILY_TRAFFIC, TRAFFIC

AT = 1_700_000_000_123


def row(seq: int = 7, *, server: str = "de 1", at: int = AT) -> ReportRow:
    return ReportRow(seq, "alice", server, 443, "vless", 10, 20, 60, 3, at)


def void(seq: int, *, voids: int) -> ReportRow:
    return ReportRow(seq, "alice", "de 1", 443, "vless", -10, -20, -60, -3, AT, voids)


def day_row(day: int = 20_000, *, server: str = "de-1") -> DayRow:
    return DayRow(9, day, "alice", server, 443, "vless", 10, 20, 60, 3, 2, AT)


def test_a_report_is_a_point_with_its_seq_below_the_millisecond():
    page = raw_page([row()], oldest_millis=0)
    (line,) = page.lines
    assert line == (
        "traffic,port=443,protocol=vless,server=de\\ 1,user=alice "
        "upload_bytes=10i,download_bytes=20i,billed_bytes=60i,connections=3i 1700000000123000007"
    )
    assert (page.to_seq, page.refused, page.expired) == (7, [], 0)


def test_a_day_is_a_point_at_its_beginning():
    page = daily_page([day_row()], oldest_millis=0)
    (line,) = page.lines
    assert line == (
        "traffic,port=443,protocol=vless,server=de-1,user=alice "
        "upload_bytes=10i,download_bytes=20i,billed_bytes=60i,connections=3i,reports=2i,"
        f"last_used_at_millis={AT}i {20_000 * DAY_MILLIS * NANOS_PER_MILLI}"
    )
    assert page.to_seq == 9


@pytest.mark.parametrize(
    ("page", "measurement"),
    [
        (raw_page([row()], oldest_millis=0), TRAFFIC),
        (daily_page([day_row()], oldest_millis=0), DAILY_TRAFFIC),
    ],
)
def test_points_have_the_tags_and_fields_of_the_schema(page, measurement):
    key, fields, _ = page.lines[0].replace("\\ ", "").split(" ")
    assert [each.partition("=")[0] for each in key.split(",")] == [
        measurement.name,
        *sorted(measurement.tags),
    ]
    assert [each.partition("=")[0] for each in fields.split(",")] == list(measurement.fields)
    assert all(each.endswith("i") for each in fields.split(","))


@given(
    at=st.integers(0, 4_000_000_000_000),
    seq=st.integers(1, 2**40),
    distance=st.integers(1, NANOS_PER_MILLI - 1),
)
def test_reports_of_one_millisecond_never_share_a_timestamp_within_a_million(at, seq, distance):
    assert ordered_nanos(at, seq) != ordered_nanos(at, seq + distance)
    assert ordered_nanos(at, seq) // NANOS_PER_MILLI == at


def test_what_has_no_spelling_is_set_aside_and_the_rest_goes_on():
    page = raw_page([row(1, server="ends\\"), row(2)], oldest_millis=0)
    assert len(page.lines) == 1
    assert "server" in page.refused[0].reason
    assert page.to_seq == 2


def test_what_the_policy_no_longer_keeps_is_not_sent():
    page = raw_page([row(1, at=AT - 1), row(2, at=AT)], oldest_millis=AT)
    assert (len(page.lines), page.expired, page.to_seq) == (1, 1, 2)
    page = daily_page([day_row(19_999), day_row(20_000)], oldest_millis=20_000 * DAY_MILLIS)
    assert (len(page.lines), page.expired) == (1, 1)


class TestWhichPagesMayBeWrittenTogether:
    """A page says up to where others have points that it overwrites."""

    def test_one_that_begins_with_a_block_of_sums_overwrites_nothing(self):
        page = raw_page([row(1001), row(1002)], oldest_millis=0)
        assert page.rewrites_seq == 0

    def test_one_that_begins_within_a_block_writes_the_sum_of_the_one_before_again(self):
        page = raw_page([row(1501)], oldest_millis=0, earlier=[row(1500)])
        assert page.rewrites_seq == 1500

    def test_one_that_takes_reports_back_overwrites_the_last_of_them(self):
        rows = [row(2001), void(2002, voids=7), void(2003, voids=1999), void(2004, voids=2001)]
        assert raw_page(rows, oldest_millis=0).rewrites_seq == 1999

    def test_days_are_told_apart_by_series_and_day(self):
        pages = [
            daily_page(rows, oldest_millis=0)
            for rows in (
                [day_row(1), day_row(2)],
                [day_row(2), day_row(3)],
                [day_row(2, server="nl")],
            )
        ]
        assert not pages[0].keys.isdisjoint(pages[1].keys)
        assert pages[0].keys.isdisjoint(pages[2].keys)


class TestSamplesOfADatabaseThatKnowsMilliseconds:
    def test_a_sample_has_the_number_of_its_report_in_the_milliseconds_of_its_second(self):
        page = sample_page([row(5 * 997 + 7), row(5 * 997 + 8)], oldest_millis=0)
        assert [each.rpartition(" ")[2] for each in page.lines] == [
            "1700000000007000000",
            "1700000000008000000",
        ]

    def test_taking_a_report_back_is_a_sample_of_its_own_below_zero(self):
        page = sample_page([row(7), void(8, voids=7)], oldest_millis=0)
        assert "upload_bytes=-10i,download_bytes=-20i,billed_bytes=-60i" in page.lines[1]
        assert (page.sums, page.rewrites_seq, page.to_seq) == ((), 0, 8)

    def test_a_backslash_is_escaped_as_well(self):
        (line,) = sample_page([row(server="a\\ b")], oldest_millis=0).lines
        assert "server=a\\\\\\ b," in line


names = st.text(st.one_of(st.sampled_from("a,= \\\n\r"), st.characters()), max_size=4)


@given(username=names, server=names, protocol=names)
def test_a_series_is_named_as_any_other_one_is(username, server, protocol):
    def named_or_refused(name):
        try:
            return name()
        except UnwritableError as error:
            return str(error)

    tags = {"user": username, "server": server, "port": "443", "protocol": protocol}
    assert named_or_refused(
        lambda: traffic_key(username, server, 443, protocol)
    ) == named_or_refused(lambda: series_key("traffic", tags))
