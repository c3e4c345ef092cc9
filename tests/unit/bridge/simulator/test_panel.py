"""The simulated panel as a state machine: events, jobs, the dialog, admins, and a memory on disk."""

from __future__ import annotations

import contextlib
import json
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.snapshot import restore_snapshot, to_snapshot
from tests.support.clocks import ManualClock

G = 10**9
GIB = 2**30
DAY = 86400
PLAN = {"data_limit": 5 * G, "expire": 0, "add_remaining_traffic": False, "fire_on_either": True}
HOLD = {"status": "on_hold", "on_hold_expire_duration": DAY}
ADMINS = {"root": ("pw", True), "sudo2": ("pw", True), "res1": ("pw", False)}


def new_panel(**options):
    return SimulatedPanel(clock=ManualClock(), admins=ADMINS, **options)


@pytest.fixture
def panel():
    return new_panel()


def actions(panel):
    return [event["action"] for event in panel.take_webhooks()]


class TestEvents:
    """Which operation announces what."""

    @pytest.fixture(autouse=True)
    def alice(self, panel):
        panel.create_user("alice", data_limit=10 * G)
        assert actions(panel) == ["user_created"]

    @pytest.mark.parametrize(
        ("used", "body", "expected"),
        [
            (0, {"note": "a"}, ["user_updated"]),
            (0, {"data_limit": 10 * G}, ["user_updated"]),
            (5 * G, {"data_limit": 4 * G}, ["user_updated", "user_limited"]),
            (0, {"status": "disabled"}, ["user_updated", "user_disabled"]),
            (0, {"status": "on_hold", "on_hold_expire_duration": DAY}, ["user_updated"]),
            (0, {"expire": 1}, ["user_updated", "user_expired"]),
        ],
    )
    def test_changing_a_user(self, panel, used, body, expected):
        panel.use_traffic("alice", used)
        panel.modify_user("alice", body)
        assert actions(panel) == expected

    def test_releasing_a_user(self, panel):
        panel.use_traffic("alice", 5 * G)
        panel.modify_user("alice", {"data_limit": G})
        panel.take_webhooks()
        panel.modify_user("alice", {"data_limit": 20 * G}, by="sudo2")
        events = panel.take_webhooks()
        assert [event["action"] for event in events] == ["user_updated", "user_enabled"]
        assert [event["by"]["username"] for event in events] == ["sudo2", "sudo2"]

    def test_a_reset_announces_itself_even_of_nothing_and_no_new_state(self, panel):
        panel.modify_user("alice", {"status": "disabled"})
        panel.take_webhooks()
        panel.reset_user("alice")
        assert actions(panel) == ["data_usage_reset"]

    def test_reset_all_the_periodic_reset_and_a_plan_fired_by_hand_are_silent(self, panel):
        panel.modify_user("alice", {"next_plan": PLAN, "data_limit_reset_strategy": "day"})
        panel.take_webhooks()
        panel.fire_next_plan("alice")
        panel.reset_all()
        panel.clock.advance(days=1)
        assert panel.reset_periodic() is None
        assert len(panel.users["alice"].reset_logs) == 1, "it was reset"
        assert actions(panel) == []

    def test_a_hold_that_ends_by_itself_was_ended_by_nobody(self, panel):
        panel.modify_user("alice", {"status": "on_hold", "on_hold_expire_duration": DAY})
        panel.take_webhooks()
        panel.clock.advance(seconds=1)
        panel.use_traffic("alice", 5000)
        panel.review()
        [event] = panel.take_webhooks()
        assert (event["action"], event["by"]) == ("user_enabled", None)
        assert event["user"]["expire"] == int(panel.clock().timestamp()) + DAY

    def test_deleting_is_announced_only_for_the_owned(self, panel):
        panel.create_user("bob", by="res1")
        panel.take_webhooks()
        assert panel.delete_user("alice").owner is None
        assert panel.delete_user("bob", by="root").owner == "res1"
        [event] = panel.take_webhooks()
        assert (event["username"], event["by"]["username"]) == ("bob", "root")
        assert "user" not in event

    def test_a_user_is_reminded_once_until_a_limit_gives_it_room(self, panel):
        panel.use_traffic("alice", 9 * G)
        panel.review()
        panel.review()
        assert actions(panel) == ["reached_usage_percent"]
        panel.reset_user("alice")
        panel.use_traffic("alice", 9 * G)
        panel.review()
        assert actions(panel) == ["data_usage_reset"], "a reset does not forget the reminder"
        panel.modify_user("alice", {"data_limit": 20 * G})
        panel.modify_user("alice", {"data_limit": 10 * G})
        panel.review()
        assert actions(panel) == ["user_updated", "user_updated", "reached_usage_percent"]

    def test_a_panel_without_an_address_queues_nothing(self):
        panel = new_panel(sends_webhooks=False)
        panel.create_user("alice", data_limit=1)
        panel.use_traffic("alice", 2)
        panel.review()
        assert panel.get_user("alice")["status"] == "limited"
        assert len(panel.webhooks) == 0


class TestDelivery:
    """The queue behind the events."""

    def test_the_times_in_an_event_are_the_start_of_the_panel(self, panel):
        started_at = panel.clock().timestamp()
        panel.clock.advance(hours=5)
        panel.create_user("alice")
        [event] = panel.take_webhooks()
        assert (event["enqueued_at"], event["send_at"], event["tries"]) == (
            started_at,
            started_at,
            0,
        )

    def test_a_refused_batch_comes_three_times_more(self, panel):
        panel.create_user("alice")
        tries = []
        for _ in range(10):
            batch = panel.take_webhooks()
            tries += [event["tries"] for event in batch]
            panel.webhooks_failed(batch)
            assert panel.take_webhooks() == [], "a retry waits"
            panel.clock.advance(minutes=3)
        assert tries == [0, 1, 2, 3]

    def test_a_retry_has_a_true_time_and_may_come_after_newer_events(self, panel):
        panel.create_user("alice")
        panel.webhooks_failed(panel.take_webhooks())
        panel.create_user("bob")
        assert [event["username"] for event in panel.take_webhooks()] == ["bob"]
        panel.clock.advance(minutes=3)
        [event] = panel.take_webhooks()
        assert (event["username"], event["send_at"]) == ("alice", panel.clock().timestamp())

    def test_an_event_shows_the_user_as_it_was(self, panel):
        panel.create_user("alice", note="before")
        panel.modify_user("alice", {"note": "after"})
        assert [event["user"]["note"] for event in panel.take_webhooks()] == ["before", "after"]


class TestJobs:
    """What a job does to the others when one user breaks it."""

    def test_a_user_without_created_at_ends_the_periodic_reset_for_everybody_after_it(self, panel):
        for name in ("first", "broken", "last"):
            panel.create_user(name, data_limit=10 * G, data_limit_reset_strategy="day")
            panel.use_traffic(name, G)
        panel.users["broken"].created_at = None
        panel.clock.advance(days=1)
        assert "broken" in str(panel.reset_periodic())
        assert panel.users["first"].used_traffic == 0
        assert panel.users["last"].used_traffic == G

    def test_such_a_user_breaks_every_page_it_is_on(self, panel):
        for name in ("good", "broken"):
            panel.create_user(name)
        panel.users["broken"].created_at = None
        assert panel.list_users(usernames=["good"])["total"] == 1
        for ask in (
            lambda: panel.get_user("broken"),
            lambda: panel.list_users(usernames=["good", "broken"]),
            lambda: panel.modify_user("broken", {"note": "written all the same"}),
        ):
            with pytest.raises(RefusedError, match="500"):
                ask()
        assert panel.users["broken"].note == "written all the same"

    def test_a_plan_that_cannot_be_reckoned_ends_the_review(self, panel):
        panel.create_user("broken", expire=1, next_plan=PLAN)
        panel.create_user("alice", data_limit=1)
        panel.use_traffic("alice", 2)
        assert "unlimited" in str(panel.review())
        assert panel.users["broken"].next_plan is not None
        assert panel.get_user("alice")["status"] == "active"

    def test_a_plan_smaller_than_the_overrun_ends_two_reviews(self, panel):
        panel.create_user("broken", data_limit=10 * G, next_plan=PLAN | {"data_limit": G})
        panel.create_user("alice", data_limit=1)
        panel.use_traffic("broken", 12 * G)
        panel.use_traffic("alice", 2)
        panel.take_webhooks()
        assert panel.review()
        assert panel.users["broken"].data_limit == -G
        assert panel.review()
        assert panel.users["broken"].status == "limited"
        assert panel.users["alice"].status == "active"
        assert panel.review() is None
        assert panel.users["alice"].status == "limited"
        assert actions(panel) == ["user_limited"]


class TestHolds:
    """How a hold ends, and comes back."""

    def test_it_times_out_for_a_user_that_was_online_before(self, panel):
        at = (panel.clock() + timedelta(hours=1)).isoformat()
        panel.create_user("alice", on_hold_timeout=at, **HOLD)
        panel.use_traffic("alice", 1)
        panel.clock.advance(minutes=1)
        panel.modify_user("alice", {})
        panel.review()
        assert panel.get_user("alice")["status"] == "on_hold"
        panel.clock.advance(hours=2)
        panel.review()
        assert panel.get_user("alice")["status"] == "active"

    def test_one_without_a_duration_ends_in_an_expiry_at_that_moment(self, panel):
        panel.create_user("alice", **HOLD)
        panel.users["alice"].on_hold_expire_duration = None
        panel.use_traffic("alice", 1)
        panel.review()
        assert panel.get_user("alice")["expire"] == int(panel.clock().timestamp())

    def test_who_was_online_is_active_after_the_admins_users_are_resumed(self, panel):
        for name in ("never", "once"):
            panel.create_user(name, by="res1", **HOLD)
        panel.use_traffic("once", 1)
        panel.disable_users_of("res1")
        panel.activate_users_of("res1")
        shown = [panel.get_user(name)["status"] for name in ("never", "once")]
        assert shown == ["on_hold", "active"]

    def test_a_user_without_proxies_cannot_be_shown(self, panel):
        panel.create_user("alice")
        panel.users["alice"].proxies = {}
        with pytest.raises(RefusedError, match="500"):
            panel.get_user("alice")


class TestTraces:
    """What revoking, deleting and reminding leave to be seen."""

    def test_revoking_is_an_edit(self, panel):
        panel.create_user("alice")
        panel.revoke_subscription("alice")
        assert panel.users["alice"].edited_at == panel.clock()

    def test_a_user_that_cannot_be_shown_can_be_deleted(self, panel):
        panel.create_user("alice", by="res1")
        panel.users["alice"].created_at = None
        panel.delete_user("alice")
        assert panel.users == {}

    def test_a_deleted_user_leaves_nothing_to_the_next(self):
        panel = new_panel(database="sqlite")
        panel.create_user("alice")
        panel.use_traffic("alice", 5)
        panel.reset_user("alice")
        panel.delete_user("alice", by="root")
        panel.create_user("bob")
        bob = panel.users["bob"]
        assert (bob.id, bob.lifetime_used_traffic) == (2, 0)

    def test_a_reminder_shows_the_subscription(self, panel):
        panel.create_user("alice", data_limit=100)
        panel.use_traffic("alice", 90)
        panel.take_webhooks()
        panel.review()
        [event] = panel.take_webhooks()
        assert event["user"]["subscription_url"].startswith("/sub/")


class TestDialog:
    """Saving the panel's edit dialog."""

    @given(st.integers(min_value=5369, max_value=2**50))
    def test_an_untouched_limit_comes_back_within_half_a_step(self, data_limit):
        panel = new_panel()
        panel.create_user("alice", data_limit=data_limit)
        saved = panel.edit_in_dialog("alice", note="hello")
        assert abs(saved["data_limit"] - data_limit) <= 0.000005 * GIB + 1
        assert panel.edit_in_dialog("alice")["data_limit"] == saved["data_limit"]

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (2**20, 1_052_266),
            (12_345_678_901, 12_345_679_481),
            (10 * GIB, 10 * GIB),
            (16 * 2**20, 16_782_584),
            (5369, 10_737),
            (5368, None),
            (None, None),
        ],
    )
    def test_what_becomes_of_a_limit(self, panel, before, after):
        panel.create_user("alice", data_limit=before)
        assert panel.edit_in_dialog("alice")["data_limit"] == after

    def test_saving_deletes_the_next_plan(self, panel):
        panel.create_user("alice", data_limit=10 * GIB, next_plan=PLAN)
        assert panel.edit_in_dialog("alice", note="x")["next_plan"] is None

    def test_a_typed_limit_is_sent_as_typed(self, panel):
        panel.create_user("alice", data_limit=10 * GIB)
        assert panel.edit_in_dialog("alice", data_limit=GIB // 2)["data_limit"] == GIB // 2

    def test_a_limited_user_stays_limited_and_an_expired_one_is_active_until_reviewed(self, panel):
        panel.create_user("alice", data_limit=GIB)
        panel.use_traffic("alice", 2 * GIB)
        panel.review()
        assert panel.edit_in_dialog("alice")["status"] == "limited"
        panel.create_user("bob", data_limit=GIB, expire=1)
        panel.review()
        assert panel.edit_in_dialog("bob")["status"] == "expired", "its expiry is sent along"

    def test_without_a_limit_the_strategy_goes(self, panel):
        panel.create_user("alice", data_limit=GIB, data_limit_reset_strategy="month")
        assert panel.edit_in_dialog("alice")["data_limit_reset_strategy"] == "month"
        saved = panel.edit_in_dialog("alice", data_limit=0)
        assert (saved["data_limit"], saved["data_limit_reset_strategy"]) == (None, "no_reset")

    def test_a_hold_survives(self, panel):
        panel.create_user("alice", status="on_hold", on_hold_expire_duration=30 * DAY)
        saved = panel.edit_in_dialog("alice", note="x")
        assert (saved["status"], saved["on_hold_expire_duration"]) == ("on_hold", 30 * DAY)


class TestAdmins:
    """Who owns, sees and counts what."""

    def test_reset_all_of_a_database_admin_means_its_own_users(self, panel):
        panel.create_user("alice", data_limit=G)
        panel.create_user("bob", data_limit=G, by="sudo2")
        for name in ("alice", "bob"):
            panel.use_traffic(name, 5)
        panel.reset_all("sudo2")
        assert [user.used_traffic for user in panel.users.values()] == [5, 0]
        panel.reset_all("root")
        assert [user.used_traffic for user in panel.users.values()] == [0, 0]

    def test_reset_all_starts_xray_with_whoever_belongs_into_it(self, panel):
        panel.create_user("alice", data_limit=G, data_limit_reset_strategy="day")
        panel.use_traffic("alice", G)
        panel.review()
        panel.clock.advance(days=1)
        panel.reset_periodic()
        assert not panel.use_traffic("alice", 1)
        panel.reset_all("sudo2")
        assert panel.use_traffic("alice", 1)

    def test_traffic_counts_for_the_owner_and_survives_the_users_reset(self, panel):
        panel.create_user("bob", by="res1")
        panel.use_traffic("bob", 7)
        panel.reset_user("bob")
        panel.use_traffic("bob", 5)
        assert panel.admins["res1"].users_usage == 12
        assert panel.get_user("bob")["admin"]["users_usage"] == 12

    def test_a_bearer_token_lives_as_long_as_told(self):
        panel = new_panel(token_minutes=30)
        token = panel.sign_in("res1", "pw")
        panel.clock.advance(minutes=29)
        assert panel.admin_of(token).username == "res1"
        panel.clock.advance(minutes=1)
        with pytest.raises(RefusedError, match="401"):
            panel.admin_of(token)

    def test_a_token_of_another_panel_is_worth_nothing(self, panel):
        with pytest.raises(RefusedError, match="401"):
            panel.admin_of(new_panel(secret="another").sign_in("root", "pw"))


class TestSubscriptions:
    """Tokens that prove a user."""

    def token(self, panel, username="alice"):
        return panel.get_user(username)["subscription_url"].rpartition("/")[2]

    def test_revoking_ends_tokens_of_earlier_seconds(self, panel):
        panel.create_user("alice")
        token = self.token(panel)
        panel.clock.advance(seconds=1)
        panel.revoke_subscription("alice")
        with pytest.raises(RefusedError, match="404"):
            panel.subscriber(token)
        assert panel.subscriber(self.token(panel)).username == "alice"

    def test_a_recreated_user_has_new_tokens(self, panel):
        panel.create_user("alice")
        token = self.token(panel)
        panel.delete_user("alice")
        panel.clock.advance(seconds=1)
        panel.create_user("alice")
        with pytest.raises(RefusedError, match="404"):
            panel.subscriber(token)

    @given(st.text())
    def test_no_text_is_a_token(self, text):
        with pytest.raises(RefusedError, match="404"):
            new_panel().subscriber(text)

    def test_revoking_makes_new_secrets_and_keeps_the_next_plan(self, panel):
        panel.create_user("alice", data_limit=G, next_plan=PLAN)
        before = panel.get_user("alice")
        after = panel.revoke_subscription("alice")
        assert after["proxies"].keys() == before["proxies"].keys()
        assert after["proxies"] != before["proxies"]
        assert after["links"] != before["links"]
        assert after["next_plan"] == PLAN


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
    st.sampled_from(
        [
            "data_limit",
            "data_limit_reset_strategy",
            "expire",
            "inbounds",
            "next_plan",
            "note",
            "on_hold_expire_duration",
            "on_hold_timeout",
            "proxies",
            "status",
        ]
    ),
)
@settings(max_examples=300)
def test_no_value_of_a_field_surprises_the_panel(value, name):
    panel = new_panel()
    panel.create_user("alice")
    with contextlib.suppress(RefusedError):
        panel.modify_user("alice", {name: value})
    json.dumps(panel.get_user("alice"))


class PanelMachine(RuleBasedStateMachine):
    """Whatever is done to a user, in whatever order."""

    def __init__(self):
        super().__init__()
        self.panel = new_panel()
        self.panel.create_user("alice", data_limit=10 * G, data_limit_reset_strategy="day")
        self.served = 0

    @property
    def user(self):
        return self.panel.users["alice"]

    @rule(count_bytes=st.integers(min_value=0, max_value=6 * G))
    def use(self, count_bytes):
        if self.panel.use_traffic("alice", count_bytes):
            self.served += count_bytes

    @rule(
        body=st.fixed_dictionaries(
            {},
            optional={
                "data_limit": st.integers(min_value=0, max_value=20 * G),
                "status": st.sampled_from(["active", "disabled"]),
                "next_plan": st.just(PLAN | {"add_remaining_traffic": True}),
            },
        )
    )
    def modify(self, body):
        self.panel.modify_user("alice", body)
        assert self.user.in_xray == (self.user.status in {"active", "on_hold"})

    @rule()
    def reset(self):
        self.panel.reset_user("alice")
        assert self.user.used_traffic == 0

    @rule(hours=st.integers(min_value=1, max_value=30))
    def wait(self, hours):
        self.panel.clock.advance(hours=hours)
        self.panel.reset_periodic()

    @rule()
    def review(self):
        assert self.panel.review() is None
        assert not (
            self.user.status == "active"
            and self.user.data_limit
            and self.user.used_traffic >= self.user.data_limit
        )

    @rule()
    def restart(self):
        panel = SimulatedPanel(clock=self.panel.clock)
        restore_snapshot(panel, json.loads(json.dumps(to_snapshot(self.panel))))
        assert panel.users == self.panel.users
        assert panel.admins == self.panel.admins
        self.panel = panel

    @invariant()
    def nothing_is_forgotten(self):
        assert self.user.lifetime_used_traffic == self.served

    @invariant()
    def the_cut_off_are_not_in_xray(self):
        assert not (self.user.in_xray and self.user.status in {"limited", "disabled"})


TestPanelMachine = PanelMachine.TestCase
TestPanelMachine.settings = settings(max_examples=60, stateful_step_count=30)
