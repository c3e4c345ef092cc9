"""Next plans and resets that writes of ours bring about long after they were given up."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from marzban_bridge.panels.dialect import MARZBAN
from marzban_bridge.quota.account import OpenWrite, Restoration
from marzban_bridge.quota.observe import observe
from marzban_bridge.quota.resets.detection import Cause
from marzban_bridge.quota.writes.late_landings import LATE_RESET, reset_found, reset_unanswered
from tests.support.bridge.bridge_builders import (
    NOW,
    account,
    as_reported,
    gib,
    next_plan,
    panel_user,
)

LATER = NOW + timedelta(seconds=30)
PLAN, OTHER = next_plan(), next_plan(data_limit_bytes=gib(50))


def looked(held, user, total=gib(7), **facts):
    return observe(held, user, totals=as_reported(total), now=LATER, **{"dialect": MARZBAN} | facts)


def write(plan, *, limit=gib(7), is_answered=False):
    return OpenWrite(
        data_limit_bytes=limit,
        status=None,
        may_land_until=NOW + timedelta(minutes=10),
        next_plan=plan,
        is_answered=is_answered,
    )


@pytest.mark.parametrize(
    ("sent", "before", "shown", "limit", "restoration"),
    [
        (PLAN, None, PLAN, gib(7), Restoration(drops_next_plan=True)),  # it has fired since
        (None, PLAN, None, gib(7), Restoration(next_plan=PLAN)),  # it was queued since
        (PLAN, OTHER, PLAN, gib(7), Restoration(next_plan=OTHER)),  # replaced since
        (PLAN, None, PLAN, gib(7) + 1, None),  # another limit: an admin, who queues it again
        (None, PLAN, None, gib(9), None),  # an admin's edit, which drops the plan
        (OTHER, None, PLAN, gib(7), None),  # not the plan that was sent
        (PLAN, PLAN, PLAN, gib(7), None),
        (None, None, None, gib(7), None),
    ],
)
def test_the_next_plan_is_what_it_was_before_a_write_landed_late(
    sent, before, shown, limit, restoration
):
    user = panel_user(data_limit_bytes=gib(10), next_plan=before)
    held = account(user, open_writes=(write(sent),), quota_bytes=gib(10))
    landed = panel_user(data_limit_bytes=limit, next_plan=shown)
    assert looked(held, landed).account.restoration == restoration


def test_a_write_that_was_answered_lands_no_more():
    user = panel_user(data_limit_bytes=gib(7), next_plan=PLAN)
    held = account(user, open_writes=(write(None, is_answered=True),), published_bytes=gib(7))
    assert looked(held, replace(user, next_plan=None)).account.restoration is None


@pytest.mark.parametrize("used", [gib(2), 0])
def test_a_reset_of_ours_that_lands_late_forgives_nothing_and_only_once(used):
    user = panel_user(used_bytes=used, data_limit_bytes=gib(7), next_plan=PLAN)
    held = account(user, published_bytes=gib(7), baseline_bytes=gib(4), seen_total_bytes=gib(7))
    held = reset_unanswered(held, until=NOW + timedelta(minutes=10))
    after = panel_user(data_limit_bytes=gib(7), logged_bytes=used)
    seen = looked(held, after, was_announced=not used)
    assert (seen.reset, seen.account.baseline_bytes) == (None, gib(4) - used)
    assert [(event.kind, event.text) for event in seen.events] == [("late_reset", LATE_RESET)]
    assert seen.account.open_resets == ()
    assert seen.account.restoration == Restoration(next_plan=PLAN)
    if used:  # and the webhook of it is its echo
        echo = looked(seen.account, after, was_announced=True)
        assert (echo.reset, echo.account.baseline_bytes) == (None, gib(4) - used)
    again = looked(
        replace(seen.account, echo_until=None, restoration=None), after, was_announced=True
    )
    assert again.reset.cause is Cause.WEBHOOK


def test_a_reset_that_can_no_longer_land_late_is_the_admins():
    user = panel_user(used_bytes=gib(2), data_limit_bytes=gib(7))
    held = reset_unanswered(
        account(user, published_bytes=gib(7)), until=LATER - timedelta(seconds=1)
    )
    seen = looked(held, panel_user(data_limit_bytes=gib(7), logged_bytes=gib(2)))
    assert (seen.reset.cause, seen.account.baseline_bytes) == (Cause.SEEN, gib(7))


def test_a_reset_of_all_users_is_never_taken_for_a_late_one():
    user = panel_user(used_bytes=gib(2), logged_bytes=gib(3), data_limit_bytes=gib(7))
    held = reset_unanswered(account(user, published_bytes=gib(7)), until=NOW + timedelta(minutes=9))
    seen = looked(held, panel_user(data_limit_bytes=gib(7)))
    assert seen.reset.cause is Cause.RESET_ALL


def test_each_reset_that_was_given_up_may_land_once():
    held = reset_unanswered(reset_unanswered(account(), until=NOW), until=LATER)
    assert held.open_resets == (NOW, LATER)
    assert reset_found(held).open_resets == (LATER,)
    assert reset_found(reset_found(reset_found(held))).open_resets == ()
