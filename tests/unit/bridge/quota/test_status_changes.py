"""What the panel does to a user by itself is an event, and what the bridge did is not told twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from marzban_bridge.panels.dialect import MARZBAN
from marzban_bridge.panels.users import Status
from marzban_bridge.quota.observe import observe
from tests.support.bridge.bridge_builders import NOW, account, as_reported, gib, panel_user

LATER = NOW + timedelta(minutes=1)


def seen_as(before, **fields):
    """Return the events of an evaluation that shows the user so, a minute later."""
    user = panel_user(**fields)
    found = observe(before, user, totals=as_reported(0), now=LATER, dialect=MARZBAN)
    again = observe(found.account, user, totals=as_reported(0), now=LATER, dialect=MARZBAN)
    assert again.events == (), "once"
    return found.events


def test_a_user_whom_the_panel_cuts_off_is_limited_by_the_panel():
    (event,) = seen_as(account(), status=Status.LIMITED, used_bytes=gib(10))
    assert (event.kind, event.actor, event.before, event.after) == (
        *("limited", "panel", "active", "limited"),
    )
    assert "10.0 GiB used on its nodes, of 10.0 GiB there" in event.text


def test_a_user_whose_time_is_over_is_expired():
    for status in (Status.ACTIVE, Status.LIMITED, Status.ON_HOLD):
        before = account(panel_user(status=status))
        (event,) = seen_as(before, status=Status.EXPIRED)
        assert (event.kind, event.actor) == ("expired", "panel")
        assert (event.before, event.after) == (status.value, "expired")


@pytest.mark.parametrize("status", [Status.ACTIVE, Status.DISABLED, Status.ON_HOLD])
def test_other_states_are_the_admins_doing(status):
    assert [each.kind for each in seen_as(account(), status=status)] == []


def test_a_user_whom_a_limit_of_the_bridge_cuts_off_has_that_event_alone():
    before = account(quota_bytes=gib(10), published_bytes=gib(3))
    seen = {"status": Status.LIMITED, "used_bytes": gib(3), "data_limit_bytes": gib(3)}
    wrote = replace(before, limit_written_at=NOW + timedelta(seconds=1))
    assert [each.kind for each in seen_as(wrote, **seen)] == []
    wrote_before = replace(before, limit_written_at=NOW - timedelta(minutes=1))
    (event,) = seen_as(wrote_before, **seen)
    assert event.kind == "limited"
    assert "3.00 GiB used on its nodes, of 3.00 GiB there (quota 10.0 GiB)" in event.text


@pytest.mark.parametrize(("before", "after"), [(None, "shop"), ("shop", "mall"), ("shop", None)])
def test_a_user_of_another_admin_is_an_event(before, after):
    (event,) = seen_as(account(panel_user(admin=before)), admin=after)
    assert (event.kind, event.before, event.after) == ("admin_changed", before, after)
