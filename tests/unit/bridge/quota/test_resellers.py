"""What a reseller is charged with, when its periods begin, and what is told of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzban_bridge.panels.dialect import MARZBAN
from marzban_bridge.panels.users import Status
from marzban_bridge.quota.account import FLOOR_BYTES, Enforcement
from marzban_bridge.quota.plan import ChangeKind, plan
from marzban_bridge.quota.resellers.charges import CountedUser, used_between, used_by_new
from marzban_bridge.quota.resellers.reseller import (
    Reseller,
    ResellerReset,
    changed,
    charged,
    period_begin,
    renewed,
    told,
)
from marzban_bridge.sizes import human_value
from tests.support.bridge.bridge_builders import (
    CREATED_AT,
    NOW,
    account,
    gib,
    next_plan,
    panel_user,
)

LATER = NOW + timedelta(hours=1)


def user(lifetime=0, external=0, **fields):
    defaults = {
        "admin": "shop",
        "created_at": CREATED_AT,
        "period_started_at": CREATED_AT,
        "lifetime_bytes": lifetime,
        "external_bytes": external,
        "is_shared": False,
    }
    return CountedUser(**(defaults | fields))


def reseller(**fields):
    defaults = {
        "admin": "shop",
        "quota_bytes": 1000,
        "reset": ResellerReset.NEVER,
        "is_enforced": False,
        "used_bytes": 0,
        "period_started_at": NOW,
        "listed_at": NOW,
    }
    return Reseller(**(defaults | fields))


@pytest.mark.parametrize(
    ("before", "after", "charged_bytes"),
    [
        (user(5, 7), user(5, 7), 0),
        (user(5, 7), user(9, 8), 5),
        (user(5, 7), user(9, 7, period_started_at=LATER), 4),
        (user(50, 7), user(3, 7, period_started_at=LATER), 3),
        (user(50, 7), user(3, 7), 0),
        (user(5, 7), user(5, 4), -3),
        (user(50, 70), user(3, 4, created_at=LATER, period_started_at=LATER), 7),
        (user(50, 70), user(60, 71, created_at=LATER), 11),
        (user(5, 7), user(6, 90, is_shared=True), 1),
        (user(5, 7, is_shared=True), user(6, 90, is_shared=True), 84),
    ],
    ids=[
        "nothing used",
        "both used",
        "a reset keeps the lifetime",
        "a reset of all wipes it",
        "a restored panel",
        "a correction",
        "another user of the name",
        "a moved panel's other times of creation",
        "quotas begin to span panels",
        "quotas span panels",
    ],
)
def test_what_is_charged_between_two_states(before, after, charged_bytes):
    assert used_between(before, after) == charged_bytes


@pytest.mark.parametrize(
    ("created_at", "charged_bytes"),
    [
        (NOW, 12),
        (NOW - timedelta(seconds=1), 0),
        (NOW.replace(microsecond=0), 12),
        (None, 0),
    ],
)
def test_a_user_counts_whole_if_it_was_created_since_the_last_list(created_at, charged_bytes):
    after = user(5, 7, created_at=created_at)
    assert used_by_new(after, since=NOW.replace(microsecond=9)) == charged_bytes


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 10**12), st.booleans())))
def test_any_way_from_one_state_to_another_is_charged_alike(steps):
    """However often a user is looked at, what is charged in all is what it used."""
    at, seen, sum_bytes, used_bytes = CREATED_AT, user(), 0, 0
    for panel_bytes, external_bytes, is_reset in steps:
        at += timedelta(hours=1)
        used_bytes += panel_bytes + external_bytes
        after = user(
            seen.lifetime_bytes + panel_bytes,
            seen.external_bytes + external_bytes,
            period_started_at=at if is_reset else seen.period_started_at,
        )
        sum_bytes += used_between(seen, after)
        seen = after
    assert sum_bytes == used_bytes == used_between(user(), seen)


@pytest.mark.parametrize(
    ("reset", "begin"),
    [
        (ResellerReset.NEVER, None),
        (ResellerReset.DAY, (2026, 5, 20)),
        (ResellerReset.WEEK, (2026, 5, 18)),
        (ResellerReset.MONTH, (2026, 5, 1)),
        (ResellerReset.YEAR, (2026, 1, 1)),
    ],
)
def test_periods_begin_by_the_calendar_in_utc(reset, begin):
    assert period_begin(reset, NOW) == (begin and datetime(*begin, tzinfo=UTC))


def test_a_period_that_is_over_ends_once_whatever_time_has_passed():
    old = reseller(
        reset=ResellerReset.MONTH, used_bytes=900, told_percent=80, period_started_at=NOW
    )
    assert renewed(old, now=NOW + timedelta(days=11)) is None
    begun, event = renewed(old, now=NOW + timedelta(days=100))
    assert (begun.used_bytes, begun.told_percent) == (0, 0)
    assert begun.period_started_at == datetime(2026, 8, 1, tzinfo=UTC)
    assert (event.before, event.after) == ("900", "0")
    assert renewed(begun, now=NOW + timedelta(days=100)) is None


def test_80_and_100_percent_are_told_of_once_each_and_again_after_a_fall():
    kinds, found = [], reseller()
    for amount_bytes in (799, 1, 100, 99, 1, 500, -600, 300, -5000):
        found, events = charged(found, amount_bytes)
        kinds += [each.kind for each in events]
    assert kinds == ["reseller_near", "reseller_over", "reseller_over"]
    assert (found.used_bytes, found.told_percent) == (0, 0)


def test_the_event_says_whether_users_are_cut_off():
    _, (event,) = told(reseller(used_bytes=1000))
    assert "go on" in event.text
    _, (event,) = told(reseller(used_bytes=1000, is_enforced=True))
    assert "are cut off" in event.text


def test_amounts_of_events_are_shown_in_units():
    _, (event,) = told(reseller(quota_bytes=gib(5120), used_bytes=gib(5120)))
    _, renewal = renewed(
        reseller(reset=ResellerReset.DAY, used_bytes=gib(2)), now=NOW + timedelta(days=1)
    )
    change = changed(None, reseller(quota_bytes=gib(5120)), actor="root")
    shown = [human_value(each.after, kind=each.kind) for each in (event, change)]
    assert shown == ["5.00 TiB", "quota 5.00 TiB, reset never, not enforced"]
    assert human_value(renewal.before, kind=renewal.kind) == "2.00 GiB"


def planned(of, **fields):
    return plan(
        of,
        total_bytes=0,
        enforcement=Enforcement.LIMIT,
        now=NOW,
        dialect=MARZBAN,
        **({"is_reseller_cut_off": True} | fields),
    )


@pytest.mark.parametrize(
    ("seen", "fields", "kind"),
    [
        (panel_user(), {}, ChangeKind.DISABLE),
        (panel_user(data_limit_bytes=None), {"quota_bytes": None}, ChangeKind.DISABLE),
        (panel_user(status=Status.DISABLED), {}, None),
        (panel_user(status=Status.DISABLED), {"is_disabled_by_us": True}, None),
        (panel_user(status=Status.EXPIRED), {}, None),
        (panel_user(status=Status.ON_HOLD), {}, None),
        (panel_user(status=Status.LIMITED, used_bytes=gib(10)), {}, None),
        (
            panel_user(status=Status.LIMITED, used_bytes=gib(2), data_limit_bytes=gib(2)),
            {},
            ChangeKind.DISABLE,
        ),
        (panel_user(), {"let_in_at": NOW - timedelta(seconds=59)}, None),
        (panel_user(), {"let_in_at": NOW - timedelta(seconds=60)}, ChangeKind.DISABLE),
        (panel_user(next_plan=next_plan(), used_bytes=gib(10)), {}, ChangeKind.DISABLE),
        (panel_user(), {"is_held": True}, None),
    ],
    ids=[
        "active",
        "unlimited",
        "disabled by the admin",
        "disabled already",
        "expired",
        "on hold",
        "limited",
        "limited, to be released",
        "let in lately",
        "let in a minute ago",
        "a next plan waits",
        "held",
    ],
)
def test_what_is_planned_for_a_user_of_a_reseller_that_is_cut_off(seen, fields, kind):
    change = planned(account(seen, **fields))
    assert (change and change.kind) == kind
    if change:
        assert change.update.status is Status.DISABLED
        assert change.update.data_limit_bytes in {None, gib(10)}, "no limit is invented"


def test_a_user_is_enabled_when_its_reseller_is_not_cut_off_and_its_own_quota_allows():
    disabled = account(panel_user(status=Status.DISABLED), is_disabled_by_us=True)
    assert planned(disabled, is_reseller_cut_off=False).kind is ChangeKind.ENABLE
    used_up = replace(disabled, quota_bytes=FLOOR_BYTES, baseline_bytes=-gib(1))
    assert planned(used_up, is_reseller_cut_off=False) is None
