"""Each value of the simulator's dialects decides what is seen of the panel, for either kind.

What is seen is written down here, so that a changed value fails; each is also seen to change with
its value alone, so that it is that value which decides.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import timedelta
from unittest.mock import patch

import httpx
import pytest

from marzban_bridge.panels.users import Status
from marzban_bridge.simulator.dialog import dialog_body, shown_limit_bytes
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.http.delivery import deliver_webhooks
from marzban_bridge.simulator.panel import dialect as dialects
from marzban_bridge.simulator.panel.dialect import (
    MARZBAN,
    PASARGUARD,
    PASARGUARD_3,
    SimulatedDialect,
)
from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.listing import UsersQuery
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.panel.payloads import marzban as marzban_payloads
from marzban_bridge.simulator.panel.payloads import pasarguard as pasarguard_payloads
from marzban_bridge.simulator.panel.webhook_settings import WebhookReceiver
from tests.support.clocks import ManualClock

GIB = 2**30
DAY = 86400
HOLD = {"status": "on_hold", "on_hold_expire_duration": DAY}
ADMINS = {"boss": ("pw", True), "clerk": ("pw", True), "shop": ("pw", False)}


@contextmanager
def in_use(dialect):
    """Have panels of a kind follow a dialect."""
    payloads = {"marzban": marzban_payloads, "pasarguard": pasarguard_payloads}[dialect.kind]
    with (
        patch.dict(dialects.DIALECTS, {dialect.kind: dialect}),
        patch.object(payloads, dialect.kind.upper(), dialect),
    ):
        yield


def empty_panel(dialect, database="mysql"):
    return SimulatedPanel(clock=ManualClock(), kind=dialect.kind, admins=ADMINS, database=database)


def new_panel(dialect, database="mysql", **user):
    """Return a panel with the shop's user alice, and nothing announced."""
    panel = empty_panel(dialect, database)
    panel.create_user("alice", **{"by": "shop", "data_limit": 10} | user)
    panel.take_webhooks()
    return panel


def events(panel):
    return [event["action"] for event in panel.take_webhooks()]


def refusal(act, *arguments, **options):
    """Return the status of a refusal, or None."""
    try:
        act(*arguments, **options)
    except RefusedError as error:
        return error.status
    return None


def kind(dialect):
    panel = empty_panel(dialect)
    return "users_usage" in panel.show_admin(panel.admins["shop"])


def title(dialect):
    return create_simulator_app(new_panel(dialect)).title


def answer(dialect, path):
    """Return what the panel answers the first admin."""
    panel = new_panel(dialect)

    async def ask():
        transport = httpx.ASGITransport(create_simulator_app(panel))
        headers = {"authorization": f"Bearer {panel.sign_in('boss', 'pw')}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://panel") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


def version(dialect):
    return answer(dialect, "/api/system").json()["version"]


def woken_by_reset_all(dialect):
    panel = new_panel(dialect)
    for status in Status:
        name = f"a_{status.value}"
        panel.create_user(name, by="boss")
        panel.users[name].status = status
    panel.reset_all("boss")
    woken = [each for each in Status if panel.users[f"a_{each.value}"].status is Status.ACTIVE]
    return sorted(each.value for each in woken)


def names(dialect):
    panel = new_panel(dialect)
    return [refusal(panel.create_user, name) for name in ("a" * 33, "b" * 32, "a__b")]


def name_rule(dialect):
    with pytest.raises(RefusedError) as refused:
        new_panel(dialect).create_user("x")
    return dialect.name_rule.split(",")[0] in str(refused.value.detail), dialect.name_rule[:8]


def first_admin_is_in_database(dialect):
    return new_panel(dialect, by="boss").users["alice"].owner


def reset_all_is_of_everybody(dialect):
    panel = new_panel(dialect)
    panel.use_traffic("alice", 5)
    panel.reset_all("clerk")
    return panel.users["alice"].used_traffic


def bad_page_is_refused_with(dialect):
    return refusal(new_panel(dialect).list_users, UsersQuery(limit=-1))


def expire_is_applied_first(dialect):
    panel = new_panel(dialect)
    panel.use_traffic("alice", 5)
    panel.modify_user("alice", {"data_limit": 4, "expire": 1})
    return panel.users["alice"].status.value


def hold_clears_expiry(dialect):
    panel = new_panel(dialect, expire=4_102_444_800)
    panel.modify_user("alice", HOLD)
    return panel.users["alice"].expire


def enabling_works_state_out(dialect):
    panel = new_panel(dialect)
    panel.use_traffic("alice", 10)
    panel.modify_user("alice", {"status": "disabled"})
    panel.modify_user("alice", {"status": "active"})
    return panel.users["alice"].status.value


def resuming_asks_whether_online(dialect):
    panel = new_panel(dialect, **HOLD)
    panel.use_traffic("alice", 1)
    panel.disable_users_of("shop")
    panel.activate_users_of("shop")
    return panel.users["alice"].status.value


def hold_timed_out(dialect, *, is_online, duration=DAY):
    at = (ManualClock()() + timedelta(hours=1)).isoformat()
    panel = new_panel(dialect, **HOLD, on_hold_timeout=at)
    alice = panel.users["alice"]
    if is_online:
        panel.use_traffic("alice", 1)
    alice.on_hold_expire_duration = duration
    panel.clock.advance(minutes=1)
    alice.edited_at = panel.clock()
    panel.clock.advance(hours=2)
    panel.review()
    return alice.status.value if is_online else alice.expire is not None


def user_needs_proxies(dialect):
    def show():
        panel = new_panel(dialect)
        panel.users["alice"].proxies = {}
        panel.get_user("alice")

    return refusal(show)


def woken_by_reset(dialect):
    woken = []
    for status in Status:
        panel = new_panel(dialect)
        panel.users["alice"].status = status
        panel.reset_user("alice")
        woken += [status.value] if panel.users["alice"].status is Status.ACTIVE else []
    return sorted(woken)


def reset_rearms_reminder(dialect):
    panel = new_panel(dialect, data_limit=100)
    for _ in range(2):
        panel.use_traffic("alice", 90)
        panel.review()
        panel.reset_user("alice")
    return events(panel).count("reached_usage_percent")


def revoking_is_an_edit(dialect):
    panel = new_panel(dialect)
    panel.revoke_subscription("alice")
    return panel.users["alice"].edited_at is not None


def reset_by_job(dialect, *, created=True):
    """Return what died of the periodic reset of a limited user, and the panel."""
    panel = new_panel(dialect, data_limit_reset_strategy="day")
    panel.use_traffic("alice", 10)
    panel.review()
    panel.take_webhooks()
    panel.clock.advance(days=1)
    panel.users["alice"].created_at = panel.users["alice"].created_at if created else None
    return panel.reset_periodic(), panel


def nodes_follow_every_change(dialect):
    return reset_by_job(dialect)[1].use_traffic("alice", 1)


def fired(dialect, *, plan, **user):
    panel = new_panel(dialect, next_plan={"data_limit": 5} | plan, **{"data_limit": 12} | user)
    panel.use_traffic("alice", 5)
    return refusal(panel.fire_next_plan, "alice"), panel.users["alice"], panel


def unlimited_has_remaining(dialect):
    adds = {"add_remaining_traffic": not dialect.remaining_flag_is_inverted, "data_limit": 9}
    failed, alice, _ = fired(dialect, plan=adds, data_limit=None)
    return failed, alice.data_limit


def plan_may_want_both(dialect):
    panel = new_panel(dialect, next_plan={"data_limit": 5})
    alice = panel.users["alice"]
    alice.next_plan = replace(alice.next_plan, fire_on_either=False)
    panel.use_traffic("alice", 10)
    panel.review()
    return panel.users["alice"].status.value


def plan_event(dialect):
    panel = new_panel(dialect, next_plan={"data_limit": 5})
    panel.use_traffic("alice", 10)
    panel.review()
    return events(panel)


def hold_event(dialect):
    panel = new_panel(dialect)
    panel.modify_user("alice", HOLD)
    return events(panel)


def state_events_name_admin(dialect):
    panel = new_panel(dialect)
    panel.modify_user("alice", {"status": "disabled"}, by="clerk")
    *_, event = panel.take_webhooks()
    return (event["by"] or {}).get("username")


def reset_announces_state(dialect):
    panel = new_panel(dialect)
    panel.use_traffic("alice", 10)
    panel.review()
    panel.take_webhooks()
    panel.reset_user("alice")
    return events(panel)


def deleted(dialect, **values):
    """Return the events of a deletion, and whether the user stayed."""
    panel = new_panel(dialect)
    for name, value in values.items():
        setattr(panel.users["alice"], name, value)
    refusal(panel.delete_user, "alice")
    return panel.take_webhooks(), "alice" in panel.users


def sqlite_keeps_history(dialect):
    panel = new_panel(dialect, database="sqlite")
    panel.use_traffic("alice", 5)
    panel.reset_user("alice")
    panel.delete_user("alice")
    return panel.create_user("bob")["lifetime_used_traffic"]


def reminder_hides_subscription(dialect):
    panel = new_panel(dialect)
    panel.use_traffic("alice", 9)
    panel.review()
    [event] = panel.take_webhooks()
    return event["user"]["subscription_url"] == ""


def days_left_is_exact(dialect):
    expire = int(ManualClock()().timestamp()) + 2 * DAY + 60
    panel = new_panel(dialect, expire=expire)
    panel.review()
    return events(panel)


def event_time_is_real(dialect):
    panel = new_panel(dialect)
    started_at = panel.clock().timestamp()
    panel.clock.advance(hours=1)
    panel.reset_user("alice")
    *_, event = panel.take_webhooks()
    return event["enqueued_at"] - started_at


def tries(dialect):
    """Return what each delivery of an event says of how often it was sent."""
    panel = new_panel(dialect)
    panel.reset_user("alice")
    told = []
    while batch := panel.take_webhooks():
        told.append(batch[-1]["tries"])
        panel.webhooks_failed(batch)
        panel.clock.advance(minutes=30)
    return told


def batch_size(dialect):
    panel = new_panel(dialect)
    for number in range(60):
        panel.create_user(f"user{number}")
    return [len(panel.take_webhooks()) for _ in range(2)]


def delivered(dialect):
    accepted = []
    for status in (200, 203, 302, 400):
        panel = new_panel(dialect)
        receiver = WebhookReceiver(url="http://bridge", secret="")
        panel.webhook_settings = replace(panel.webhook_settings, receivers=(receiver,))
        panel.create_user("bob")

        async def deliver(panel=panel, status=status):
            transport = httpx.MockTransport(lambda _: httpx.Response(status))
            async with httpx.AsyncClient(transport=transport) as client:
                return await deliver_webhooks(panel, client)

        accepted.append(asyncio.run(deliver()))
    return accepted


def saved(dialect):
    return dialog_body(new_panel(dialect).get_user("alice"), {}, dialect=dialect)


REAL_HOUR = 3600.0
DECIDES = {
    "kind": (kind, True, False),
    "title": (title, "Simulated Marzban", "Simulated PasarGuard"),
    "version": (version, "0.8.4", "5.2.1"),
    "names": (names, [422, None, None], [None, None, 422]),
    "name_rule": (name_rule, (True, "3 to 32 "), (True, "3 to 128")),
    "first_admin_is_in_database": (first_admin_is_in_database, None, "boss"),
    "reset_all_is_of_everybody": (reset_all_is_of_everybody, 5, 0),
    "bad_page_is_refused_with": (bad_page_is_refused_with, 500, 503),
    "expire_is_applied_first": (expire_is_applied_first, "limited", "expired"),
    "hold_clears_expiry": (hold_clears_expiry, 4_102_444_800, None),
    "enabling_works_state_out": (enabling_works_state_out, "active", "limited"),
    "resuming_asks_whether_online": (resuming_asks_whether_online, "active", "on_hold"),
    "timeout_is_for_never_online": (
        lambda d: hold_timed_out(d, is_online=True),
        "active",
        "on_hold",
    ),
    "endless_hold_ends_without_expiry": (
        lambda d: hold_timed_out(d, is_online=False, duration=None),
        True,
        False,
    ),
    "user_needs_proxies": (user_needs_proxies, 500, None),
    "woken_by_reset": (
        woken_by_reset,
        ["active", "disabled", "limited", "on_hold"],
        ["active", "limited"],
    ),
    "reset_rearms_reminder": (reset_rearms_reminder, 1, 2),
    "revoking_is_an_edit": (revoking_is_an_edit, True, False),
    "periodic_reset_needs_creation": (
        lambda d: reset_by_job(d, created=False)[0] is None,
        False,
        True,
    ),
    "nodes_follow_every_change": (nodes_follow_every_change, False, True),
    "remaining_flag_is_inverted": (
        lambda d: fired(d, plan={"add_remaining_traffic": True})[1].data_limit,
        5,
        12,
    ),
    "unlimited_has_remaining": (unlimited_has_remaining, (500, None), (None, 4)),
    "plan_expiry_runs_from_firing": (
        lambda d: fired(d, plan={"expire": DAY})[1].expire,
        DAY,
        int(ManualClock()().timestamp()) + DAY,
    ),
    "plan_may_want_both": (plan_may_want_both, "limited", "active"),
    "plan_event": (plan_event, ["data_reset_by_next"], ["data_usage_reset"]),
    "plan_by_hand_is_announced": (
        lambda d: len(events(fired(d, plan={})[2])),
        0,
        1,
    ),
    "hold_event": (hold_event, ["user_updated"], ["user_updated", "user_enabled"]),
    "state_events_name_admin": (state_events_name_admin, "clerk", None),
    "reset_announces_state": (
        reset_announces_state,
        ["data_usage_reset"],
        ["user_enabled", "data_usage_reset"],
    ),
    "periodic_reset_is_announced": (
        lambda d: events(reset_by_job(d)[1]),
        [],
        ["data_usage_reset", "user_enabled"],
    ),
    "deletion_shows_user": (lambda d: ["user" in each for each in deleted(d)[0]], [False], [True]),
    "deletion_shows_first": (lambda d: deleted(d, data_limit=-1)[1], False, True),
    "sqlite_keeps_history": (sqlite_keeps_history, 0, 5),
    "deletion_needs_owner": (lambda d: len(deleted(d, owner=None)[0]), 0, 1),
    "reminder_hides_subscription": (reminder_hides_subscription, False, True),
    "days_left_is_exact": (days_left_is_exact, ["reached_days_left"], []),
    "event_time_is_real": (event_time_is_real, 0.0, REAL_HOUR),
    "retry_is_told": (lambda d: tries(d)[1], 1, 0),
    "deliveries": (lambda d: len(tries(d)), 4, 3),
    "batch_size": (batch_size, [60, 0], [50, 10]),
    "delivered": (delivered, [1, 1, 1, 0], [1, 0, 0, 0]),
    "shown_gib_decimals": (
        lambda d: round(shown_limit_bytes(7_384_449_024, dialect=d)),
        7_384_444_646,
        7_387_343_749,
    ),
    "tiny_gib_decimals": (lambda d: round(shown_limit_bytes(4000, dialect=d)), 0, 4000),
    "dialog_keeps_next_plan": (lambda d: "next_plan" in saved(d), False, True),
    "dialog_always_sends_state": (lambda d: "status" in saved(d), True, False),
}
"""What each value decides, and what is seen of it on Marzban and on PasarGuard."""


EARLIER = {
    "version": (version, "5.2.1", "3.1.0"),
    "admins_have_roles": (
        lambda d: "role" in answer(d, "/api/admin").json(),
        True,
        False,
    ),
    "reset_all_is_of_everybody": (reset_all_is_of_everybody, 0, 5),
    "empty_sort_is_refused": (lambda d: answer(d, "/api/users?sort=").status_code, 200, 400),
    "enabling_works_state_out": (enabling_works_state_out, "limited", "active"),
    "woken_by_reset": (
        woken_by_reset,
        ["active", "limited"],
        ["active", "limited", "on_hold"],
    ),
    "woken_by_reset_all": (
        woken_by_reset_all,
        ["active", "limited"],
        ["active", "disabled", "expired", "limited", "on_hold"],
    ),
}
"""What is decided for PasarGuard 5.2.1, and otherwise for 3.1.0."""


def test_every_value_is_in_a_table():
    assert {each.name for each in fields(SimulatedDialect)} == {*DECIDES, *EARLIER}


def test_no_other_value_is_of_the_version():
    newer = {name: getattr(PASARGUARD, name) for name in EARLIER}
    assert replace(PASARGUARD_3, **newer) == PASARGUARD


@pytest.mark.parametrize("name", EARLIER)
def test_what_an_earlier_version_decides_otherwise_is_as_observed(name):
    decides, *expected = EARLIER[name]
    flipped = replace(PASARGUARD, **{name: getattr(PASARGUARD_3, name)})
    for dialect, seen in zip((PASARGUARD, flipped), expected, strict=True):
        with in_use(dialect):
            assert decides(dialect) == seen


@pytest.mark.parametrize("name", DECIDES)
def test_what_a_value_decides_is_as_observed_and_changes_with_it(name):
    decides, *expected = DECIDES[name]
    pairs = ((MARZBAN, PASARGUARD), (PASARGUARD, MARZBAN))
    for (dialect, other), seen in zip(pairs, expected, strict=True):
        with in_use(dialect):
            assert decides(dialect) == seen, dialect.title
        flipped = replace(dialect, **{name: getattr(other, name)})
        with in_use(flipped):
            assert decides(flipped) != seen, f"{dialect.title}: it is not {name} that decides"
