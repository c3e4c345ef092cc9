"""What a report counts for: exact thousandths, rounded in the user's favour, decided once."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.reports.billing import (
    AS_REPORTED_MILLIS,
    MAX_RATIO_MILLIS,
    Billing,
    Ratio,
    Tariff,
    bill,
    parse_ratio,
    show_ratio,
)
from collector.reports.report import Limits, Report, WireReport, accept

amounts = st.integers(0, 2**62)
ratios = st.integers(0, MAX_RATIO_MILLIS)


def wire(server="de-1", *, up=10, down=20, **fields):
    return WireReport(
        user_token="alice",
        server=server,
        port=443,
        protocol="vless",
        bytes_uploaded=up,
        bytes_downloaded=down,
        **fields,
    )


def taken(report, tariff):
    outcome = accept(
        report,
        index=0,
        username="alice",
        scope="reporter:r",
        fallback_id=None,
        now_millis=0,
        limits=Limits(ceiling_bytes=2**62),
        tariff=tariff,
    )
    assert isinstance(outcome, Report)
    return outcome


@given(raw_bytes=amounts, ratio_millis=ratios)
def test_billed_is_the_exact_product_without_its_broken_byte(raw_bytes, ratio_millis):
    exact = Fraction(raw_bytes * ratio_millis, 1000)
    assert 0 <= exact - bill(raw_bytes, ratio_millis) < 1
    assert isinstance(bill(raw_bytes, ratio_millis), int)


@given(raw_bytes=amounts, ratio_millis=st.integers(0, MAX_RATIO_MILLIS - 1))
def test_a_larger_ratio_never_counts_less(raw_bytes, ratio_millis):
    assert bill(raw_bytes, ratio_millis) <= bill(raw_bytes, ratio_millis + 1)


@given(parts=st.lists(amounts, max_size=20), ratio_millis=ratios)
def test_splitting_traffic_into_reports_saves_less_than_a_byte_for_each(parts, ratio_millis):
    whole = bill(sum(parts), ratio_millis)
    billed = sum(bill(each, ratio_millis) for each in parts)
    assert whole - max(0, len(parts)) <= billed <= whole


@pytest.mark.parametrize(
    ("ratio_millis", "expected"), [(0, 0), (1, 0), (500, 15), (1000, 30), (1999, 59), (2000, 60)]
)
def test_both_directions_are_billed_together(ratio_millis, expected):
    tariff = Tariff({"de-1": ratio_millis}, counts_toward_quota=True)
    report = taken(wire(up=10, down=20), tariff)
    assert (report.upload_bytes, report.download_bytes) == (10, 20)
    assert report.billed_bytes == expected


def test_a_server_without_a_ratio_is_billed_as_reported():
    tariff = Billing([Ratio("de-1", 2000, 0)]).tariff(counts_toward_quota=True)
    assert taken(wire("de-1"), tariff).billed_bytes == 60
    assert taken(wire("DE-1"), tariff).billed_bytes is None
    assert taken(wire("nl-1"), tariff).billed_bytes is None


def test_a_sender_outside_the_quota_is_billed_nothing_whatever_the_ratio():
    for ratios in ([], [Ratio("de-1", 5000, 0)]):
        report = taken(wire(), Billing(ratios).tariff(counts_toward_quota=False))
        assert (report.upload_bytes, report.download_bytes, report.billed_bytes) == (10, 20, 0)


def test_without_ratios_nothing_is_worked_out():
    assert Billing().tariff(counts_toward_quota=True) is None
    assert Billing([Ratio("de-1", AS_REPORTED_MILLIS, 0)]).tariff(counts_toward_quota=True) is None
    assert taken(wire(), None).billed_bytes is None


def test_a_report_id_is_the_same_at_every_ratio():
    """So that a report sent again after a change is the duplicate it is."""
    tariff = Tariff({"de-1": 2000}, counts_toward_quota=True)
    again = wire(report_id="x")
    assert taken(again, tariff).report_key == taken(again, None).report_key


@pytest.mark.parametrize(
    ("text", "ratio_millis"),
    [
        ("0", 0),
        ("1", 1000),
        ("2", 2000),
        ("0.5", 500),
        ("1.25", 1250),
        ("0.001", 1),
        ("1000", MAX_RATIO_MILLIS),
        ("1000.000", MAX_RATIO_MILLIS),
        ("007", 7000),
    ],
)
def test_a_ratio_is_read_as_people_write_it(text, ratio_millis):
    assert parse_ratio(text) == ratio_millis


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 2",
        "-1",
        "+1",
        "1,5",
        ".5",
        "2.",
        "0.0005",
        "1000.001",
        "1001",
        "1e3",
        "nan",
        "2x",
        "٢",
    ],
)
def test_what_is_no_ratio_is_refused_and_shown(text):
    with pytest.raises(ValueError, match="from 0 to 1000 with at most three decimals") as raised:
        parse_ratio(text)
    assert repr(text) in str(raised.value)


@given(ratio_millis=ratios)
def test_a_ratio_that_is_shown_reads_back_as_itself(ratio_millis):
    shown = show_ratio(ratio_millis)
    assert parse_ratio(shown) == ratio_millis
    assert shown == "0" or not shown.endswith((".", ".0"))
