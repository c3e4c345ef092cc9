"""A reset that the bridge was asked for, and finishes whatever happens."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from marzban_bridge.panels.dialect import MARZBAN
from marzban_bridge.panels.users import Status
from marzban_bridge.quota.resets.requests import begin, complete, is_call_needed, panel_called
from marzban_bridge.quota.usage import Totals
from tests.support.bridge.bridge_builders import (
    NOW,
    account,
    as_reported,
    gib,
    next_plan,
    panel_user,
)

LATER = NOW + timedelta(seconds=3)


def requested(held, total=gib(7), **options):
    return begin(
        held,
        totals=as_reported(total),
        cause="asked",
        actor="root",
        now=NOW,
        dialect=MARZBAN,
        **options,
    )


@pytest.mark.parametrize(
    ("status", "is_ours", "lost"),
    [
        (Status.ACTIVE, False, None),
        (Status.LIMITED, False, None),
        (Status.EXPIRED, False, None),
        (Status.DISABLED, False, Status.DISABLED),  # an admin's choice survives
        (Status.DISABLED, True, None),  # ours does not: there is quota again
        (Status.ON_HOLD, False, Status.ON_HOLD),
    ],
)
def test_the_status_that_the_panels_reset_overrides_is_noted(status, is_ours, lost):
    user = panel_user(status=status, on_hold_expire_duration=3600)
    request = requested(account(user, is_disabled_by_us=is_ours)).reset_request
    assert request.restoration.status is lost
    duration = 3600 if status is Status.ON_HOLD else None
    assert request.restoration.on_hold_expire_duration == duration


@pytest.mark.parametrize("keeps", [True, False])
def test_the_next_plan_is_noted_unless_the_operator_wants_it_dropped(keeps):
    held = account(panel_user(next_plan=next_plan()))
    request = requested(held, keeps_next_plan=keeps).reset_request
    assert request.restoration.next_plan == (next_plan() if keeps else None)


def test_a_request_under_way_is_not_replaced_by_a_later_one():
    first = requested(account())
    assert requested(first, gib(9)) == first


@pytest.mark.parametrize(
    ("before", "now", "is_called", "is_needed"),
    [
        ((5, 0), (5, 0), False, True),
        ((5, 0), (6, 0), False, True),
        ((5, 0), (0, 5), False, False),  # it happened before the crash
        ((5, 0), (7, 5), False, False),
        ((0, 0), (0, 0), False, True),
        ((0, 0), (3, 0), False, False),  # calling again would forgive 3 GiB
        ((5, 0), (5, 0), True, False),
    ],
)
def test_the_panel_is_called_once(before, now, is_called, is_needed):
    held = requested(account(panel_user(used_bytes=gib(before[0]), logged_bytes=gib(before[1]))))
    held = panel_called(held) if is_called else held
    user = panel_user(used_bytes=gib(now[0]), logged_bytes=gib(now[1]))
    assert is_call_needed(held, user) is is_needed


def test_the_period_begins_at_the_total_of_the_request():
    """What was reported while the reset was carried out belongs to the new period."""
    held = requested(account(panel_user(used_bytes=gib(4), status=Status.LIMITED)))
    closed, event = complete(held, panel_user(logged_bytes=gib(4)), now=LATER, dialect=MARZBAN)
    assert closed.baseline_bytes == gib(7)
    assert closed.period_started_at == NOW
    assert closed.reset_request is None
    assert closed.needs_readd
    assert closed.echo_until > LATER
    assert closed.restoration is None
    assert (event.kind, event.actor, event.before, event.after) == (
        "reset",
        "root",
        str(gib(11)),
        "0",
    )


def test_only_what_the_reset_really_took_is_put_back():
    user = panel_user(status=Status.ON_HOLD, on_hold_expire_duration=60, next_plan=next_plan())
    held = requested(account(user))
    untouched, _ = complete(held, user, now=LATER, dialect=MARZBAN)
    assert untouched.restoration is None
    taken, _ = complete(held, panel_user(), now=LATER, dialect=MARZBAN)
    assert taken.restoration.status is Status.ON_HOLD
    assert taken.restoration.next_plan == next_plan()


def test_a_user_we_disabled_is_ours_no_more_once_the_panel_made_it_active():
    held = requested(account(panel_user(status=Status.DISABLED), is_disabled_by_us=True))
    active, _ = complete(held, panel_user(), now=LATER, dialect=MARZBAN)
    assert not active.is_disabled_by_us
    still, _ = complete(held, panel_user(status=Status.DISABLED), now=LATER, dialect=MARZBAN)
    assert still.is_disabled_by_us


def test_closing_without_a_request_is_an_error():
    with pytest.raises(ValueError, match="no reset of alice is under way"):
        complete(account(), panel_user(), now=LATER, dialect=MARZBAN)


def test_noting_the_call_without_a_request_changes_nothing():
    held = replace(account(), is_held=True)
    assert panel_called(held) == held


def test_raw_bytes_begin_anew_at_the_moment_of_the_request_too():
    totals = Totals(billed_bytes=gib(7), raw_bytes=gib(3))
    held = begin(account(), totals=totals, cause="asked", actor="root", now=NOW, dialect=MARZBAN)
    closed, _ = complete(held, panel_user(), now=LATER, dialect=MARZBAN)
    assert (closed.baseline_bytes, closed.raw_baseline_bytes) == (gib(7), gib(3))
