"""Each value of a dialect decides something: what it decides is another one when it is flipped."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta

import pytest
from bridge_builders import NOW, account, as_reported, gib, next_plan, open_write, panel_user

from marzban_bridge.panels.dialect import MARZBAN, PASARGUARD, Dialect
from marzban_bridge.panels.users import ResetStrategy, Status
from marzban_bridge.quota.account import Enforcement, snapshot_of
from marzban_bridge.quota.observe import observe
from marzban_bridge.quota.plan import plan
from marzban_bridge.quota.resets.detection import Cause, ResetSign, detect, has_webhook
from marzban_bridge.quota.resets.requests import begin, complete
from marzban_bridge.quota.writes.open_writes import sets_limit

LATER = NOW + timedelta(minutes=1)
PLAN = next_plan(data_limit_bytes=gib(20))
TEMPLATE = replace(PLAN, data_limit_bytes=None, template_id=3)


def fired(dialect, *, plan=PLAN, before=None, **after):
    """Return the sign of a plan that fired between two looks, a webhook having told of a reset."""
    seen = panel_user(next_plan=plan, used_bytes=gib(4), **before or {})
    now = panel_user(logged_bytes=gib(4), used_bytes=0, **after)
    sign = detect(account(seen), snapshot_of(now, seen_at=LATER), dialect=dialect)
    return sign and sign.fired_plan


def needs_readd(dialect, status, *, plan=None):
    before = account(panel_user(status=status, next_plan=plan, used_bytes=gib(4)))
    limit = gib(20) if plan else gib(10)
    after = panel_user(used_bytes=0, logged_bytes=gib(4), data_limit_bytes=limit)
    seen = observe(before, after, totals=as_reported(0), now=LATER, dialect=dialect)
    assert seen.reset is not None
    return seen.account.needs_readd


def periodic(dialect):
    user = panel_user(reset_strategy=ResetStrategy.DAY)
    due = account(user, period_started_at=NOW - timedelta(days=2))
    sign = ResetSign(cause=Cause.SEEN, used_at_reset_bytes=1, began_at=LATER)
    return has_webhook(due, sign, dialect)


def put_back(dialect):
    """Return which status is put back after a reset of a user whom an admin disabled."""
    asked = begin(
        account(panel_user(status=Status.DISABLED)),
        totals=as_reported(0),
        cause="test",
        actor="test",
        now=NOW,
        dialect=dialect,
    )
    return asked.reset_request.restoration.status


def fires(dialect, next_plan):
    used = account(panel_user(next_plan=next_plan, used_bytes=gib(4)), seen_total_bytes=gib(7))
    change = plan(used, total_bytes=gib(7), enforcement=Enforcement.LIMIT, now=NOW, dialect=dialect)
    return change.kind.value


def resent(dialect, limit_bytes):
    return dialect.resent_bytes(limit_bytes)


def after_bulk(dialect):
    """Return an account of whose limit 4 GiB were published, after 5 GiB more for everybody."""
    edited = {"edited_at": NOW}
    before = account(panel_user(data_limit_bytes=gib(4), **edited), published_bytes=gib(4))
    after = panel_user(data_limit_bytes=gib(9), **edited)
    return observe(before, after, totals=as_reported(gib(6)), now=LATER, dialect=dialect)


def after_late_webhook(dialect):
    """Return what is forgiven by a webhook of a reset a minute ago, with 3 GiB reported since."""
    seen = observe(
        account(panel_user(), resets_known_until=NOW - timedelta(hours=1)),
        panel_user(),
        totals=as_reported(gib(1)),
        now=NOW,
        dialect=dialect,
    )
    return observe(
        seen.account,
        panel_user(),
        totals=as_reported(gib(4)),
        now=LATER,
        dialect=dialect,
        was_announced=True,
        told_at=NOW,
    )


ODD = gib(6.877312345)
DECIDES = {
    "names": lambda d: d.can_name_user("a" * 40),
    "remaining_is_added_if": lambda d: (
        bool(fired(d, data_limit_bytes=gib(20))),
        bool(fired(d, data_limit_bytes=gib(26))),
    ),
    "unlimited_has_remaining": lambda d: bool(
        fired(
            replace(d, remaining_is_added_if=True),
            before={"data_limit_bytes": None},
            data_limit_bytes=gib(16),
        )
    ),
    "plan_expires_after_firing": lambda d: bool(
        fired(
            replace(d, remaining_is_added_if=False),
            plan=replace(PLAN, expire=86400),
            data_limit_bytes=gib(20),
            expire=int(NOW.timestamp()) + 86430,
        )
    ),
    "plan_may_be_of_template": lambda d: (
        fires(replace(d, remaining_is_added_if=False), TEMPLATE),
        bool(fired(d, plan=TEMPLATE, data_limit_bytes=gib(30))),
    ),
    "firing_leaves_off_nodes": lambda d: needs_readd(
        replace(d, remaining_is_added_if=False), Status.DISABLED, plan=PLAN
    ),
    "lost_to_reset": put_back,
    "reset_leaves_off_nodes": lambda d: needs_readd(d, Status.LIMITED),
    "periodic_reset_is_announced": periodic,
    "dialog_decimals": lambda d: sets_limit(
        open_write(data_limit_bytes=ODD), round(round(ODD / gib(1), 5) * gib(1)), dialect=d
    ),
    "dialog_decimals_of_tiny": lambda d: resent(replace(d, dialog_decimals=2), 4_000_000),
    "has_webhook_times": lambda d: after_late_webhook(d).account.baseline_bytes,
    "has_edit_times": lambda d: after_bulk(d).account.quota_bytes,
}
FLIPPED = {
    "names": MARZBAN.names,
    "lost_to_reset": MARZBAN.lost_to_reset,
    "dialog_decimals": 5,
    "dialog_decimals_of_tiny": None,
}
ELSEWHERE = {
    "kind": "shown, and by which a dialect is found",
    "title": "shown",
    "tried_version": "shown; its warning: panels/test_pasarguard",
    "rule": "shown: the same as `names` in words",
    "reset_all_is_of_everybody": "test_pasarguard::test_a_reset_of_everybody_is_of_every_owners",
}


def test_every_value_is_in_one_of_the_tables():
    assert {each.name for each in fields(Dialect)} == DECIDES.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("name", DECIDES)
def test_what_a_value_decides_changes_with_it(name):
    value = getattr(PASARGUARD, name)
    flipped = FLIPPED.get(name, not value)
    assert flipped != value
    decided = DECIDES[name](PASARGUARD)
    assert decided == DECIDES[name](PASARGUARD)
    assert DECIDES[name](replace(PASARGUARD, **{name: flipped})) != decided


@pytest.mark.parametrize(
    ("dialect", "name", "expected"),
    [
        (MARZBAN, "remaining_is_added_if", (False, False)),
        (PASARGUARD, "lost_to_reset", None),
        (MARZBAN, "lost_to_reset", Status.DISABLED),
        (PASARGUARD, "periodic_reset_is_announced", True),
        (MARZBAN, "periodic_reset_is_announced", False),
        (PASARGUARD, "reset_leaves_off_nodes", False),
        (MARZBAN, "reset_leaves_off_nodes", True),
        (MARZBAN, "firing_leaves_off_nodes", True),
        (PASARGUARD, "plan_expires_after_firing", True),
        (MARZBAN, "plan_expires_after_firing", False),
        (MARZBAN, "plan_may_be_of_template", ("limit", False)),
        (PASARGUARD, "plan_may_be_of_template", ("fire_next_plan", True)),
    ],
)
def test_what_each_kind_does(dialect, name, expected):
    if name == "remaining_is_added_if":
        # Marzban's flag acts inverted: PLAN has it set, and adds nothing.
        expected = (True, False)
    assert DECIDES[name](dialect) == expected


def test_a_reset_that_was_asked_for_leaves_a_limited_user_on_the_nodes_where_the_panel_does():
    asked = begin(
        account(panel_user(status=Status.LIMITED)),
        totals=as_reported(0),
        cause="test",
        actor="test",
        now=NOW,
    )
    for dialect, expected in ((MARZBAN, True), (PASARGUARD, False)):
        closed, _ = complete(asked, panel_user(), now=LATER, dialect=dialect)
        assert closed.needs_readd is expected
