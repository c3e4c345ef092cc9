"""What should change in the panel."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzban_bridge.panels.dialect import MARZBAN
from marzban_bridge.panels.users import ResetStrategy, Status
from marzban_bridge.quota.account import FLOOR_BYTES, MIB, ROUNDING_BYTES, Enforcement, Restoration
from marzban_bridge.quota.plan import MAX_FIRE_ATTEMPTS, ChangeKind, plan
from marzban_bridge.quota.policy import POLICIES
from tests.support.bridge.bridge_builders import (
    CREATED_AT,
    NOW,
    account,
    gib,
    next_plan,
    panel_user,
)


def planned(held, external, enforcement=Enforcement.LIMIT, now=NOW):
    return plan(held, total_bytes=external, enforcement=enforcement, now=now, dialect=MARZBAN)


@pytest.mark.parametrize(
    ("used", "shown", "external", "kind"),
    [
        (0, gib(10), 0, None),
        (0, gib(10), 10 * MIB, None),  # 5 % of what is left is more than that
        (gib(9.9), gib(10), 10 * MIB - 1, None),
        (gib(9.9), gib(10), 10 * MIB, ChangeKind.PUBLISH),
        (0, gib(10), gib(0.47), None),
        (0, gib(10), gib(0.48), ChangeKind.PUBLISH),  # 5 % of the 9.52 GiB that are left
        (gib(4), gib(10), gib(6) - 1, ChangeKind.PUBLISH),
        (gib(4), gib(10), gib(6), ChangeKind.LIMIT),
        (gib(4), gib(4) + MIB, gib(6), ChangeKind.LIMIT),  # crossing never waits for a step
        (gib(4), gib(4), gib(7), None),  # the panel cuts off already
        (gib(4), gib(3), gib(5), ChangeKind.RELEASE),  # the panel's limit is too low
        (gib(4), gib(5) + ROUNDING_BYTES, gib(5), None),
    ],
)
def test_a_limit_is_written_when_it_matters(used, shown, external, kind):
    status = Status.LIMITED if used >= shown else Status.ACTIVE
    held = account(panel_user(used_bytes=used, data_limit_bytes=shown, status=status))
    change = planned(held, external)
    assert (change and change.kind) == kind
    if change:
        assert change.update.data_limit_bytes == max(FLOOR_BYTES, gib(10) - external)
        assert change.update.status is None


def test_a_user_whom_no_limit_can_cut_off_is_disabled_at_the_crossing():
    change = planned(account(), gib(10))
    assert change.kind is ChangeKind.DISABLE
    assert change.update.status is Status.DISABLED
    assert change.update.data_limit_bytes == FLOOR_BYTES


def test_a_user_we_disabled_comes_back_with_its_limit_when_there_is_quota_again():
    user = panel_user(status=Status.DISABLED, data_limit_bytes=FLOOR_BYTES)
    held = account(user, is_disabled_by_us=True, published_bytes=FLOOR_BYTES, quota_bytes=gib(12))
    change = planned(held, gib(10))
    assert change.kind is ChangeKind.ENABLE
    assert change.update.status is Status.ACTIVE
    assert change.update.data_limit_bytes == gib(2)


def test_a_user_we_disabled_stays_so_while_the_quota_is_used_up():
    user = panel_user(status=Status.DISABLED, data_limit_bytes=FLOOR_BYTES)
    assert planned(account(user, is_disabled_by_us=True), gib(11)) is None


@pytest.mark.parametrize("status", [Status.DISABLED, Status.EXPIRED, Status.ON_HOLD])
@pytest.mark.parametrize("external", [gib(5), gib(20)])
def test_users_the_admin_took_out_of_service_are_counted_and_left_alone(status, external):
    assert planned(account(panel_user(status=status)), external) is None


def test_an_unlimited_user_is_left_alone():
    held = account(panel_user(data_limit_bytes=None), quota_bytes=None)
    assert planned(held, gib(500)) is None


def test_an_unlimited_user_we_had_disabled_comes_back():
    user = panel_user(status=Status.DISABLED, data_limit_bytes=None)
    change = planned(account(user, quota_bytes=None, is_disabled_by_us=True), gib(500))
    assert change.kind is ChangeKind.ENABLE
    assert change.update.data_limit_bytes is None


def test_a_held_account_is_left_alone():
    assert planned(account(is_held=True), gib(11)) is None


@pytest.mark.parametrize(
    ("plan_fields", "attempts", "kind"),
    [
        ({}, 0, ChangeKind.FIRE_NEXT_PLAN),
        ({}, MAX_FIRE_ATTEMPTS, ChangeKind.LIMIT),  # it does not fire: the quota holds all the same
        ({"fires_on_either": False}, 0, ChangeKind.LIMIT),
        ({"data_limit_bytes": None}, 0, ChangeKind.LIMIT),  # Marzban fails on such a plan
        ({"data_limit_bytes": 0}, 0, ChangeKind.FIRE_NEXT_PLAN),  # unlimited from then on
        ({"adds_remaining_traffic": False}, 0, ChangeKind.FIRE_NEXT_PLAN),
    ],
)
def test_a_waiting_next_plan_fires_at_the_crossing(plan_fields, attempts, kind):
    """A limit written below the used traffic would make Marzban never fire it."""
    user = panel_user(used_bytes=gib(4), next_plan=next_plan(**plan_fields))
    assert planned(account(user, fire_attempts=attempts), gib(7)).kind is kind


def test_a_next_plan_that_would_leave_a_negative_limit_is_not_fired():
    """Marzban would answer 500 wherever the user appears."""
    plan_of = {"adds_remaining_traffic": False, "data_limit_bytes": gib(1)}
    user = panel_user(used_bytes=gib(6), data_limit_bytes=gib(5), next_plan=next_plan(**plan_of))
    assert planned(account(user), gib(7)) is None
    one_byte_more = next_plan(**plan_of | {"data_limit_bytes": gib(1) + 1})
    fired = account(replace(user, next_plan=one_byte_more))
    assert planned(fired, gib(7)).kind is ChangeKind.FIRE_NEXT_PLAN


def test_a_next_plan_that_adds_the_rest_to_nothing_is_not_fired_once_there_is_none():
    """The panel would make the user unlimited, although the rest alone was meant."""
    plan_of = next_plan(adds_remaining_traffic=False, data_limit_bytes=0)
    user = panel_user(used_bytes=gib(5), data_limit_bytes=gib(5), next_plan=plan_of)
    assert planned(account(user), gib(7)) is None


def test_a_next_plan_waits_while_there_is_quota():
    user = panel_user(used_bytes=gib(4), next_plan=next_plan())
    assert planned(account(user), gib(5)).kind is ChangeKind.PUBLISH


@pytest.mark.parametrize(
    ("is_ours", "days", "kind"),
    [(True, 30, ChangeKind.RESET), (True, 29.9, None), (False, 31, None)],
)
def test_the_periodic_reset_is_run_for_users_we_disabled(is_ours, days, kind):
    """The panel's own job skips disabled users, and an admin's choice is none of our business."""
    user = panel_user(
        status=Status.DISABLED,
        data_limit_bytes=FLOOR_BYTES,
        reset_strategy=ResetStrategy.MONTH,
    )
    held = account(user, is_disabled_by_us=is_ours, published_bytes=FLOOR_BYTES)
    change = planned(held, gib(11), now=CREATED_AT + timedelta(days=days))
    assert (change and change.kind) == kind


def test_a_user_found_limited_at_a_reset_is_written_once_to_get_back_into_xray():
    held = account(needs_readd=True)
    change = planned(held, 0)
    assert change.kind is ChangeKind.RELEASE
    assert planned(replace(held, needs_readd=False), 0) is None


def test_what_a_reset_took_is_put_back_together_with_the_limit():
    user = panel_user(data_limit_bytes=gib(3))
    restoration = Restoration(
        status=Status.ON_HOLD, on_hold_expire_duration=86400, next_plan=next_plan()
    )
    held = account(user, restoration=restoration, published_bytes=gib(3))
    change = planned(held, 0)
    assert change.kind is ChangeKind.RESTORE
    assert change.update.status is Status.ON_HOLD
    assert change.update.on_hold_expire_duration == 86400
    assert change.update.next_plan == next_plan()
    assert change.update.data_limit_bytes == gib(10)
    assert "status, next plan" in change.reason


@pytest.mark.parametrize(
    ("status", "is_ours", "external", "written"),
    [
        (Status.DISABLED, True, 0, Status.ACTIVE),  # there is quota again: let it in as well
        (Status.DISABLED, True, gib(11), None),
        (Status.DISABLED, False, 0, None),  # an admin's choice
        (Status.ACTIVE, False, 0, None),
    ],
)
def test_putting_back_a_plan_lets_in_only_whom_we_had_disabled(status, is_ours, external, written):
    held = account(
        panel_user(status=status),
        is_disabled_by_us=is_ours,
        restoration=Restoration(next_plan=next_plan()),
    )
    change = planned(held, external)
    assert change.update.status is written
    assert change.reason == "restore what a reset or a late write removed: next plan"


def test_the_reason_of_a_publication_says_how_much():
    change = planned(account(panel_user(used_bytes=gib(4))), gib(5))
    assert change.reason.startswith("5.00 GiB of external traffic")


@pytest.mark.parametrize(
    ("used", "external", "kind"),
    [(gib(4), gib(5), None), (gib(4), gib(6), ChangeKind.DISABLE), (gib(10), gib(6), None)],
)
def test_disable_mode_only_touches_the_status(used, external, kind):
    status = Status.LIMITED if used >= gib(10) else Status.ACTIVE
    change = planned(
        account(panel_user(used_bytes=used, status=status)), external, Enforcement.DISABLE
    )
    assert (change and change.kind) == kind
    if change:
        assert change.update.data_limit_bytes is None


def test_disable_mode_gives_a_limit_back_that_was_published_before():
    held = account(panel_user(data_limit_bytes=gib(5)), published_bytes=gib(5))
    change = planned(held, gib(5), Enforcement.DISABLE)
    assert change.kind is ChangeKind.RELEASE
    assert change.update.data_limit_bytes == gib(10)


def test_observing_plans_like_limiting_and_carries_out_nothing():
    change = planned(account(panel_user(used_bytes=gib(4))), gib(7), Enforcement.OBSERVE)
    assert change.kind is ChangeKind.LIMIT
    assert not POLICIES[Enforcement.OBSERVE](change)
    assert POLICIES[Enforcement.LIMIT](change)
    assert POLICIES[Enforcement.DISABLE](change)


@given(
    quota=st.integers(min_value=1, max_value=2**45),
    used=st.integers(min_value=0, max_value=2**45),
    shown=st.integers(min_value=1, max_value=2**45),
    external=st.integers(min_value=0, max_value=2**45),
)
def test_planning_after_applying_yields_nothing(quota, used, shown, external):
    status = Status.LIMITED if used >= shown else Status.ACTIVE
    held = account(
        panel_user(used_bytes=used, data_limit_bytes=shown, status=status), quota_bytes=quota
    )
    change = planned(held, external)
    if change is None:
        return
    limit = change.update.data_limit_bytes or shown
    after = panel_user(
        used_bytes=used,
        data_limit_bytes=limit,
        status=change.update.status or (Status.LIMITED if used >= limit else Status.ACTIVE),
    )
    is_ours = after.status is Status.DISABLED
    applied = account(after, quota_bytes=quota, published_bytes=limit, is_disabled_by_us=is_ours)
    assert planned(applied, external) is None


@given(steps=st.lists(st.integers(min_value=1, max_value=64 * MIB), min_size=50, max_size=400))
def test_writes_grow_with_the_logarithm_of_the_traffic_not_with_the_reports(steps):
    """At most one write per 5 % of what is left, and per 10 MiB in the last 200 MiB."""
    shown, external, writes = gib(10), 0, 0
    for step in steps:
        external += step
        user = panel_user(used_bytes=gib(1), data_limit_bytes=shown)
        change = planned(account(user), external)
        if change:
            writes += 1
            shown = change.update.data_limit_bytes
        left_bytes = gib(9) - external
        assert shown - (gib(10) - external) <= max(10 * MIB, 0.05 * max(0, left_bytes))
    assert writes <= 77 + 20 + 1
