"""Each value of the bridge's dialects decides something, for either kind of panel.

What it decides is written down here, so that a changed value fails; and it is seen to become another
one with that value alone.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import fields, replace
from datetime import timedelta
from unittest.mock import AsyncMock, MagicMock, Mock

import pytest

from marzban_bridge.panels.check import PanelCheck
from marzban_bridge.panels.dialect import DIALECTS, MARZBAN, PASARGUARD, PASARGUARD_4, Dialect
from marzban_bridge.panels.users import PanelAdmin, ResetStrategy, Status
from marzban_bridge.quota.account import Enforcement, snapshot_of
from marzban_bridge.quota.observe import observe
from marzban_bridge.quota.plan import plan
from marzban_bridge.quota.resets.detection import Cause, ResetSign, detect, has_webhook
from marzban_bridge.quota.resets.requests import begin, complete
from marzban_bridge.quota.writes.open_writes import sets_limit
from marzban_bridge.reconcile.actions import Actions
from marzban_bridge.reconcile.stopped_admins import StoppedAdmins
from tests.support.bridge.bridge_builders import (
    NOW,
    account,
    as_reported,
    gib,
    next_plan,
    open_write,
    panel_user,
)

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


def needs_readd_as_asked(dialect):
    """Return the same after a reset of a limited user that the bridge was asked for."""
    asked = begin(
        account(panel_user(status=Status.LIMITED)),
        totals=as_reported(0),
        cause="test",
        actor="test",
        now=NOW,
        dialect=dialect,
    )
    return complete(asked, panel_user(), now=LATER, dialect=dialect)[0].needs_readd


def put_back(dialect, status):
    """Return which status is put back after a reset of a user to whom an admin gave one."""
    asked = begin(
        account(panel_user(status=status)),
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
ADDS_IF_SAID = {"remaining_is_added_if": True}
ADDS_UNLESS_SAID = {"remaining_is_added_if": False}


def names(dialect):
    return [dialect.can_name_user(name) for name in ("a" * 33, "b__c", "d" * 32)]


def rule(dialect):
    """Return the longest name the rule in words speaks of, and whether the pattern allows it."""
    longest = max(map(int, re.findall(r"\d+", dialect.rule)))
    return longest, dialect.can_name_user("a" * longest), dialect.can_name_user("a" * 2 * longest)


def title(dialect):
    """Return what a panel of the kind is called where an operator reads it."""
    return PanelCheck(admin="b", is_sudo=True, version="1", dialect=dialect).panel[:-2]


def warnings(dialect):
    """Return of which of two versions nothing is warned."""
    checks = [
        PanelCheck(admin="b", is_sudo=True, version=version, dialect=dialect)
        for version in ("0.8.4", "5.2.1")
    ]
    return [check.warnings == () for check in checks]


def reset_with_all(dialect):
    """Return whose accounts "Reset all" of the admin shop begins anew; None is everybody's."""
    panel = Mock(dialect=dialect)
    panel.admins = AsyncMock(return_value=[PanelAdmin(username="shop", is_sudo=True)])
    store = Mock()
    store.accounts.all.return_value = []
    others = dict.fromkeys(
        (
            *("feed", "settler", "reader", "evaluator", "trust", "writes", "resets", "queue"),
            *("enforcement", "clock", "standstill"),
        )
    )
    actions = Actions(store=store, panel=panel, **others)
    caller = PanelAdmin(username="shop", is_sudo=True)
    asyncio.run(actions.request_reset_all(bearer="token", caller=caller, actor="shop"))
    return store.accounts.all.call_args.kwargs["admin"]


def asks_for_admins(dialect):
    panel = Mock()
    panel.admins = AsyncMock(return_value=[])
    admins = StoppedAdmins(store=MagicMock(), panel=panel, metrics=Mock())
    asyncio.run(admins.check(dialect))
    return panel.admins.await_count > 0


def resends(dialect):
    shown = round(round(ODD / gib(1), 2) * gib(1))
    exact = round(round(ODD / gib(1), 5) * gib(1))
    write = open_write(data_limit_bytes=ODD)
    return sets_limit(write, exact, dialect=dialect), dialect.resends(ODD, shown)


DECIDES = {
    "kind": (lambda d: DIALECTS[d.kind].title, "Marzban", "PasarGuard"),
    "title": (title, "Marzban", "PasarGuard"),
    "tried_version": (warnings, [True, False], [False, True]),
    "names": (names, [False, True, True], [True, False, True]),
    "rule": (rule, (32, True, False), (128, True, False)),
    "remaining_is_added_if": (
        lambda d: [bool(fired(d, data_limit_bytes=gib(limit))) for limit in (20, 26)],
        [True, False],
        [False, True],
    ),
    "unlimited_has_remaining": (
        lambda d: bool(
            fired(
                replace(d, **ADDS_IF_SAID),
                before={"data_limit_bytes": None},
                data_limit_bytes=gib(16),
            )
        ),
        False,
        True,
    ),
    "plan_expires_after_firing": (
        lambda d: bool(
            fired(
                replace(d, **ADDS_UNLESS_SAID),
                plan=replace(PLAN, expire=86400),
                data_limit_bytes=gib(20),
                expire=int(NOW.timestamp()) + 86430,
            )
        ),
        False,
        True,
    ),
    "plan_may_be_of_template": (
        lambda d: (
            fires(replace(d, **ADDS_UNLESS_SAID), TEMPLATE),
            bool(fired(d, plan=TEMPLATE, data_limit_bytes=gib(30))),
        ),
        ("limit", False),
        ("fire_next_plan", True),
    ),
    "firing_leaves_off_nodes": (
        lambda d: needs_readd(replace(d, **ADDS_UNLESS_SAID), Status.DISABLED, plan=PLAN),
        True,
        False,
    ),
    "lost_to_reset": (
        lambda d: [put_back(d, status) for status in (Status.DISABLED, Status.ON_HOLD)],
        [Status.DISABLED, Status.ON_HOLD],
        [None, None],
    ),
    "reset_leaves_off_nodes": (
        lambda d: (needs_readd(d, Status.LIMITED), needs_readd_as_asked(d)),
        (True, True),
        (False, False),
    ),
    "periodic_reset_is_announced": (periodic, False, True),
    "reset_all_is_of_everybody": (reset_with_all, "shop", None),
    "admins_have_limits": (asks_for_admins, False, True),
    "dialog_decimals": (resends, (True, False), (False, True)),
    "dialog_decimals_of_tiny": (
        lambda d: replace(d, dialog_decimals=2).resent_bytes(4_000_000),
        0,
        4_000_000,
    ),
    "has_edit_times": (lambda d: after_bulk(d).account.quota_bytes, gib(9), gib(15)),
    "has_webhook_times": (
        lambda d: after_late_webhook(d).account.baseline_bytes,
        gib(4),
        gib(1),
    ),
}
"""What each value decides, and what is decided for Marzban and for PasarGuard."""


def test_every_value_is_in_the_table():
    assert [each.name for each in fields(Dialect)] == list(DECIDES)


@pytest.mark.parametrize("name", DECIDES)
def test_what_a_value_decides_is_as_observed_and_changes_with_it(name):
    decides, *expected = DECIDES[name]
    pairs = ((MARZBAN, PASARGUARD), (PASARGUARD, MARZBAN))
    for (dialect, other), decided in zip(pairs, expected, strict=True):
        assert decides(dialect) == decided, dialect.title
        flipped = replace(dialect, **{name: getattr(other, name)})
        assert decides(flipped) != decided, f"{dialect.title}: it is not {name} that decides"


EARLIER = {
    "tried_version": [False, False],
    "lost_to_reset": [Status.DISABLED, Status.ON_HOLD],
    "reset_all_is_of_everybody": "shop",
    "admins_have_limits": False,
}
"""What PasarGuard 3.1.0 decides otherwise than 5.2.1."""


def test_an_earlier_pasarguard_decides_otherwise_what_was_observed_and_nothing_else():
    differing = {each: DECIDES[each][0](PASARGUARD_4) for each in EARLIER}
    assert differing == EARLIER
    newer = replace(PASARGUARD_4, **{name: getattr(PASARGUARD, name) for name in EARLIER})
    assert newer == PASARGUARD
    check = PanelCheck(admin="b", is_sudo=True, version="3.1.0", dialect=PASARGUARD_4)
    assert check.warnings == ()
