"""Reports that are accepted by column are those that are accepted one by one."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.reports.billing import Tariff
from collector.reports.columns import Columns, accept_plain, amount_of, columns_of
from collector.reports.identity import is_url, subscription_token
from collector.reports.report import (
    DAY_MILLIS,
    MAX_AHEAD_MILLIS,
    Limits,
    Report,
    WireReport,
    accept,
    is_ahead,
    report_keys,
)

NOW_MILLIS = 1_790_000_000_000
LIMITS = Limits(ceiling_bytes=1000, request_bytes=1500)
SCOPE = "reporter:r"
GOOD = WireReport("alice", "de-1", 443, "vless", 10, 20)
TOKEN = "YWxpY2UsMTc5MDAwMDAwMA" + "abcdefghij"


def moment(millis: int) -> datetime:
    return datetime.fromtimestamp((NOW_MILLIS + millis) / 1000, UTC)


EARLIER, LATER = moment(-DAY_MILLIS), moment(60_000)
TOO_EARLY = moment(-7 * DAY_MILLIS - 1)
AHEAD = moment(MAX_AHEAD_MILLIS + 1)
TARIFFS = [
    None,
    Tariff({"de-1": 1500}, counts_toward_quota=True),
    Tariff({}, counts_toward_quota=False),
]


texts = st.one_of(
    st.sampled_from(["alice", "de-1", "a" * 15, "a" * 256, " a", "a b", "a\\", "é", "e\u0301"]),
    st.sampled_from([TOKEN, f"/sub/{TOKEN}", f"https://x/sub/{TOKEN}", "a:b", "\x00", "\u2028"]),
    st.text(min_size=1, max_size=20),
)
amounts = st.sampled_from([0, 1, 10, 999, 1000, 1001])
wires = st.builds(
    WireReport,
    texts,
    texts,
    st.just(443),
    texts,
    amounts,
    amounts,
    st.none() | texts,
    st.sampled_from([None, EARLIER, LATER, TOO_EARLY, AHEAD]),
    st.sampled_from([0, 1, 2]),
)


def plain(*reports: WireReport, tariff: Tariff | None = None) -> Columns | None:
    return accept_plain(reports, scope=SCOPE, now_millis=NOW_MILLIS, limits=LIMITS, tariff=tariff)


def one_by_one(reports: list[WireReport], tariff: Tariff | None) -> list[object]:
    return [
        accept(
            wire,
            index=index,
            username=wire.user_token,
            scope=SCOPE,
            fallback_id=None,
            now_millis=NOW_MILLIS,
            limits=LIMITS,
            tariff=tariff,
        )
        for index, wire in enumerate(reports)
    ]


@given(st.lists(wires, max_size=5), st.sampled_from(TARIFFS))
def test_what_is_accepted_by_column_is_what_is_accepted_one_by_one(reports, tariff):
    found = plain(*reports, tariff=tariff)
    if found is not None:
        assert list(found) == one_by_one(reports, tariff)
        assert not any(is_ahead(each, now_millis=NOW_MILLIS) for each in reports)
        for wire in reports:
            assert subscription_token(wire.user_token) is None
            assert not is_url(wire.user_token)


@pytest.mark.parametrize(
    ("field", "value", "is_accepted"),
    [
        ("user_token", "a" * 14, True),
        ("user_token", "a-name-of-many-letters", True),
        ("user_token", "a" * 255, True),
        ("user_token", "a" * 256, False),
        ("user_token", TOKEN, False),
        ("user_token", f"/sub/{TOKEN}", False),
        ("user_token", f"https://panel/sub/{TOKEN}", False),
        ("user_token", "a:b", False),
        ("user_token", "a b", False),
        ("user_token", " a", False),
        ("user_token", "e\u0301", False),
        ("user_token", "a\\", False),
        ("user_token", "a\x00", False),
        ("server", "münchen 1", True),
        ("server", "a\\", False),
        ("protocol", "a\u2028", False),
        ("report_id", "a\x00", False),
        ("report_id", "7", True),
        ("reported_at", EARLIER, True),
        ("reported_at", LATER, True),
        ("reported_at", moment(-7 * DAY_MILLIS), True),
        ("reported_at", TOO_EARLY, False),
        ("reported_at", moment(MAX_AHEAD_MILLIS - 1), True),
        ("reported_at", AHEAD, False),
        ("bytes_uploaded", 1000, True),
        ("bytes_uploaded", 1001, False),
        ("bytes_downloaded", 1000, True),
        ("bytes_downloaded", 1001, False),
    ],
)
def test_one_report_that_needs_a_look_has_all_looked_at(field, value, is_accepted):
    found = plain(GOOD, msgspec.structs.replace(GOOD, **{field: value}))
    assert (found is not None) is is_accepted


@pytest.mark.parametrize("tariff", TARIFFS)
def test_times_and_billed_bytes_are_those_of_each_report(tariff):
    reports = [
        GOOD,
        msgspec.structs.replace(GOOD, reported_at=EARLIER),
        msgspec.structs.replace(GOOD, server="de-2", report_id="7"),
    ]
    found = plain(*reports, tariff=tariff)
    assert found is not None
    assert list(found) == one_by_one(reports, tariff)


def test_reports_of_no_bytes_or_of_too_many_together_need_a_look():
    def of(uploaded: int, downloaded: int) -> Columns | None:
        return plain(WireReport("alice", "de-1", 443, "vless", uploaded, downloaded))

    assert of(0, 0) is None
    assert of(0, 1) is not None
    assert of(900, 600) is not None
    assert of(900, 601) is None
    assert plain() is None


def report(name: str, *, key: bytes | None = None) -> Report:
    return Report(name, "de-1", 443, "vless", 10, 20, 1, NOW_MILLIS, key, None)


def test_columns_are_a_sequence_of_reports():
    reports = [report("a"), report("b", key=b"k"), report("c")]
    columns = columns_of([reports])
    assert list(columns) == reports
    assert len(columns) == 3
    assert columns[1] == reports[1]
    assert list(columns[1:]) == reports[1:]
    assert columns[1:].raw_bytes == [30, 30]
    assert columns.places == {("de-1", 443, "vless")}
    assert amount_of(columns) == amount_of(reports) == 90


def test_requests_by_column_and_one_by_one_are_put_together_in_their_order():
    parts = [[report("a")], columns_of([[report("b"), report("c")]]), [], [report("d")]]
    together = columns_of(parts)
    assert [each.username for each in together] == ["a", "b", "c", "d"]
    assert together.raw_bytes == [30] * 4
    assert list(columns_of([[], []])) == []
    assert columns_of([parts[1]]) is parts[1]


def test_a_report_without_an_id_has_no_key():
    assert report_keys(SCOPE, [None, "7"])[0] is None
