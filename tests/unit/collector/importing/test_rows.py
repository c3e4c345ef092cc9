"""Rows of foreign tables: which are counted, dated when, and what of a grown table is new."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.importing.differences import difference, total
from collector.importing.rows import Row, amount_of, layout_of, read_row
from collector.ledger.import_amounts import Amounts
from collector.reports.identity import name_within
from collector.reports.report import DAY_MILLIS, Limits, Refusal
from tests.support.collector.ledgers import DAY, NOON_MILLIS

TOKEN = "YWxpY2UsMTc5NTQzMzM4NQ3PDaZWi-hR"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTc5NTQzMzM4NX0.c2lnbmF0dXJlLWJ5dGVz"
ORIGINAL = {
    "user_token": "alice",
    "server": "de-1",
    "port": 443,
    "protocol": "vless",
    "bytes_uploaded": 1,
    "bytes_downloaded": 2,
    "day": "2024-10-01",
    "moment": "2024-10-01 09:08:07.123456",
}


def read(origin="original", **changes):
    fields = {name: value for name, value in (ORIGINAL | changes).items() if value is not None}
    return read_row(fields, origin=origin, now_millis=NOON_MILLIS, limits=Limits())


def test_a_row_of_the_original_table_is_a_report_of_its_own_day():
    row = read()
    report = row.report
    assert (report.username, report.server, report.port, report.protocol) == (
        *("alice", "de-1", 443, "vless"),
    )
    assert (report.upload_bytes, report.download_bytes, report.connections) == (1, 2, 1)
    assert row.day == DAY - 3
    assert report.reported_at_millis == (DAY - 3) * DAY_MILLIS + 32_887_123
    assert report.report_key is None


@pytest.mark.parametrize(
    ("day", "moment", "at_millis"),
    [
        ("2024-10-01", None, (DAY - 3) * DAY_MILLIS + DAY_MILLIS // 2),
        ("2024-10-01", "2024-10-02 00:30:00", (DAY - 3) * DAY_MILLIS + DAY_MILLIS // 2),
        ("2024-10-01", "rubbish", (DAY - 3) * DAY_MILLIS + DAY_MILLIS // 2),
        (None, "2024-10-01T00:00:01Z", (DAY - 3) * DAY_MILLIS + 1000),
        (None, "2024-10-01T01:00:01+02:00", (DAY - 4) * DAY_MILLIS + 82_801_000),
        (None, (DAY - 3) * 86_400 + 1, (DAY - 3) * DAY_MILLIS + 1000),
        (None, f"{(DAY - 3) * 86_400 + 1}.5", (DAY - 3) * DAY_MILLIS + 1500),
        (None, (DAY - 3) * DAY_MILLIS + 7, (DAY - 3) * DAY_MILLIS + 7),
        ("20241001", None, (DAY - 3) * DAY_MILLIS + DAY_MILLIS // 2),
        (date(2024, 10, 1), None, (DAY - 3) * DAY_MILLIS + DAY_MILLIS // 2),
    ],
)
def test_a_row_is_dated_by_its_own_moment_where_that_is_on_its_day_else_at_noon(
    day, moment, at_millis
):
    assert read(day=day, moment=moment).report.reported_at_millis == at_millis


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"day": None, "moment": None}, "day"),
        ({"day": "yesterday"}, "day"),
        ({"day": "1999-12-31"}, "day"),
        ({"day": "2024-10-06", "moment": None}, "day"),
        ({"day": True, "moment": None}, "day"),
        ({"day": None, "moment": 1e300}, "day"),
        ({"user_token": None}, "user_token"),
        ({"user_token": "a\nb"}, "user_token"),
        ({"user_token": "https://panel.example.com/sub/"}, "user_token"),
        ({"server": "x" * 256}, "server"),
        ({"port": 65536}, "port"),
        ({"port": "x"}, "port"),
        ({"bytes_uploaded": -1}, "bytes_uploaded"),
        ({"bytes_uploaded": "1.5"}, "bytes_uploaded"),
        ({"bytes_uploaded": "1.05E-06"}, "bytes_uploaded"),
        ({"bytes_uploaded": "1.0500001E+06"}, "bytes_uploaded"),
        ({"bytes_uploaded": "1E+999"}, "bytes_uploaded"),
        ({"bytes_uploaded": "1E+40"}, "bytes_uploaded"),
        ({"bytes_uploaded": "0x10"}, "bytes_uploaded"),
        ({"bytes_downloaded": 2**50}, "bytes_downloaded"),
        ({"bytes_downloaded": b"12"}, "bytes_downloaded"),
    ],
)
def test_a_row_that_cannot_be_counted_names_what_is_wrong(changes, field):
    refusal = read(**changes)
    assert isinstance(refusal, Refusal)
    assert refusal.field == field


def test_numbers_may_be_text_and_what_is_empty_is_nothing_or_unknown():
    row = read(port="8443", protocol=None, bytes_uploaded="10", bytes_downloaded=2.0)
    report = row.report
    assert (report.port, report.protocol, report.upload_bytes) == (8443, "unknown", 10)
    assert read(port=None).report.port == 0
    assert read(bytes_uploaded=None, bytes_downloaded=None) is None


@pytest.mark.parametrize("text", ["1.05E+06", "1,05E+06", "1.05e6", " 1050000.00 ", "105E4"])
def test_a_number_in_the_notation_of_a_spreadsheet_is_counted_where_it_is_whole(text):
    fields = ORIGINAL | {"bytes_uploaded": text}
    assert read(bytes_uploaded=text).report.upload_bytes == 1_050_000
    assert amount_of(fields) == 1_050_002


def test_today_may_be_tomorrow_where_the_table_was_kept():
    assert isinstance(read(day="2024-10-05", moment=None), Row)


def test_rows_state_one_sum_per_origin_user_server_port_and_day_whatever_the_protocol():
    base = read().identity
    assert read(protocol="trojan").identity == base
    assert read(moment=None).identity == base
    others = [
        read(origin="other"),
        read(user_token="bob"),
        read(server="de-2"),
        read(port=444),
        read(day="2024-10-02"),
        read(report_id="1"),
    ]
    assert len({base, *(each.identity for each in others)}) == 7


def test_a_row_with_an_id_of_its_own_is_known_by_it_alone():
    one, other = read(report_id="1"), read(report_id="1", server="de-2", day="2024-10-02")
    assert one.identity == other.identity


@pytest.mark.parametrize("form", ["{}", "https://panel.example.com/sub/{}"])
def test_a_token_of_pasarguard_has_a_number_in_it_and_is_refused_with_what_to_do(form):
    """Counted under its own text, its traffic would be nobody's."""
    token = "djMsMywxNzk1ODU0NzE1.Rr3Obj3RHspUT7vDkQjLA4LctFensNi5vIrFer0SCkM"
    refusal = read(user_token=form.format(token))
    assert refusal.field == "user_token"
    assert "write the username in its place" in refusal.reason
    assert "djMs" not in refusal.reason


@pytest.mark.parametrize(
    ("user_token", "name"),
    [
        ("alice", "alice"),
        (TOKEN, "alice"),
        (f"https://panel.example.com/sub/{TOKEN}", "alice"),
        (JWT, "alice"),
        ("eyJhbGciOiJIUzI1NiJ9.bm90LWpzb24tYXQtYWxs.c2lnbmF0dXJl", None),
        ("https://panel.example.com/", None),
        ("anonymous", "anonymous"),
    ],
)
def test_a_name_is_read_from_a_token_without_asking_the_panel(user_token, name):
    assert name_within(user_token) == (name if name or user_token[:4] == "http" else user_token)


@pytest.mark.parametrize(
    "columns",
    [
        "id user_token config_server config_port bytes_uploaded bytes_downloaded date_collected",
        "Username  SERVER bytes_uploaded bytes_downloaded reported_at",
    ],
)
def test_columns_are_found_under_the_names_they_go_by(columns):
    assert layout_of(columns.split(" ")).missing == []


def test_columns_that_are_missing_are_named_with_what_they_may_be_called():
    missing = layout_of(["server", "bytes_uploaded", "day"]).missing
    assert missing == [
        "user_token (or username or user)",
        "bytes_downloaded (or download_bytes)",
    ]
    assert "date_collected" in layout_of([]).missing[-1]


def test_what_a_row_speaks_of_is_read_as_far_as_it_can_be():
    assert amount_of({"bytes_uploaded": "10", "bytes_downloaded": 5}) == 15
    assert amount_of({"bytes_uploaded": "x", "bytes_downloaded": -5}) == 0
    assert amount_of({"bytes_uploaded": float("inf")}) == 0


amounts = st.builds(Amounts, st.integers(0, 50), st.integers(0, 50))
sums = st.dictionaries(st.sampled_from(["vless", "trojan", "ss"]), amounts, max_size=3)


@given(stated=sums, counted=sums)
def test_what_is_new_is_the_growth_of_the_sum_over_protocols_and_never_less_than_nothing(
    stated, counted
):
    new = difference(stated, counted)
    before, after = total(counted), total(stated)
    if after.upload_bytes < before.upload_bytes or after.download_bytes < before.download_bytes:
        assert new is None
        return
    assert total(new) == Amounts(*(b - a for a, b in zip(before, after, strict=True)))
    assert set(new) <= set(stated)
    for each in new.values():
        assert each.upload_bytes >= 0
        assert each.download_bytes >= 0


def test_a_protocol_that_was_overwritten_moves_no_byte():
    counted = {"vless": Amounts(10, 100)}
    assert difference({"trojan": Amounts(10, 100)}, counted) == {}
    assert difference({"trojan": Amounts(15, 100)}, counted) == {"trojan": Amounts(5, 0)}
