"""Folding a look at the panel into an account."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzban_bridge.panels.dialect import MARZBAN
from marzban_bridge.panels.users import ResetStrategy, Status, is_same_creation
from marzban_bridge.quota.account import FLOOR_BYTES, GIB, MIB, Restoration
from marzban_bridge.quota.adoption import RECREATION_GAP, adopt
from marzban_bridge.quota.balance import balance
from marzban_bridge.quota.observe import observe
from marzban_bridge.quota.resets.detection import Cause
from marzban_bridge.quota.resets.next_plans import NEXT_PLAN_MEMORY
from marzban_bridge.quota.resets.reset_all import ResetAll
from marzban_bridge.quota.usage import Totals
from tests.support.bridge.bridge_builders import (
    CREATED_AT,
    NOW,
    account,
    as_reported,
    gib,
    next_plan,
    open_write,
    panel_user,
)

LATER = NOW + timedelta(seconds=30)


def looked(held, user, total=gib(7), *, at=LATER, **facts):
    return observe(held, user, totals=as_reported(total), now=at, **{"dialect": MARZBAN} | facts)


def published(limit_bytes=gib(3), **fields):
    """An account of 10 GiB with 7 GiB external traffic, whose rest is published."""
    user = panel_user(data_limit_bytes=limit_bytes, **fields.pop("user", {}))
    defaults = {"published_bytes": limit_bytes, "seen_total_bytes": gib(7)}
    return account(user, **(defaults | fields)), user


def test_a_user_seen_for_the_first_time_keeps_the_quota_the_panel_shows():
    opened = adopt(
        panel_user(admin="reseller"),
        baseline=Totals(billed_bytes=5, raw_bytes=3),
        totals=Totals(billed_bytes=gib(2), raw_bytes=gib(1)),
        now=NOW,
    )
    assert opened.quota_bytes == gib(10)
    assert opened.published_bytes is None
    assert (opened.baseline_bytes, opened.admin_baseline_bytes) == (5, 5)
    assert opened.seen_total_bytes == gib(2)
    assert (opened.raw_baseline_bytes, opened.seen_raw_bytes) == (3, gib(1))
    assert opened.admin == "reseller"
    assert opened.period_started_at == CREATED_AT


def test_looking_again_reveals_nothing_new():
    held, user = published(user={"used_bytes": gib(4), "status": Status.LIMITED})
    first = looked(held, user)
    again = looked(first.account, user)
    assert again.account == first.account
    assert (again.events, again.reset) == ((), None)


def test_a_reset_moves_the_baseline_and_nothing_else_of_the_books():
    held, _user = published(user={"used_bytes": gib(4), "status": Status.LIMITED})
    seen = looked(held, panel_user(data_limit_bytes=gib(3), logged_bytes=gib(4)))
    after = seen.account
    assert after.baseline_bytes == gib(7)
    assert after.quota_bytes == gib(10)
    assert after.published_bytes == gib(3)
    assert after.period_started_at == LATER
    assert after.needs_readd
    assert balance(after, total_bytes=gib(7)).used_bytes == 0
    assert [event.kind for event in seen.events] == ["reset"]


@pytest.mark.parametrize(
    ("cause_facts", "has_echo"),
    [({}, True), ({"was_announced": True}, False)],
)
def test_a_reset_seen_before_its_webhook_expects_the_webhook(cause_facts, has_echo):
    held, _ = published(user={"used_bytes": gib(4)})
    seen = looked(held, panel_user(data_limit_bytes=gib(3), logged_bytes=gib(4)), **cause_facts)
    assert (seen.account.echo_until is not None) == has_echo
    late = looked(
        seen.account,
        panel_user(data_limit_bytes=gib(3), logged_bytes=gib(4)),
        gib(8),
        at=LATER + timedelta(minutes=1),
        was_announced=True,
    )
    assert (late.reset is None) == has_echo


def test_an_echo_is_used_up_by_one_webhook():
    held, user = published(echo_until=LATER + timedelta(minutes=5))
    first = looked(held, user, was_announced=True)
    assert first.reset is None
    second = looked(first.account, user, gib(8), was_announced=True)
    assert second.reset.cause is Cause.WEBHOOK
    assert second.account.baseline_bytes == gib(8)


def test_a_reset_all_is_taken_into_account_once():
    held, user = published()
    first = looked(held, user, reset_all=ResetAll(seen_at=NOW, after=NOW))
    assert first.reset.cause is Cause.RESET_ALL
    assert (
        looked(first.account, user, gib(8), reset_all=ResetAll(seen_at=NOW, after=NOW)).reset
        is None
    )


def test_the_user_that_proves_a_reset_all_does_not_take_it_twice():
    held, _ = published(user={"used_bytes": gib(4)})
    after = panel_user(data_limit_bytes=gib(3))
    first = looked(held, after)
    assert first.reset.wiped_log
    assert (
        looked(first.account, after, gib(8), reset_all=ResetAll(seen_at=LATER, after=NOW)).reset
        is None
    )


def test_a_recreated_user_is_a_new_account_with_the_quota_the_panel_shows():
    held, _ = published()
    reborn = panel_user(created_at=CREATED_AT + timedelta(days=1), data_limit_bytes=gib(30))
    after = looked(held, reborn, gib(9)).account
    assert (after.quota_bytes, after.baseline_bytes) == (gib(30), gib(9))
    assert after.published_bytes is None


def test_an_echo_is_still_expected_after_a_look_without_webhook():
    until = LATER + timedelta(minutes=5)
    held, user = published(echo_until=until)
    assert looked(held, user).account.echo_until == until


def test_the_latest_reset_of_all_users_is_the_one_remembered():
    held, user = published(user={"used_bytes": gib(1)}, reset_all_seen_at=NOW)
    earlier = NOW - timedelta(hours=1)
    assert (
        looked(
            held, user, reset_all=ResetAll(seen_at=earlier, after=earlier)
        ).account.reset_all_seen_at
        == NOW
    )
    assert (
        looked(held, user, reset_all=ResetAll(seen_at=LATER, after=NOW)).account.reset_all_seen_at
        == LATER
    )
    assert looked(held, user).account.reset_all_seen_at == NOW


@pytest.mark.parametrize("was_held", [False, True])
def test_a_total_that_fell_holds_the_account_until_rebase(was_held):
    """Even when reports bring the total up again, what was lost stays lost."""
    held, user = published()
    held = replace(held, is_held=was_held)
    total = gib(9) if was_held else gib(7) - 1
    after = looked(held, replace(user, used_bytes=0), total)
    assert after.account.is_held
    assert after.account.baseline_bytes == held.baseline_bytes
    assert [event.kind for event in after.events] == ([] if was_held else ["conflict"])
    assert was_held or "fell by 1 B" in after.events[0].text


class TestQuotaEdits:
    """Which data limit in the panel is the admin's word, and which is ours."""

    @pytest.mark.parametrize("shown", [gib(3), gib(3) + 5000, gib(3) - 16 * 1024])
    def test_what_we_published_is_not_an_edit(self, shown):
        held, user = published()
        after = looked(held, replace(user, data_limit_bytes=shown))
        assert (after.account.quota_bytes, after.account.published_bytes) == (gib(10), gib(3))
        assert after.events == ()

    @pytest.mark.parametrize("shown", [gib(5), gib(50), gib(3) + 16 * 1024 + 1, None])
    def test_any_other_limit_is_the_new_quota(self, shown):
        held, user = published()
        after = looked(held, replace(user, data_limit_bytes=shown))
        assert (after.account.quota_bytes, after.account.published_bytes) == (shown, None)
        (event,) = after.events
        assert (event.kind, event.before) == ("quota_changed", str(gib(10)))
        assert event.after == ("unlimited" if shown is None else str(shown))

    @pytest.mark.parametrize("shown", [gib(10), gib(10) + 5000])
    def test_the_old_quota_typed_again_does_not_drift(self, shown):
        held, user = published()
        after = looked(held, replace(user, data_limit_bytes=shown))
        assert (after.account.quota_bytes, after.account.published_bytes) == (gib(10), None)
        assert after.events == ()

    def test_the_dialogs_rounding_of_an_unpublished_quota_does_not_drift(self):
        quota = 12_345_678_901
        held = account(panel_user(data_limit_bytes=quota), quota_bytes=quota)
        rounded = panel_user(data_limit_bytes=int(round(quota / GIB, 5) * GIB))
        assert looked(held, rounded).account.quota_bytes == quota

    def test_a_dialog_opened_before_our_last_write_does_not_set_a_quota(self):
        stale = gib(5) - 7 * MIB - 1234
        held, user = published(remembered_limits=(stale, gib(3)))
        after = looked(held, replace(user, data_limit_bytes=stale + 5000))
        assert after.account.quota_bytes == gib(10)

    def test_a_typed_number_is_an_edit_even_if_we_published_the_same_once(self):
        held, user = published(remembered_limits=(gib(5), gib(3)))
        after = looked(held, replace(user, data_limit_bytes=gib(5)))
        assert after.account.quota_bytes == gib(5)

    @pytest.mark.parametrize(
        ("shown", "published_after"), [(gib(2), gib(2)), (gib(3), gib(3)), (gib(10), None)]
    )
    def test_a_write_that_a_crash_interrupted_is_recognised_either_way(
        self, shown, published_after
    ):
        intended = gib(2) if shown != gib(10) else gib(10)
        held, user = published(open_writes=(open_write(data_limit_bytes=intended),))
        after = looked(held, replace(user, data_limit_bytes=shown)).account
        assert (after.quota_bytes, after.published_bytes) == (gib(10), published_after)
        assert after.open_writes == held.open_writes

    def test_an_unlimited_account_with_no_write_under_way_stays_as_it_is(self):
        held = account(panel_user(data_limit_bytes=None), quota_bytes=None)
        after = looked(held, panel_user(data_limit_bytes=None))
        assert (after.account.quota_bytes, after.events) == (None, ())


class TestStatusWrites:
    """Who disabled the user, after a crash or an admin's hand."""

    @pytest.mark.parametrize(
        ("intended", "seen", "was_ours", "is_ours"),
        [
            (Status.DISABLED, Status.DISABLED, False, True),
            (Status.DISABLED, Status.ACTIVE, False, False),
            (Status.ACTIVE, Status.ACTIVE, True, False),
            (Status.ACTIVE, Status.DISABLED, True, True),
            (None, Status.DISABLED, False, False),
            (None, Status.DISABLED, True, True),
        ],
    )
    def test_a_status_write_is_recognised_after_a_crash(self, intended, seen, was_ours, is_ours):
        before = panel_user(status=Status.DISABLED if was_ours else Status.ACTIVE)
        held = account(
            before,
            open_writes=(open_write(status=intended),) if intended else (),
            is_disabled_by_us=was_ours,
            seen_total_bytes=gib(7),
        )
        after = looked(held, panel_user(status=seen))
        assert after.account.is_disabled_by_us is is_ours
        assert after.reset is None

    def test_an_admin_who_disables_with_another_limit_is_not_us(self):
        write = open_write(status=Status.DISABLED, data_limit_bytes=gib(2))
        held = account(panel_user(), open_writes=(write,))
        after = looked(held, panel_user(status=Status.DISABLED, data_limit_bytes=gib(5))).account
        assert not after.is_disabled_by_us
        assert after.quota_bytes == gib(5)

    def test_a_user_with_traffic_whom_an_admin_enabled_is_not_ours_any_more(self):
        before = panel_user(status=Status.DISABLED, used_bytes=gib(4))
        held = account(before, is_disabled_by_us=True)
        after = looked(held, panel_user(used_bytes=gib(4)))
        assert not after.account.is_disabled_by_us
        assert after.reset is None

    def test_a_user_let_in_by_hand_keeps_what_was_used_and_is_told_of_once(self):
        before = panel_user(status=Status.DISABLED, data_limit_bytes=FLOOR_BYTES)
        held = account(before, is_disabled_by_us=True, published_bytes=FLOOR_BYTES)
        let_in = looked(held, replace(before, status=Status.ACTIVE), gib(11))
        assert (let_in.reset, let_in.account.baseline_bytes) == (None, 0)
        assert let_in.account.let_in_at == LATER
        assert [event.kind for event in let_in.events] == ["let_in"]
        again = looked(let_in.account, replace(before, status=Status.ACTIVE), gib(11))
        assert (again.events, again.account.let_in_at) == ((), LATER)
        out = looked(let_in.account, before, gib(11))
        assert (out.account.let_in_at, out.account.is_disabled_by_us) == (None, False)

    def test_a_user_let_in_by_its_reset_is_not_told_of(self):
        before = panel_user(status=Status.DISABLED, data_limit_bytes=FLOOR_BYTES)
        held = account(before, is_disabled_by_us=True, published_bytes=FLOOR_BYTES)
        active = replace(before, status=Status.ACTIVE)
        seen = looked(held, active, gib(11), was_announced=True)
        assert [event.kind for event in seen.events] == ["reset"]
        assert seen.account.let_in_at is None
        let_in = looked(held, active, gib(11)).account
        late = looked(let_in, active, gib(12), was_announced=True)
        assert (late.account.baseline_bytes, late.account.let_in_at) == (gib(12), None)


class TestRecreation:
    """A user that took the place of another of its name."""

    @pytest.mark.parametrize(
        ("created_after", "baseline"),
        [
            (timedelta(seconds=20), gib(5)),  # what came since the last look is the new user's
            (RECREATION_GAP, gib(5)),
            (RECREATION_GAP + timedelta(seconds=1), gib(9)),
        ],
    )
    def test_counts_from_the_last_look_at_the_other(self, created_after, baseline):
        held = account(panel_user(), seen_total_bytes=gib(5), quota_bytes=gib(40))
        created = panel_user(created_at=NOW + created_after)
        seen = looked(held, created, gib(9), at=NOW + created_after + timedelta(seconds=9))
        assert seen.account.quota_bytes == gib(10)
        assert (seen.account.baseline_bytes, seen.account.raw_baseline_bytes) == (
            baseline,
            baseline,
        )
        assert seen.account.seen_total_bytes == gib(9)
        assert [event.kind for event in seen.events] == ["recreated"]

    @pytest.mark.parametrize(
        ("one", "other", "is_same"),
        [
            ("09:30:00.123456", "09:30:00.123456", True),
            ("09:30:00.123456", "09:30:00.123457", False),  # re-created within the second
            ("09:30:00.923456", "09:30:00", True),  # moved to MariaDB, which cuts
            ("09:30:00.923456", "09:30:01", True),  # or rounds
            ("09:30:00.123456", "09:30:02", False),
            ("09:30:00", "09:30:00", True),
            ("09:30:00", "09:30:01", False),
        ],
    )
    def test_is_told_by_the_creation_as_exactly_as_the_database_keeps_it(self, one, other, is_same):
        at, after = (datetime.fromisoformat(f"2026-05-01T{each}+00:00") for each in (one, other))
        assert is_same_creation(at, after) is is_same
        assert is_same_creation(after, at) is is_same
        held = account(panel_user(created_at=at))
        seen = looked(held, panel_user(created_at=after), 0)
        assert ([event.kind for event in seen.events] == ["recreated"]) is not is_same

    def test_without_a_creation_is_another_than_with_one(self):
        assert is_same_creation(None, None)
        assert not is_same_creation(None, NOW)
        assert not is_same_creation(NOW, None)


class TestNextPlans:
    """A plan that fired, and one that a reset dropped."""

    def test_tries_to_fire_a_plan_are_counted_until_the_plan_changes(self):
        user = panel_user(next_plan=next_plan())
        held = account(user, fire_attempts=2)
        assert looked(held, user).account.fire_attempts == 2
        other = replace(user, next_plan=next_plan(data_limit_bytes=gib(30)))
        assert looked(held, other).account.fire_attempts == 0

    def test_a_user_without_a_plan_has_lost_none(self):
        held, user = published()
        assert looked(held, user).account.dropped_plan_at is None

    def test_only_traffic_of_the_period_counts_against_what_a_plan_adds(self):
        plan = next_plan(adds_remaining_traffic=False)
        before = panel_user(used_bytes=gib(4), data_limit_bytes=gib(5), next_plan=plan)
        held = account(before, published_bytes=gib(5), baseline_bytes=gib(100))
        fired = panel_user(data_limit_bytes=gib(21), logged_bytes=gib(4), expire=0)
        assert looked(held, fired, gib(105)).account.quota_bytes == gib(21)

    def test_a_dropped_plan_is_to_be_put_back(self):
        plan = next_plan(fires_on_either=False)
        held, _user = published(user={"used_bytes": gib(4), "next_plan": plan})
        seen = looked(held, panel_user(data_limit_bytes=gib(3), logged_bytes=gib(4)))
        assert seen.account.restoration == Restoration(next_plan=plan)

    @pytest.mark.parametrize(
        ("age", "keeps", "is_restored"),
        [
            (NEXT_PLAN_MEMORY, True, True),
            (NEXT_PLAN_MEMORY + timedelta(seconds=1), True, False),  # removed by an admin since?
            (timedelta(seconds=5), False, False),
        ],
    )
    def test_only_a_plan_seen_lately_is_put_back(self, age, keeps, is_restored):
        held, _user = published(user={"used_bytes": gib(4), "next_plan": next_plan()})
        seen = looked(
            held,
            panel_user(data_limit_bytes=gib(3), logged_bytes=gib(4)),
            at=NOW + age,
            keeps_next_plan=keeps,
        )
        assert (seen.account.restoration is not None) == is_restored

    def test_a_plan_that_vanished_shortly_before_an_invisible_reset_came_to_light(self):
        held, user = published(user={"next_plan": next_plan()})
        vanished = looked(held, replace(user, next_plan=None))
        assert (vanished.reset, vanished.account.restoration) == (None, None)
        for wait, plan in (
            (NEXT_PLAN_MEMORY, next_plan()),
            (NEXT_PLAN_MEMORY + timedelta(seconds=1), None),
        ):
            seen = looked(
                vanished.account,
                replace(user, next_plan=None),
                at=LATER + wait,
                was_announced=True,
            )
            restoration = seen.account.restoration
            assert (restoration and restoration.next_plan) == plan

    def test_a_plan_that_survived_the_reset_needs_no_putting_back(self):
        held, _user = published(user={"used_bytes": gib(4), "next_plan": next_plan()})
        after = panel_user(data_limit_bytes=gib(3), logged_bytes=gib(4), next_plan=next_plan())
        assert looked(held, after).account.restoration is None

    @pytest.mark.parametrize(
        ("adds", "used", "external", "shown", "fired_limit", "quota"),
        [
            (True, gib(4), gib(7), gib(3), gib(20), gib(20)),
            (False, gib(4), gib(7), gib(3), gib(19), gib(19)),  # overrun by 1 GiB: a debt
            (False, gib(4), gib(6.5), gib(3.5), gib(19.5), gib(19.5)),
            (False, gib(4), gib(5), gib(5), gib(21), gib(21)),  # fired by expiry, 1 GiB was left
            (False, gib(4), gib(5), gib(10), gib(26), gib(21)),  # nothing was published yet
            (False, 0, gib(20), FLOOR_BYTES, gib(20) + FLOOR_BYTES, gib(10)),
            (False, 0, gib(31), FLOOR_BYTES, gib(20) + FLOOR_BYTES, FLOOR_BYTES),
        ],
    )
    def test_the_quota_of_a_fired_plan_counts_external_traffic_as_used(
        self, adds, used, external, shown, fired_limit, quota
    ):
        plan = next_plan(adds_remaining_traffic=adds)
        before = panel_user(used_bytes=used, data_limit_bytes=shown, next_plan=plan)
        held = account(before, published_bytes=shown, fire_attempts=1)
        seen = looked(
            held,
            panel_user(data_limit_bytes=fired_limit, logged_bytes=used, expire=0),
            external,
        )
        assert seen.reset.cause is Cause.NEXT_PLAN
        assert seen.account.echo_until is not None, "its webhook is no second reset"
        assert seen.account.quota_bytes == quota
        assert seen.account.baseline_bytes == external
        assert seen.account.fire_attempts == 0
        expected = None if fired_limit == quota else fired_limit
        assert seen.account.published_bytes == expected
        assert seen.account.restoration is None


def test_panel_traffic_before_the_periodic_reset_is_remembered_once_it_is_due():
    user = panel_user(used_bytes=7, reset_strategy=ResetStrategy.WEEK)
    held = account(user, period_started_at=NOW - timedelta(days=7))
    after = looked(held, replace(user, used_bytes=9, lifetime_bytes=9)).account
    assert after.used_when_due_bytes == 7
    assert (
        looked(after, replace(user, used_bytes=11, lifetime_bytes=11)).account.used_when_due_bytes
        == 7
    )
    on_the_dot = account(user, period_started_at=LATER - timedelta(days=7))
    assert looked(on_the_dot, user).account.used_when_due_bytes == 7
    early = account(user, period_started_at=NOW)
    assert looked(early, user).account.used_when_due_bytes is None


@given(
    used=st.integers(min_value=0, max_value=2**45),
    external=st.integers(min_value=0, max_value=2**45),
    more=st.integers(min_value=0, max_value=2**45),
)
def test_traffic_alone_never_looks_like_a_reset_or_an_edit(used, external, more):
    held = account(panel_user(used_bytes=used), seen_total_bytes=external)
    seen = looked(held, panel_user(used_bytes=used + more), external + more)
    assert (seen.reset, seen.events) == (None, ())
    assert seen.account.baseline_bytes == 0
    assert seen.account.quota_bytes == gib(10)
