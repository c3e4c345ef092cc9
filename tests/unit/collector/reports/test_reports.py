"""Which reports are taken, which are refused, and by which field."""

from __future__ import annotations

import gzip
import json
import unicodedata
import zlib
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.reports.decode import BodyTooLargeError, UnreadableBodyError, decode, inflate
from collector.reports.report import (
    DAY_MILLIS,
    MAX_AHEAD_MILLIS,
    MAX_REPORTS_PER_REQUEST,
    Limits,
    Refusal,
    Report,
    WireReport,
    accept,
    faults_of,
    is_ahead,
    purge_horizon_millis,
    report_key,
)
from collector.reports.unknown_fields import MOST_UNKNOWN, UnknownField

NOW_MILLIS = 1_790_000_000_000
GOOD = {
    "user_token": "alice",
    "server": "de-1.example.com",
    "port": 443,
    "protocol": "vless",
    "bytes_uploaded": 10,
    "bytes_downloaded": 20,
}


REQUIRED = ("user_token", "server", "port", "protocol", "bytes_uploaded", "bytes_downloaded")


def wire_of(body) -> WireReport:
    ((_, wire),) = decode(json.dumps(body).encode()).reports
    return wire


def taken(body, **options):
    decoded = decode(json.dumps(body).encode())
    if decoded.refusals:
        return decoded.refusals[0]
    ((index, wire),) = decoded.reports
    defaults = {
        "index": index,
        "username": wire.user_token,
        "scope": "reporter:r",
        "fallback_id": None,
        "now_millis": NOW_MILLIS,
        "limits": Limits(),
    }
    return accept(wire, **(defaults | options))


def iso(millis):
    return datetime.fromtimestamp(millis / 1000, tz=UTC).isoformat()


def test_a_report_is_read_as_it_was_written():
    assert taken(GOOD) == Report(
        "alice", "de-1.example.com", 443, "vless", 10, 20, 1, NOW_MILLIS, None
    )


def test_optional_fields_are_taken_and_unknown_ones_named():
    report = taken(
        GOOD | {"report_id": "x", "connections": 3, "reported_at": iso(NOW_MILLIS - 1000), "zz": []}
    )
    assert report.connections == 3
    assert report.reported_at_millis == NOW_MILLIS - 1000
    assert report.report_key == report_key("reporter:r", "x")


@pytest.mark.parametrize("ahead_millis", [5 * 60_000 + 1, 3_600_000, 400 * DAY_MILLIS])
def test_a_report_of_a_clock_that_is_ahead_has_the_moment_of_its_arrival(ahead_millis):
    body = GOOD | {"reported_at": iso(NOW_MILLIS + ahead_millis)}
    assert taken(body).reported_at_millis == NOW_MILLIS
    assert is_ahead(wire_of(body), now_millis=NOW_MILLIS)


def test_minutes_ahead_are_no_wrong_clock():
    body = GOOD | {"reported_at": iso(NOW_MILLIS + 5 * 60_000)}
    assert taken(body).reported_at_millis == NOW_MILLIS + 5 * 60_000
    assert not is_ahead(wire_of(body), now_millis=NOW_MILLIS)


@pytest.mark.parametrize("amounts", [(0, 0)])
def test_a_report_of_nothing_is_ignored_before_anything_else(amounts):
    body = GOOD | {"bytes_uploaded": amounts[0], "bytes_downloaded": amounts[1], "server": "a\nb"}
    assert taken(body) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bytes_uploaded", -1),
        ("bytes_uploaded", 1.5),
        ("bytes_uploaded", True),
        ("bytes_uploaded", "10"),
        ("bytes_uploaded", None),
        ("bytes_uploaded", 10**30),
        ("bytes_uploaded", 10 * 2**40 + 1),
        ("bytes_downloaded", -1),
        ("bytes_downloaded", 10 * 2**40 + 1),
        ("port", -1),
        ("port", 65536),
        ("port", "443"),
        ("port", False),
        ("server", ""),
        ("server", "x" * 256),
        ("server", "a\nb"),
        ("server", "a\x00b"),
        ("server", "a\x7fb"),
        ("server", "a\x85b"),
        ("server", "a\u2028b"),
        ("server", "a\ud800b"),
        ("server", "ends in a backslash\\"),
        ("protocol", "\\"),
        ("user_token", "alice\\"),
        ("user_token", "\udc00"),
        ("server", 5),
        ("protocol", ""),
        ("protocol", "x" * 65),
        ("protocol", "a\tb"),
        ("user_token", ""),
        ("user_token", "x" * 256),
        ("user_token", "a\rb"),
        ("report_id", ""),
        ("report_id", "x" * 256),
        ("report_id", "a\x1fb"),
        ("connections", -1),
        ("connections", 1_000_001),
        ("reported_at", "yesterday"),
        ("reported_at", "2026-09-21T00:00:00"),
        ("reported_at", 5),
        ("reported_at", iso(NOW_MILLIS - 7 * DAY_MILLIS - 1000)),
    ],
)
def test_what_is_wrong_is_refused_by_the_name_of_its_field(field, value):
    refusal = taken(GOOD | {field: value})
    assert isinstance(refusal, Refusal)
    assert refusal.field == field
    assert refusal.reason


@pytest.mark.parametrize("field", sorted(GOOD))
def test_what_is_missing_is_refused_by_its_name(field):
    refusal = taken({key: GOOD[key] for key in GOOD if key != field})
    assert (refusal.field, refusal.reason) == (field, "is required")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", 0),
        ("port", 65535),
        ("bytes_uploaded", 1024.0),  # a whole number, as some senders write it
        ("bytes_uploaded", 10 * 2**40),
        ("bytes_downloaded", 10 * 2**40),
        ("bytes_uploaded", 0),
        ("bytes_downloaded", 0),
        ("user_token", "x" * 255),
        ("server", "x" * 255),
        ("server", 'quote" comma, equals= back\\slash space'),
        ("server", "сервер 🚀 \u202e"),
        ("user_token", "Алиса"),
        ("reported_at", iso(NOW_MILLIS - 7 * DAY_MILLIS)),
        ("reported_at", iso(NOW_MILLIS + 5 * 60_000)),
        ("connections", 0),
    ],
)
def test_the_edges_of_what_is_allowed_are_taken(field, value):
    assert isinstance(taken(GOOD | {field: value}), Report)


def test_ids_are_of_who_reports():
    assert report_key("reporter:a", "1") != report_key("reporter:b", "1")
    assert report_key("reporter:a", "1") != report_key("user:a", "1")
    assert len(report_key("reporter:a", "1")) == 16


def test_a_reports_own_id_goes_before_the_requests():
    own = taken(GOOD | {"report_id": "own"}, fallback_id="header")
    other = taken(GOOD, fallback_id="header")
    assert own.report_key == report_key("reporter:r", "own")
    assert other.report_key == report_key("reporter:r", "header")


@given(
    window_days=st.integers(1, 30),
    dated_after_arrival=st.integers(-30 * DAY_MILLIS, MAX_AHEAD_MILLIS),
    sent_again_after=st.integers(0, 40 * DAY_MILLIS),
)
def test_an_id_is_never_forgotten_while_its_report_could_still_be_taken(
    window_days, dated_after_arrival, sent_again_after
):
    limits = Limits(dedup_window_millis=window_days * DAY_MILLIS)
    body = GOOD | {"report_id": "r", "reported_at": iso(NOW_MILLIS + dated_after_arrival)}
    later = NOW_MILLIS + sent_again_after
    first = taken(body, limits=limits)
    again = taken(body, limits=limits, now_millis=later)
    if isinstance(first, Report) and isinstance(again, Report):
        assert purge_horizon_millis(limits, now_millis=later) <= NOW_MILLIS


@pytest.mark.parametrize("field", ["user_token", "server", "protocol", "report_id"])
def test_half_a_surrogate_pair_is_refused_by_the_name_of_its_field(field):
    refusal = taken(GOOD | {field: "a\ud800b"})
    assert isinstance(refusal, Refusal)
    assert (refusal.field, refusal.reason) == (
        field,
        "contains control characters or broken Unicode",
    )


def test_half_a_surrogate_pair_in_a_moment_is_refused_by_its_field():
    assert taken(GOOD | {"reported_at": "\ud800"}).field == "reported_at"


@pytest.mark.parametrize("text", ["1024.0", "1.024e3", "1024"])
@pytest.mark.parametrize("frame", ["{%s}", "[{%s}]"])
def test_a_whole_number_may_be_written_as_a_float(text, frame):
    fields = json.dumps(GOOD | {"bytes_uploaded": -1})[1:-1].replace("-1", text)
    ((_, wire),) = decode((frame % fields).encode()).reports
    assert wire.bytes_uploaded == 1024
    assert type(wire.bytes_uploaded) is int


class TestBodies:
    def test_an_array_of_far_too_many_values_is_not_even_read(self):
        with pytest.raises(BodyTooLargeError, match="far more values"):
            decode(b"[" + b"1," * 700_000 + b"1]")

    def test_what_follows_a_gzip_stream_is_not_dropped_silently(self):
        body = gzip.compress(b"hello") + gzip.compress(b"world")
        with pytest.raises(UnreadableBodyError, match="one stream"):
            inflate(body, limit_bytes=1000)

    def test_good_reports_of_an_array_are_kept_beside_bad_ones(self):
        body = json.dumps([GOOD, GOOD | {"port": -1}, 5, GOOD, {"user_token": "x"}]).encode()
        decoded = decode(body)
        assert decoded.is_array
        assert [index for index, _ in decoded.reports] == [0, 3]
        assert [(each.index, each.field) for each in decoded.refusals] == [
            (1, "port"),
            (2, "report"),
            *((4, field) for field in (*REQUIRED,) if field != "user_token"),
        ]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"   ",
            b"null",
            b"5",
            b'"text"',
            b"{",
            b"[",
            b"[{]",
            b'{"a": NaN}',
            b'{"server": "\xff"}',
            b"[" * 100_000,
            b'{"a":' * 100_000,
        ],
    )
    def test_what_is_no_json_object_or_array_is_unreadable(self, body):
        with pytest.raises(UnreadableBodyError):
            decode(body)

    def test_too_many_reports_are_refused_as_too_large(self):
        body = msgspec.json.encode([GOOD] * (MAX_REPORTS_PER_REQUEST + 1))
        with pytest.raises(BodyTooLargeError, match="10001 reports"):
            decode(body)
        assert len(decode(msgspec.json.encode([GOOD] * MAX_REPORTS_PER_REQUEST)).reports) == 10_000

    def test_gzip_is_undone(self):
        assert inflate(gzip.compress(b"hello"), limit_bytes=5) == b"hello"

    def test_a_gzip_bomb_stops_at_the_limit(self):
        with pytest.raises(BodyTooLargeError, match="more than 1000 bytes"):
            inflate(gzip.compress(b"0" * 50_000_000), limit_bytes=1000)

    @pytest.mark.parametrize(
        "body", [b"", b"no gzip", gzip.compress(b"hello world", mtime=0)[:-9], zlib.compress(b"x")]
    )
    def test_a_broken_gzip_stream_is_unreadable(self, body):
        with pytest.raises(UnreadableBodyError):
            inflate(body, limit_bytes=1000)

    @given(st.binary(max_size=200))
    def test_no_bytes_break_the_decoder(self, body):
        for attempt in (body, b"[" + body, b"{" + body):
            try:
                decode(attempt)
            except (UnreadableBodyError, BodyTooLargeError):
                continue

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda children: st.lists(children) | st.dictionaries(st.text(), children),
            max_leaves=10,
        )
    )
    def test_no_json_value_in_any_field_breaks_the_pipeline(self, value):
        for field in WireReport.__struct_fields__:
            try:
                body = json.dumps([GOOD | {field: value}], allow_nan=False).encode()
            except ValueError:
                return
            decoded = decode(body)
            assert len(decoded.reports) + len(decoded.refusals) == 1
            for index, wire in decoded.reports:
                accept(
                    wire,
                    index=index,
                    username=wire.user_token,
                    scope="",
                    fallback_id=None,
                    now_millis=NOW_MILLIS,
                    limits=Limits(),
                )


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8))
def test_a_username_that_is_taken_has_no_blank_around_it_and_one_spelling(name):
    found = taken(GOOD | {"user_token": name})
    if isinstance(found, Report):
        assert found.username == found.username.strip()
        assert found.username == unicodedata.normalize("NFC", name)
    else:
        assert found.field == "user_token"


def fields_of(refusals):
    return [(each.index, each.field) for each in refusals]


def test_all_that_is_wrong_with_a_report_is_told():
    bad = {"server": "", "port": 70000, "bytes_uploaded": -1, "reported_at": "now", "report_id": ""}
    decoded = decode(json.dumps([GOOD, {**GOOD, **bad}, {"server": 5}]).encode())
    assert fields_of(decoded.refusals) == [
        *((1, field) for field in ("server", "port", "bytes_uploaded", "report_id", "reported_at")),
        *((2, field) for field in REQUIRED),
    ]
    assert {each.reason for each in decoded.refusals if each.index == 2} == {
        "is required",
        "expected `str`, got `int`",
    }


def test_all_that_a_well_formed_report_breaks_is_told_and_its_first_fault_refuses_it():
    old = iso(NOW_MILLIS - 8 * DAY_MILLIS)
    body = GOOD | {"server": "a\nb", "protocol": "v\\", "bytes_uploaded": 2**50}
    wire = wire_of(body | {"bytes_downloaded": 2**50, "reported_at": old})
    options = {"index": 7, "username": " alice", "now_millis": NOW_MILLIS, "limits": Limits()}
    faults = faults_of(wire, **options)
    assert fields_of(faults) == [
        *((7, field) for field in ("user_token", "server", "protocol")),
        *((7, field) for field in ("bytes_uploaded", "bytes_downloaded", "reported_at")),
    ]
    assert accept(wire, scope="s", fallback_id=None, **options) == faults[0]


def test_after_many_refusals_only_the_first_fault_of_a_report_is_told():
    """To look for all of them takes longer than to decode the report."""
    decoded = decode(json.dumps([{"user_token": "x"}] * 1000).encode())
    assert {each.index for each in decoded.refusals} == set(range(1000))
    assert len(decoded.refusals) == 20 * 5 + 980


MISSPELT = [
    ("reportId", "report_id"),
    ("report-id", "report_id"),
    ("timestamp", "reported_at"),
    ("reportedAt", "reported_at"),
    ("bytesUploaded", "bytes_uploaded"),
    ("byte_downloaded", "bytes_downloaded"),
    ("userToken", "user_token"),
    ("comment", None),
    ("", None),
]


@pytest.mark.parametrize("frame", ["{}", "[{}]"])
@pytest.mark.parametrize(("name", "meant"), MISSPELT)
def test_a_field_that_is_not_known_is_named_with_what_it_may_mean(frame, name, meant):
    body = frame.replace("{}", json.dumps(GOOD | {name: "x"})).encode()
    decoded = decode(body)
    assert len(decoded.reports) == 1
    assert decoded.unknown == [UnknownField(name, 1, meant)]
    strict = decode(body, is_strict=True)
    assert (strict.reports, strict.unknown) == ([], [])
    assert fields_of(strict.refusals) == [(0, name)]
    assert (meant or "is no field") in strict.refusals[0].reason


def test_unknown_fields_are_counted_by_report_whatever_else_is_wrong():
    bodies = [GOOD, GOOD | {"zz": 1}, GOOD | {"zz": {"reportId": 1}}, {"zz": 1, "port": -1}, 5]
    decoded = decode(json.dumps(bodies).encode())
    assert decoded.unknown == [UnknownField("zz", 3, None)]
    strict = decode(json.dumps(bodies[:3]).encode(), is_strict=True)
    assert [index for index, _ in strict.reports] == [0]
    assert fields_of(strict.refusals) == [(1, "zz"), (2, "zz")]


def test_unknown_fields_are_bounded_in_number_and_length():
    body = GOOD | {f"f{number}": 1 for number in range(1000)} | {"x" * 1000: 1, "a\nb": 1}
    decoded = decode(json.dumps(body).encode())
    assert len(decoded.unknown) == MOST_UNKNOWN
    (long,) = decode(json.dumps(GOOD | {"x" * 1000: 1}).encode()).unknown
    assert len(long.field) < 70
    (broken,) = decode(json.dumps(GOOD | {"a\nb": 1}).encode()).unknown
    assert broken.field.isprintable()
    assert len(decode(json.dumps(body).encode(), is_strict=True).refusals) < 50
