"""The bridge's books in line protocol."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from collector.influx.delivery import Refused
from collector.schema import EVENTS, USER_USAGE
from marzban_bridge.panels.users import Status
from marzban_bridge.quota.account import Event
from marzban_bridge.quota.usage import Totals
from marzban_bridge.store.events import RecordedEvent
from marzban_bridge.timeseries.event_severity import SEVERITIES
from marzban_bridge.timeseries.points import Ending, Series, event_line, last_line, usage_line
from tests.support.bridge.bridge_builders import (
    CREATED_AT,
    NOW,
    account,
    as_reported,
    gib,
    panel_user,
)

NOW_MILLIS = 1_779_278_400_000
CREATED_AT_MILLIS = 1_777_627_800_000


def fields_of(held, total=0):
    """Return the fields of an account's point; values in these tests have neither comma nor space."""
    line = usage_line(held, totals=as_reported(total), at=NOW)
    _, fields, _ = line.split(" ")
    return dict(field.split("=") for field in fields.split(","))


def test_a_line_says_all_there_is_to_say_of_a_user():
    user = panel_user(admin="shop", used_bytes=gib(1), data_limit_bytes=gib(3))
    line = usage_line(account(user), totals=as_reported(gib(7)), at=NOW)
    assert line == (
        "user_usage,admin=shop,panel=default,user=alice "
        'username="alice",status="active",'
        f"quota_bytes={gib(10)}i,marzban_bytes={gib(1)}i,external_bytes={gib(7)}i,"
        f"external_raw_bytes={gib(7)}i,"
        f"used_bytes={gib(8)}i,used_ratio=0.8,published_limit_bytes={gib(3)}i,"
        f"period_started_at_millis={CREATED_AT_MILLIS}i,"
        "is_unenforced=0i,is_disabled_by_bridge=0i,is_held=0i,is_gone=0i,"
        "days_to_limit=-1.0,"
        "expires_at_millis=0i,online_at_millis=0i,next_reset_at_millis=0i,"
        f'panel_user_url="" {NOW_MILLIS}000000'
    )


def test_a_line_has_the_fields_of_the_names_contract_and_their_types():
    kinds = {"i": int, '"': str}
    spelt = fields_of(account(), 1)
    assert {name: kinds.get(value[-1], float) for name, value in spelt.items()} == dict(
        USER_USAGE.fields
    )


def test_a_line_tells_what_counts_from_the_bytes_themselves():
    held = account(baseline_bytes=gib(1), raw_baseline_bytes=gib(3), seen_raw_bytes=gib(4))
    line = usage_line(held, totals=Totals(billed_bytes=gib(7), raw_bytes=gib(5)), at=NOW)
    assert f"external_bytes={gib(6)}i,external_raw_bytes={gib(2)}i,used_bytes={gib(6)}i" in line


def test_usage_is_that_of_the_period():
    spelt = fields_of(account(baseline_bytes=gib(5)), gib(7))
    assert spelt["external_bytes"] == f"{gib(2)}i"
    assert spelt["used_ratio"] == "0.2"


def test_a_user_without_quota_has_zeros_so_that_no_earlier_quota_is_its_last():
    free = account(panel_user(data_limit_bytes=None), quota_bytes=None)
    spelt = fields_of(free, gib(7))
    assert set(spelt) == set(USER_USAGE.fields)
    assert spelt["quota_bytes"] == spelt["published_limit_bytes"] == "0i"
    assert spelt["used_ratio"] == "0.0"
    assert spelt["used_bytes"] == f"{gib(7)}i"
    assert spelt["is_unenforced"] == "0i"


def test_a_ratio_is_a_float_even_when_it_is_whole():
    assert fields_of(account(), 0)["used_ratio"] == "0.0"
    assert fields_of(account(), gib(10))["used_ratio"] == "1.0"


@pytest.mark.parametrize(
    ("status", "external", "is_unenforced"),
    [
        (Status.ACTIVE, gib(10) - 1, 0),
        (Status.ACTIVE, gib(10), 1),
        (Status.ACTIVE, gib(99), 1),
        (Status.LIMITED, gib(10), 0),
        (Status.DISABLED, gib(10), 0),
        (Status.EXPIRED, gib(10), 0),
        (Status.ON_HOLD, gib(10), 0),
    ],
)
def test_unenforced_is_who_used_up_the_quota_and_is_active_all_the_same(
    status, external, is_unenforced
):
    held = account(panel_user(status=status))
    assert fields_of(held, external)["is_unenforced"] == f"{is_unenforced}i"


def test_a_held_user_over_its_quota_is_unenforced_too_and_stands_as_before_the_loss():
    held = account(is_held=True, seen_total_bytes=gib(11), baseline_bytes=gib(1))
    spelt = fields_of(held, gib(0.5))
    assert (spelt["is_held"], spelt["is_unenforced"]) == ("1i", "1i")
    assert spelt["external_bytes"] == f"{gib(10)}i"
    assert fields_of(held, gib(99))["external_bytes"] == f"{gib(10)}i", "nor what it has grown to"
    lacking = account(seen_total_bytes=gib(11), baseline_bytes=gib(1))
    assert fields_of(lacking, gib(0.5))["external_bytes"] == f"{gib(10)}i"


def test_whom_the_bridge_disabled_is_told_apart():
    ours = account(panel_user(status=Status.DISABLED), is_disabled_by_us=True)
    assert fields_of(ours)["is_disabled_by_bridge"] == "1i"


@pytest.mark.parametrize(
    ("name", "spelling"),
    [
        (None, "-"),
        ("a b", "a\\ b"),
        ("a,b=c", "a\\,b\\=c"),
        ('"', '"'),
        ("мария 🚀", "мария\\ 🚀"),
        ("\\x", "\\x"),
    ],
)
def test_an_owner_keeps_its_name(name, spelling):
    line = usage_line(account(panel_user(admin=name)), totals=as_reported(0), at=NOW)
    assert line.startswith(f"user_usage,admin={spelling},panel=default,user=alice ")


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\\"])
@pytest.mark.parametrize("whose", ["username", "admin"])
def test_a_name_without_a_spelling_is_refused_with_a_reason(name, whose):
    point = usage_line(account(panel_user(**{whose: name})), totals=as_reported(0), at=NOW)
    assert isinstance(point, Refused)
    assert repr(name) in point.reason
    assert "\n" not in point.line + point.reason


def test_a_moment_is_kept_to_the_microsecond():
    at = datetime(2026, 5, 20, 12, 0, 0, 123_457, tzinfo=UTC)
    assert usage_line(account(), totals=as_reported(0), at=at).endswith(
        f" {NOW_MILLIS + 123}457000"
    )
    assert CREATED_AT.timestamp() * 1000 == CREATED_AT_MILLIS


def recorded(seq=7, username="alice", at=NOW, **fields):
    event = Event(**({"kind": "reset", "text": "all anew", "actor": "root"} | fields))
    return RecordedEvent(seq=seq, at=at, username=username, event=event)


def test_an_event_says_what_happened_to_whom_and_who_did_it():
    assert event_line(recorded(before="1073741824", after="0")) == (
        'events,kind=reset,panel=default,severity=notice,user=alice title="reset alice",text="all anew",actor="root",'
        f'before="1.00 GiB",after="0 B" {NOW_MILLIS}000007'
    )


def test_an_event_about_everybody_has_a_user_all_the_same():
    line = event_line(recorded(username="", kind="cleanup"))
    assert line.startswith(
        'events,kind=cleanup,panel=default,severity=notice,user=- title="cleanup -",'
    )
    assert "before" not in line


def test_an_event_has_the_fields_of_the_names_contract():
    line = event_line(recorded(before="1", after="0"))
    assert set(re.findall(r'(\w+)="', line)) == set(EVENTS.fields)


def test_texts_keep_quotes_backslashes_and_line_breaks():
    line = event_line(recorded(text='a "b" \\ c\nd', actor="grafana:eve, \u202e"))
    assert 'text="a \\"b\\" \\\\ c\nd"' in line
    assert 'actor="grafana:eve, \u202e"' in line


def test_events_of_one_millisecond_do_not_overwrite_each_other():
    lines = {event_line(recorded(seq=seq)).rsplit(" ", 1)[1] for seq in (1, 2, 999_999, 1_000_000)}
    assert len(lines) == 4
    later = recorded(seq=1, at=NOW + timedelta(milliseconds=1))
    assert event_line(later).endswith(f" {NOW_MILLIS + 1}000001")


def test_an_event_that_is_written_again_is_the_same_point():
    assert event_line(recorded()) == event_line(replace(recorded()))


def test_an_event_of_a_name_without_a_spelling_is_refused_with_its_place():
    point = event_line(recorded(username="a\nb"))
    assert isinstance(point, Refused)
    assert point.line == "event 7 of 'a\\nb'"


def test_a_last_point_has_every_field_and_nothing_but_zeros():
    line = last_line(Series("alice", "shop", "default"), Ending.DELETED, at=NOW)
    series, fields, nanos = line.split(" ")
    assert (series, nanos) == (
        "user_usage,admin=shop,panel=default,user=alice",
        f"{NOW_MILLIS}000000",
    )
    spelt = dict(field.split("=") for field in fields.split(","))
    assert set(spelt) == set(USER_USAGE.fields)
    assert {name: spelt.pop(name) for name in ("username", "status", "is_gone")} == {
        "username": '"alice"',
        "status": '"deleted"',
        "is_gone": "1i",
    }
    assert spelt.pop("days_to_limit") == "-1.0", "0 would be a forecast"
    assert set(spelt.values()) <= {"0i", "0.0", '""'}


def test_the_kind_of_an_event_says_how_much_it_matters():
    for kind, severity in (
        ("published", "routine"),
        ("orphan", "routine"),
        ("limited", "notice"),
        ("conflict", "problem"),
        ("of-a-later-version", "notice"),
    ):
        assert f",severity={severity}," in event_line(recorded(kind=kind))


def test_every_kind_of_event_that_the_bridge_records_has_a_severity():
    sources = "".join(path.read_text() for path in Path("marzban_bridge").rglob("*.py"))
    kinds = set(re.findall(r'Event\(\s*kind="(\w+)"', sources))
    assert len(kinds) > 15
    assert kinds - set(SEVERITIES) == set()
