"""Was there a reset?"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from marzban_bridge.panels.dialect import MARZBAN
from marzban_bridge.panels.users import ResetStrategy, Status
from marzban_bridge.quota.account import FLOOR_BYTES, snapshot_of
from marzban_bridge.quota.resets.detection import Cause, Fall, detect, fall_of, period_start
from marzban_bridge.quota.resets.echoes import ECHO_WINDOW
from marzban_bridge.quota.resets.reset_all import ResetAll
from marzban_bridge.quota.resets.schedule import CALENDAR_GRACE
from tests.support.bridge.bridge_builders import (
    CREATED_AT,
    NOW,
    account,
    gib,
    next_plan,
    panel_user,
)

LATER = NOW + timedelta(seconds=30)
PROVED = ResetAll(seen_at=NOW, after=NOW - timedelta(seconds=60))


def detected(before, after, *, at=LATER, **facts):
    fields = facts.pop("account", {})
    return detect(
        account(before, **fields), snapshot_of(after, seen_at=at), dialect=MARZBAN, **facts
    )


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ((5, 0), (5, 0), None),
        ((5, 0), (6, 0), None),
        ((5, 0), (0, 5), Cause.SEEN),
        ((5, 0), (7, 5), Cause.SEEN),  # used again since, more than before: the log tells
        ((5, 20), (1, 25), Cause.SEEN),
        ((5, 0), (0, 0), Cause.RESET_ALL),  # the log did not take it: only a reset-all does that
        ((5, 20), (0, 0), Cause.RESET_ALL),
        ((0, 20), (0, 0), Cause.RESET_ALL),
        ((5, 20), (9, 0), Cause.RESET_ALL),
        ((0, 0), (0, 0), None),
        ((0, 0), (3, 0), None),
    ],
)
def test_a_reset_shows_in_used_traffic_or_in_the_log(before, after, cause):
    """Pairs are (used, logged) in GiB."""
    sign = detected(
        panel_user(used_bytes=gib(before[0]), logged_bytes=gib(before[1])),
        panel_user(used_bytes=gib(after[0]), logged_bytes=gib(after[1])),
    )
    assert (sign and sign.cause) == cause
    if sign:
        assert sign.wiped_log == (cause is Cause.RESET_ALL)


@pytest.mark.parametrize("used", [0, 5])
def test_that_a_user_was_online_is_no_reset(used):
    """Marzban notes it also where a node's coefficient leaves no whole byte to be counted."""
    before = panel_user(used_bytes=used)
    assert detected(before, panel_user(used_bytes=used, online_at=NOW)) is None


def test_what_was_used_at_the_reset_is_read_from_the_log():
    """Traffic between our last look and the reset is in the log, not in our sighting."""
    sign = detected(panel_user(used_bytes=gib(5)), panel_user(logged_bytes=gib(6)))
    assert sign.used_at_reset_bytes == gib(6)


@pytest.mark.parametrize(
    ("used", "echo_until", "cause"),
    [
        (0, None, Cause.WEBHOOK),
        (gib(1), None, None),  # its traffic would have been reset visibly: the webhook is stale
        (0, LATER + timedelta(seconds=1), None),  # the echo of a reset already counted
        (0, LATER, Cause.WEBHOOK),
    ],
)
def test_a_webhook_is_believed_only_for_users_whose_reset_cannot_be_seen(used, echo_until, cause):
    user = panel_user(used_bytes=used)
    sign = detected(user, user, was_announced=True, account={"echo_until": echo_until})
    assert (sign and sign.cause) == cause


def test_the_echo_window_covers_the_panels_slowest_redelivery():
    assert timedelta(seconds=30 + 3 * 180) < ECHO_WINDOW


@pytest.mark.parametrize("used", [0, gib(2)])
@pytest.mark.parametrize(("was_announced", "cause"), [(False, None), (True, Cause.WEBHOOK)])
def test_that_a_user_is_active_again_whom_we_disabled_is_no_reset(used, was_announced, cause):
    """A resumed reseller's users and one set active by hand look so; a reset is announced."""
    before = panel_user(status=Status.DISABLED, data_limit_bytes=FLOOR_BYTES, used_bytes=used)
    after = replace(before, status=Status.ACTIVE)
    sign = detected(before, after, account={"is_disabled_by_us": True}, was_announced=was_announced)
    assert (sign and sign.cause) == (None if used else cause)


@pytest.mark.parametrize(
    ("used", "took_part_at", "cause"),
    [
        (0, None, Cause.RESET_ALL),
        (0, NOW, None),  # this account has taken it into account already
        (gib(1), None, None),  # one can see that this user was not among the reset
    ],
)
def test_a_reset_of_all_users_extends_to_those_where_it_cannot_be_seen(used, took_part_at, cause):
    user = panel_user(used_bytes=used)
    sign = detected(
        user,
        user,
        reset_all=ResetAll(seen_at=NOW, after=NOW),
        account={"reset_all_seen_at": took_part_at},
    )
    assert (sign and sign.cause) == cause


@pytest.mark.parametrize(
    ("before", "after", "is_proved", "facts", "cause"),
    [
        ((5, 0), (6, 0), True, {}, Cause.RESET_ALL),  # more than before within one poll
        ((5, 0), (6, 0), True, {"reset_all_seen_at": NOW}, None),  # taken into account already
        ((5, 0), (6, 0), False, {}, None),
        ((5, 0), (5, 0), True, {}, None),  # to the byte: this one was not reset
        ((5, 0), (5, 0), True, {"used_rose_at": NOW}, Cause.RESET_ALL),  # looked at before proof
        ((5, 0), (5, 0), True, {"used_rose_at": PROVED.after}, None),
        ((5, 3), (6, 3), True, {}, None),  # a reset of all would have wiped the log
        ((5, 3), (5, 3), True, {"used_rose_at": NOW}, None),
    ],
)
def test_a_reset_of_all_users_is_believed_of_one_who_used_more_since(
    before, after, is_proved, facts, cause
):
    """Pairs are (used, logged) in GiB."""
    sign = detected(
        panel_user(used_bytes=gib(before[0]), logged_bytes=gib(before[1])),
        panel_user(used_bytes=gib(after[0]), logged_bytes=gib(after[1])),
        reset_all=PROVED if is_proved else None,
        account=facts,
    )
    assert (sign and sign.cause) == cause
    if sign:
        assert (sign.used_at_reset_bytes, sign.wiped_log) == (gib(before[0]), False)


DUE = CREATED_AT + timedelta(days=30)


@pytest.mark.parametrize(
    ("at", "used_when_due", "statuses", "cause"),
    [
        (DUE + CALENDAR_GRACE, 0, (Status.ACTIVE, Status.ACTIVE), Cause.CALENDAR),
        (DUE + CALENDAR_GRACE, 0, (Status.LIMITED, Status.ACTIVE), Cause.CALENDAR),
        (DUE + CALENDAR_GRACE - timedelta(seconds=1), 0, (Status.ACTIVE, Status.ACTIVE), None),
        (DUE + CALENDAR_GRACE, 7, (Status.ACTIVE, Status.ACTIVE), None),  # it would be visible
        (DUE + CALENDAR_GRACE, 0, (Status.EXPIRED, Status.EXPIRED), None),  # the job skips these
        (DUE + CALENDAR_GRACE, 0, (Status.DISABLED, Status.DISABLED), None),
        (DUE + CALENDAR_GRACE, 0, (Status.DISABLED, Status.ACTIVE), None),
    ],
)
def test_the_calendar_speaks_for_users_without_panel_traffic(at, used_when_due, statuses, cause):
    before, after = (
        panel_user(status=status, reset_strategy=ResetStrategy.MONTH) for status in statuses
    )
    sign = detected(before, after, at=at, account={"used_when_due_bytes": used_when_due})
    assert (sign and sign.cause) == cause
    if sign:
        assert sign.began_at == DUE


def test_a_user_who_began_to_use_the_panel_after_the_invisible_reset_was_reset_too():
    """Traffic that appears after the due time without a visible reset came after it."""
    before = panel_user(reset_strategy=ResetStrategy.MONTH)
    after = replace(before, used_bytes=5, lifetime_bytes=5)
    sign = detected(before, after, at=DUE + CALENDAR_GRACE, account={"used_when_due_bytes": 0})
    assert sign.cause is Cause.CALENDAR


@pytest.mark.parametrize(
    ("plan_fields", "shown", "used", "fired_limit"),
    [
        ({"adds_remaining_traffic": True}, gib(3), gib(4), gib(20)),
        ({"adds_remaining_traffic": False}, gib(3), gib(4), gib(19)),
        ({"adds_remaining_traffic": False}, gib(10), gib(4), gib(26)),
    ],
)
def test_a_fired_next_plan_is_told_by_the_panels_own_arithmetic(
    plan_fields, shown, used, fired_limit
):
    """Marzban adds what remained when the flag is *not* set."""
    before = panel_user(data_limit_bytes=shown, used_bytes=used, next_plan=next_plan(**plan_fields))
    after = panel_user(data_limit_bytes=fired_limit, logged_bytes=used, expire=0)
    sign = detected(before, after)
    assert sign.cause is Cause.NEXT_PLAN
    assert sign.fired_plan == before.next_plan
    assert sign.used_at_reset_bytes == used


def test_a_reset_that_drops_the_next_plan_is_not_a_fired_one():
    before = panel_user(used_bytes=gib(4), next_plan=next_plan())
    assert detected(before, panel_user(logged_bytes=gib(4))).cause is Cause.SEEN


def test_a_plan_of_the_same_size_is_told_from_a_reset_by_the_expiry():
    before = panel_user(
        used_bytes=gib(4), expire=1_790_000_000, next_plan=next_plan(data_limit_bytes=gib(10))
    )
    fired = panel_user(logged_bytes=gib(4), expire=0)
    dropped = panel_user(logged_bytes=gib(4), expire=1_790_000_000)
    assert detected(before, fired).cause is Cause.NEXT_PLAN
    assert detected(before, dropped).cause is Cause.SEEN


def test_a_plan_fired_by_expiry_for_a_user_without_traffic_shows_in_limit_and_expiry():
    before = panel_user(expire=1_770_000_000, next_plan=next_plan(expire=1_799_000_000))
    after = panel_user(data_limit_bytes=gib(20), expire=1_799_000_000)
    assert detected(before, after).cause is Cause.NEXT_PLAN


def test_an_admin_who_applies_a_plan_by_hand_to_an_unused_account_resets_nothing():
    before = panel_user(next_plan=next_plan())
    after = panel_user(data_limit_bytes=gib(20))
    assert detected(before, after) is None


@pytest.mark.parametrize(
    ("adds", "limit", "before_status", "was_announced", "fires"),
    [
        (False, gib(23), Status.ACTIVE, False, True),  # the published rest was added, to the byte
        (False, gib(23) + 1, Status.ACTIVE, False, False),
        (True, gib(20), Status.ACTIVE, False, False),  # an admin may have typed just that
        (True, gib(20), Status.ACTIVE, True, True),
        (True, gib(20), Status.DISABLED, False, True),  # firing lets in; a limit alone does not
    ],
)
def test_a_plan_fired_by_hand_for_a_user_without_panel_traffic(
    adds, limit, before_status, was_announced, fires
):
    """`active-next` sends no webhook and leaves no trace in traffic that is zero."""
    plan = next_plan(adds_remaining_traffic=adds)
    before = panel_user(data_limit_bytes=gib(3), next_plan=plan, status=before_status)
    after = panel_user(data_limit_bytes=limit, expire=0)
    facts = {"is_disabled_by_us": before_status is Status.DISABLED}
    sign = detected(before, after, account=facts, was_announced=was_announced)
    assert (sign is not None and sign.cause is Cause.NEXT_PLAN) is fires


def test_a_plan_we_asked_to_fire_is_recognised_without_panel_traffic():
    before = panel_user(next_plan=next_plan())
    after = panel_user(data_limit_bytes=gib(20), expire=0)
    assert detected(before, after, account={"fire_attempts": 1}).cause is Cause.NEXT_PLAN


@pytest.mark.parametrize("after_plan", [None, next_plan()])
def test_a_plan_without_a_limit_cannot_have_fired(after_plan):
    before = panel_user(used_bytes=gib(4), next_plan=next_plan(data_limit_bytes=None))
    after = panel_user(logged_bytes=gib(4), expire=0, next_plan=after_plan)
    assert detected(before, after).cause is Cause.SEEN


def test_a_plan_that_still_waits_has_not_fired():
    before = panel_user(used_bytes=gib(4), next_plan=next_plan())
    after = panel_user(
        data_limit_bytes=gib(20), logged_bytes=gib(4), expire=0, next_plan=next_plan()
    )
    assert detected(before, after).cause is Cause.SEEN


def test_the_calendar_waits_for_the_panels_hourly_job():
    assert timedelta(hours=1) < CALENDAR_GRACE < timedelta(hours=2)


def test_a_plan_that_fired_with_no_limit_leaves_the_user_unlimited():
    before = panel_user(used_bytes=gib(4), next_plan=next_plan(data_limit_bytes=0))
    after = panel_user(data_limit_bytes=None, logged_bytes=gib(4), expire=0)
    assert detected(before, after).cause is Cause.NEXT_PLAN


@pytest.mark.parametrize(
    ("strategy", "days"),
    [
        (ResetStrategy.NO_RESET, None),
        (ResetStrategy.DAY, 1),
        (ResetStrategy.WEEK, 7),
        (ResetStrategy.MONTH, 30),
        (ResetStrategy.YEAR, 365),
    ],
)
def test_a_reset_falls_due_after_whole_days(strategy, days):
    held = account(panel_user(reset_strategy=strategy))
    assert held.reset_due_at == (None if days is None else CREATED_AT + timedelta(days=days))


@pytest.mark.parametrize(
    ("created_at", "strategy", "start"),
    [
        (None, ResetStrategy.MONTH, NOW),
        (NOW + timedelta(hours=1), ResetStrategy.MONTH, NOW),  # a clock that is ahead of ours
        (CREATED_AT, ResetStrategy.NO_RESET, CREATED_AT),
        (CREATED_AT, ResetStrategy.MONTH, CREATED_AT),
        (CREATED_AT, ResetStrategy.WEEK, CREATED_AT + timedelta(days=14)),
        (datetime(2026, 1, 1, tzinfo=UTC), ResetStrategy.MONTH, datetime(2026, 5, 1, tzinfo=UTC)),
    ],
)
def test_the_period_of_a_user_we_did_not_watch_is_placed_by_its_creation(
    created_at, strategy, start
):
    assert period_start(created_at=created_at, strategy=strategy, now=NOW) == start


@pytest.mark.parametrize(
    ("before", "after", "fall"),
    [
        (NOW, NOW, Fall.UNCLEAR),
        (NOW, NOW + timedelta(minutes=5), Fall.UNCLEAR),
        (NOW, NOW - timedelta(minutes=5), Fall.PAST),
        (NOW, None, Fall.PAST),
        (None, None, Fall.UNCLEAR),
        (None, NOW, Fall.UNCLEAR),
        (NOW + timedelta(microseconds=700_000), NOW, Fall.UNCLEAR),  # moved to another database
    ],
)
@pytest.mark.parametrize("logged", [0, 3])
def test_a_row_whose_user_was_online_later_is_of_the_past(before, after, fall, logged):
    """Used traffic fell, or the log was wiped: else a reset of all users does that, too."""
    one = panel_user(used_bytes=gib(5), logged_bytes=gib(logged), online_at=before)
    other = panel_user(used_bytes=gib(1), online_at=after)
    assert fall_of(snapshot_of(one, seen_at=NOW), snapshot_of(other, seen_at=LATER)) is fall


def test_a_reset_that_the_log_took_is_one_whenever_the_user_was_online():
    one = panel_user(used_bytes=gib(5), online_at=NOW)
    other = panel_user(logged_bytes=gib(5), online_at=NOW - timedelta(days=1))
    assert fall_of(snapshot_of(one, seen_at=NOW), snapshot_of(other, seen_at=LATER)) is Fall.RESET
