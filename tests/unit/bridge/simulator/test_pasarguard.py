"""The simulated PasarGuard as a state machine: what it does otherwise than Marzban."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzban_bridge.simulator.dialog import dialog_body
from marzban_bridge.simulator.panel import pasarguard
from marzban_bridge.simulator.panel.dialect import PASARGUARD, dialect_of
from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.snapshot import WrongKindError, restore_snapshot, to_snapshot
from tests.support.clocks import ManualClock

GIB = 2**30
DAY = 86400
ADMINS = {"boss": ("pw", True), "clerk": ("pw", True), "shop": ("pw", False)}


def new_panel(kind="pasarguard", **options):
    return SimulatedPanel(clock=ManualClock(), kind=kind, admins=ADMINS, **options)


@pytest.fixture
def panel():
    return new_panel()


def actions(panel):
    return [event["action"] for event in panel.take_webhooks()]


def token(panel, username):
    return panel.get_user(username)["subscription_url"].rpartition("/")[2]


def test_a_kind_that_is_none_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'3x-ui' is no kind of panel: use marzban or pasarguard"):
        new_panel("3x-ui")
    assert dialect_of("pasarguard") is PASARGUARD


class TestNextPlans:
    """Plans fire when a user is limited or expired, and may point to a template."""

    def test_one_that_adds_what_remained(self, panel):
        plan = {"data_limit": 5 * GIB, "add_remaining_traffic": True, "expire": DAY}
        panel.create_user("alice", data_limit=12 * GIB, next_plan=plan)
        panel.use_traffic("alice", 5 * GIB)
        panel.fire_next_plan("alice")
        user = panel.users["alice"]
        assert (user.data_limit, user.used_traffic, user.next_plan) == (12 * GIB, 0, None)
        assert user.expire == int(panel.clock().timestamp()) + DAY

    def test_one_that_is_fired_by_the_review_says_reset_and_not_by_whom(self, panel):
        panel.create_user("alice", data_limit=GIB, next_plan={"data_limit": GIB})
        panel.use_traffic("alice", GIB)
        panel.take_webhooks()
        panel.review()
        [event] = panel.take_webhooks()
        assert (event["action"], "by" in event) == ("data_usage_reset", False)

    @pytest.mark.parametrize("status", ["active", "on_hold"])
    def test_one_with_a_template(self, panel, status):
        template = pasarguard.add_template(
            panel,
            {
                "name": "month",
                "data_limit": 30 * GIB,
                "expire_duration": 30 * DAY,
                "group_ids": [2],
                "status": status,
                "on_hold_timeout": DAY,
                "data_limit_reset_strategy": "week",
            },
        )
        panel.create_user("alice", data_limit=GIB, next_plan={"user_template_id": template.id})
        panel.use_traffic("alice", GIB)
        assert panel.review() is None
        shown = panel.get_user("alice")
        assert (shown["data_limit"], shown["group_ids"]) == (30 * GIB, [2])
        assert (shown["status"], shown["data_limit_reset_strategy"]) == ("active", "week")
        end = panel.clock() + timedelta(days=30)
        assert shown["expire"] == end.isoformat().replace("+00:00", "Z")
        assert (shown["on_hold_expire_duration"], shown["on_hold_timeout"]) == (None, None)

    def test_one_without_a_limit_is_unlimited(self, panel):
        panel.create_user("alice", data_limit=GIB, next_plan={"data_limit": None})
        assert panel.get_user("alice")["next_plan"]["data_limit"] == 0
        panel.use_traffic("alice", GIB)
        assert panel.review() is None
        assert panel.get_user("alice")["data_limit"] == 0
        assert panel.use_traffic("alice", 2 * GIB)

    def test_a_template_needs_a_name_and_groups(self, panel):
        with pytest.raises(RefusedError) as refusal:
            pasarguard.add_template(panel, {"data_limit": -1})
        assert refusal.value.detail.keys() == {"name", "group_ids", "data_limit"}


class TestEvents:
    """Which operation announces what, and when it says it happened."""

    def test_an_event_has_its_own_time_and_a_retry_keeps_it(self, panel):
        panel.clock.advance(hours=1)
        panel.create_user("alice")
        happened_at = panel.clock().timestamp()
        for _ in range(3):
            [event] = panel.take_webhooks()
            assert (event["enqueued_at"], event["send_at"], event["tries"]) == (
                happened_at,
                happened_at,
                0,
            )
            panel.webhooks_failed([event])
            panel.clock.advance(minutes=3)
        assert panel.take_webhooks() == []

    def test_a_batch_holds_fifty(self, panel):
        for number in range(60):
            panel.create_user(f"user{number}")
        assert [len(panel.take_webhooks()) for _ in range(3)] == [50, 10, 0]

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ({"note": "a"}, ["user_updated"]),
            ({"status": "disabled"}, ["user_updated", "user_disabled"]),
            (
                {"status": "on_hold", "on_hold_expire_duration": DAY},
                ["user_updated", "user_enabled"],
            ),
            ({"expire": 1}, ["user_updated", "user_expired"]),
        ],
    )
    def test_changing_a_user(self, panel, body, expected):
        panel.create_user("alice", data_limit=GIB)
        panel.take_webhooks()
        panel.modify_user("alice", body, by="clerk")
        events = panel.take_webhooks()
        assert [event["action"] for event in events] == expected
        assert events[0]["by"]["username"] == "clerk"
        assert [event.get("by") for event in events[1:]] == [None] * (len(events) - 1)

    def test_a_reset_that_takes_a_user_back_says_so(self, panel):
        panel.create_user("alice", data_limit=GIB)
        panel.use_traffic("alice", GIB)
        panel.review()
        panel.take_webhooks()
        panel.reset_user("alice", by="clerk")
        assert actions(panel) == ["user_enabled", "data_usage_reset"]

    def test_the_periodic_reset_is_the_systems(self, panel):
        panel.create_user("alice", data_limit=GIB, data_limit_reset_strategy="day")
        panel.use_traffic("alice", GIB)
        panel.review()
        panel.take_webhooks()
        panel.clock.advance(days=1)
        panel.reset_periodic()
        reset, enabled = panel.take_webhooks()
        assert (reset["action"], enabled["action"]) == ("data_usage_reset", "user_enabled")
        assert (reset["by"]["username"], reset["by"]["id"]) == ("system", None)
        assert panel.use_traffic("alice", 1)

    def test_a_user_without_created_at_is_left_out_of_it(self, panel):
        for name in ("broken", "alice"):
            panel.create_user(name, data_limit=GIB, data_limit_reset_strategy="day")
            panel.use_traffic(name, 5)
        panel.users["broken"].created_at = None
        panel.clock.advance(days=1)
        assert panel.reset_periodic() is None
        assert [user.used_traffic for user in panel.users.values()] == [5, 0]

    def test_a_deletion_shows_the_user_also_one_without_an_owner(self, panel):
        panel.create_user("alice")
        panel.users["alice"].owner = None
        panel.take_webhooks()
        panel.delete_user("alice", by="boss")
        [event] = panel.take_webhooks()
        assert (event["user"]["username"], event["user"]["subscription_url"]) == ("alice", "")

    def test_the_reminder_of_the_end_is_for_its_day_alone(self, panel):
        for name, days in (("soon", 2), ("then", 3)):
            expire = int(panel.clock().timestamp()) + days * DAY + 60
            panel.create_user(name, expire=expire)
        panel.take_webhooks()
        panel.review()
        assert [event["username"] for event in panel.take_webhooks()] == ["then"]

    def test_the_reminder_of_the_share_comes_again_after_a_reset(self, panel):
        panel.create_user("alice", data_limit=100)
        for _ in range(2):
            panel.use_traffic("alice", 90)
            panel.review()
            panel.reset_user("alice")
        assert actions(panel).count("reached_usage_percent") == 2


class TestEdits:
    """Which changes the time of the last edit, and the events, tell of."""

    def edited_at(self, panel):
        return panel.get_user("alice")["edit_at"]

    def test_only_a_put_moves_it(self, panel):
        panel.create_user("alice", data_limit=GIB, next_plan={"data_limit": GIB})
        panel.clock.advance(minutes=1)
        panel.fire_next_plan("alice")
        panel.reset_user("alice")
        panel.revoke_subscription("alice")
        pasarguard.set_disabled(panel, panel.find("alice"), is_disabled=True)
        panel.reset_all()
        assert self.edited_at(panel) is None
        panel.modify_user("alice", {})
        now = panel.clock().isoformat().replace("+00:00", "Z")
        assert self.edited_at(panel) == now

    def test_the_switch_announces_the_state_alone(self, panel):
        panel.create_user("alice", data_limit=GIB)
        panel.take_webhooks()
        for is_disabled in (True, True, False):
            pasarguard.set_disabled(panel, panel.find("alice"), is_disabled=is_disabled)
        assert actions(panel) == ["user_disabled", "user_enabled"]
        assert panel.use_traffic("alice", 1)

    def test_limits_changed_for_all_are_silent(self, panel):
        panel.create_user("alice", data_limit=GIB)
        panel.create_user("bob", data_limit=5 * GIB)
        panel.create_user("free")
        panel.use_traffic("alice", GIB)
        panel.review()
        panel.use_traffic("bob", 4 * GIB)
        panel.take_webhooks()
        assert pasarguard.change_limits(panel, GIB) == 2
        assert panel.get_user("alice")["status"] == "active"
        assert pasarguard.change_limits(panel, -2 * GIB, ids=[2]) == 1
        assert pasarguard.change_limits(panel, -2 * GIB, ids=[1]) == 0, "it would be used up"
        shown = [(user.data_limit, user.status) for user in panel.users.values()]
        assert shown == [(2 * GIB, "active"), (4 * GIB, "limited"), (None, "active")]
        assert actions(panel) == []

    def test_resuming_an_admins_users_puts_those_who_wait_on_hold_though_they_were_online(
        self, panel
    ):
        hold = {"status": "on_hold", "on_hold_expire_duration": DAY}
        panel.create_user("alice", by="shop", **hold)
        panel.use_traffic("alice", 1)
        panel.disable_users_of("shop")
        panel.activate_users_of("shop")
        assert panel.get_user("alice")["status"] == "on_hold"

    def test_a_hold_times_out_for_those_never_online_and_may_end_without_expiry(self, panel):
        at = (panel.clock() + timedelta(hours=1)).isoformat()
        hold = {"status": "on_hold", "on_hold_expire_duration": DAY, "on_hold_timeout": at}
        for name in ("never", "once"):
            panel.create_user(name, **hold)
        panel.use_traffic("once", 1)
        panel.clock.advance(minutes=1)
        panel.modify_user("once", {})
        panel.users["never"].on_hold_expire_duration = None
        panel.clock.advance(hours=2)
        panel.review()
        shown = [panel.get_user(name) for name in ("never", "once")]
        assert [user["status"] for user in shown] == ["active", "on_hold"]
        assert shown[0]["expire"] is None


class TestDeletions:
    """What a deletion leaves behind."""

    def make_and_delete(self, panel):
        panel.create_user("first")
        panel.create_user("alice", data_limit=GIB)
        panel.use_traffic("alice", 5)
        panel.reset_user("alice")
        panel.modify_user("alice", {"next_plan": {"data_limit": 7}})
        panel.delete_user("alice")
        return panel.create_user("bob", data_limit=GIB)

    def test_on_sqlite_the_next_user_has_the_number_the_log_and_the_next_plan(self):
        bob = self.make_and_delete(new_panel(database="sqlite"))
        assert (bob["id"], bob["used_traffic"], bob["lifetime_used_traffic"]) == (2, 0, 5)
        assert bob["next_plan"]["data_limit"] == 7

    def test_on_mysql_nothing_is_left(self):
        bob = self.make_and_delete(new_panel(database="mysql"))
        assert (bob["id"], bob["lifetime_used_traffic"], bob["next_plan"]) == (3, 0, None)

    def test_a_user_that_cannot_be_shown_stays(self, panel):
        panel.create_user("alice")
        panel.users["alice"].data_limit = -1
        with pytest.raises(RefusedError, match="500"):
            panel.delete_user("alice")
        assert "alice" in panel.users


class TestDialog:
    """Saving the dashboard's form."""

    @given(st.integers(min_value=1, max_value=2**50))
    def test_a_limit_comes_back_within_half_a_hundredth_of_a_gib(self, data_limit):
        panel = new_panel()
        panel.create_user("alice", data_limit=data_limit)
        saved = panel.edit_in_dialog("alice", note="hello")
        step = 0.01 if data_limit >= 0.005 * GIB else 1e-9
        assert abs(saved["data_limit"] - data_limit) <= step * GIB / 2 + 1
        assert panel.edit_in_dialog("alice")["data_limit"] == saved["data_limit"]

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (7_384_449_024, 7_387_343_749),
            (10 * GIB, 10 * GIB),
            (5_368_710, 10_737_418),
            (5_368_708, 5_368_708),
            (None, None),
        ],
    )
    def test_what_becomes_of_a_limit(self, panel, before, after):
        panel.create_user("alice", data_limit=before)
        assert panel.edit_in_dialog("alice")["data_limit"] == after

    def test_the_next_plan_and_a_hold_survive(self, panel):
        hold = {"status": "on_hold", "on_hold_expire_duration": DAY}
        panel.create_user("alice", data_limit=GIB, next_plan={"data_limit": 5}, **hold)
        saved = panel.edit_in_dialog("alice", note="x")
        assert saved["next_plan"]["data_limit"] == 5
        assert (saved["status"], saved["on_hold_expire_duration"]) == ("on_hold", DAY)

    def test_a_next_plan_is_sent_with_zeros_and_a_template_without_a_plan(self, panel):
        shown = panel.create_user("alice", next_plan={"data_limit": 5})
        plan = dialog_body(shown, {}, dialect=PASARGUARD)["next_plan"]
        assert plan == {"data_limit": 5, "expire": 0, "add_remaining_traffic": False}
        shown["next_plan"] |= {"user_template_id": 3, "expire": 9}
        assert dialog_body(shown, {}, dialect=PASARGUARD)["next_plan"] == {
            "user_template_id": 3,
            "data_limit": 0,
            "expire": 0,
            "add_remaining_traffic": False,
        }

    def test_a_state_is_sent_when_it_was_touched(self, panel):
        shown = panel.create_user("alice", data_limit=GIB, expire=4_102_444_800)
        assert "status" not in dialog_body(shown, {"note": "x"}, dialect=PASARGUARD)
        assert dialog_body(shown, {"status": "active"}, dialect=PASARGUARD)["status"] == "active"
        assert panel.edit_in_dialog("alice")["expire"] == shown["expire"]


class TestAdmins:
    """Admins with quotas of their own."""

    def test_one_over_its_quota_is_limited_and_its_users_are_off_the_nodes(self, panel):
        pasarguard.modify_admin(panel, panel.admins["shop"], {"data_limit": 10})
        panel.create_user("alice", by="shop", data_limit=GIB)
        panel.create_user("bob", data_limit=GIB)
        panel.use_traffic("alice", 10)
        panel.review()
        shown = panel.show_admin(panel.admins["shop"])
        assert (shown["status"], shown["is_limited"], shown["total_users"]) == ("limited", True, 1)
        assert panel.get_user("alice")["status"] == "active", "its own state is untouched"
        assert [panel.use_traffic(name, 1) for name in ("alice", "bob")] == [False, True]
        pasarguard.modify_admin(panel, panel.admins["shop"], {"data_limit": 100})
        assert panel.use_traffic("alice", 90)
        panel.review()
        pasarguard.reset_admin(panel, panel.admins["shop"])
        shown = panel.show_admin(panel.admins["shop"])
        assert (shown["status"], shown["used_traffic"]) == ("active", 0)
        assert shown["lifetime_used_traffic"] == 100
        assert panel.use_traffic("alice", 1)

    def test_reset_all_means_everybody_whoever_presses_it(self, panel):
        panel.create_user("alice", data_limit=GIB)
        panel.use_traffic("alice", 5)
        panel.reset_all("clerk")
        assert panel.users["alice"].used_traffic == 0

    def test_the_owner_owns_what_it_makes(self, panel):
        assert panel.create_user("alice")["admin"] == {"id": 1, "username": "boss"}


class TestCopies:
    """What a file keeps, and what another kind of panel takes."""

    def full(self):
        panel = new_panel()
        role = pasarguard.add_role(panel, {"name": "r", "permissions": {"system": {"read": True}}})
        pasarguard.add_template(panel, {"name": "t", "group_ids": [1], "data_limit": 5})
        admin = {"username": "new", "password": "pw", "role_id": role.id, "data_limit": 7}
        pasarguard.create_admin(panel, admin)
        pasarguard.add_api_key(
            panel, {"name": "key", "expire_date": "2099-01-01"}, by=panel.admins["boss"]
        )
        panel.create_user("alice", by="shop", next_plan={"user_template_id": 1})
        return panel

    def test_everything_survives_a_restart(self):
        panel = self.full()
        copy = new_panel()
        restore_snapshot(copy, json.loads(json.dumps(to_snapshot(panel))))
        for name in ("users", "admins", "roles", "templates", "api_keys", "webhook_settings"):
            assert getattr(copy, name) == getattr(panel, name), name

    def test_a_marzban_moves_over_with_users_admins_and_tokens(self):
        old = new_panel("marzban", secret="the panel's own")
        plan = {"data_limit": 5, "fire_on_either": False}
        old.create_user("alice", by="shop", data_limit=GIB, next_plan=plan)
        old.create_user("carol", data_limit=GIB, expire=4_102_444_800)
        old.use_traffic("alice", 5)
        tokens = {name: token(old, name) for name in ("alice", "carol")}
        panel = new_panel()
        restore_snapshot(panel, json.loads(json.dumps(to_snapshot(old))))
        assert {name: panel.subscriber(each).username for name, each in tokens.items()} == {
            "alice": "alice",
            "carol": "carol",
        }
        alice, carol = (panel.get_user(name) for name in ("alice", "carol"))
        assert (alice["used_traffic"], alice["next_plan"]["data_limit"]) == (5, 5)
        assert (alice["admin"]["username"], carol["admin"]) == ("shop", None)
        assert carol["expire"] == "2100-01-01T00:00:00Z"
        assert panel.sign_in("shop", "pw")
        assert "." in token(panel, "alice")

    def test_the_other_way_round_is_refused(self, panel):
        with pytest.raises(WrongKindError, match="the copy of a pasarguard"):
            restore_snapshot(new_panel("marzban"), to_snapshot(panel))


class TestSubscriptions:
    """Tokens that prove a user by its number."""

    def test_one_says_the_users_number_and_ends_with_a_revocation(self, panel):
        panel.create_user("first")
        panel.create_user("alice")
        given = token(panel, "alice")
        assert given.startswith("djMsMi"), 'base64 of "v3,2,"'
        assert panel.subscriber(given).username == "alice"
        panel.clock.advance(seconds=1)
        panel.revoke_subscription("alice")
        with pytest.raises(RefusedError, match="404"):
            panel.subscriber(given)

    def test_one_with_anything_changed_is_worth_nothing(self, panel):
        panel.create_user("alice")
        text, _, signature = token(panel, "alice").partition(".")
        for forged in (f"{text}.{signature[::-1]}", f"{text}x.{signature}", text, f".{signature}"):
            with pytest.raises(RefusedError, match="404"):
                panel.subscriber(forged)

    def test_a_marzban_does_not_take_it(self):
        panel, old = new_panel(), new_panel("marzban")
        for each in (panel, old):
            each.create_user("alice")
        with pytest.raises(RefusedError, match="404"):
            old.subscriber(token(panel, "alice"))
