"""10 GiB quota, 4 GiB through the panel, 7 GiB external: limited, and usable again after a reset."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from marzban_bridge.panels.users import Status
from marzban_bridge.quota.account import FLOOR_BYTES, GIB, Enforcement
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.webhook_delivery import deliver
from tests.support.bridge.world import World

PLAN = {
    "data_limit": gib(50),
    "expire": 0,
    "add_remaining_traffic": True,
    "fire_on_either": False,
}


@pytest.fixture(params=[False, True], ids=["own quota", "shared quota"])
def world(tmp_path, store_place, request):
    """One panel; that its quotas could span others must make no difference."""
    opened = World(tmp_path, quotas_span_panels=request.param, store=store_place.setting)
    yield opened
    opened.close()


def user_of(world, username="alice"):
    return world.panel.get_user(username)


def used_up(world, *, panel_bytes=gib(4), external_bytes=None, **fields):
    """Make a user, spend its quota and 1 GiB more on both sides, and let the bridge look."""
    if external_bytes is None:
        external_bytes = gib(11) - panel_bytes
    world.panel.create_user("alice", data_limit=gib(10), **fields)
    world.ledger.report("alice", 1)
    world.one_pass()
    if panel_bytes:
        world.panel.use_traffic("alice", panel_bytes)
    world.ledger.report("alice", external_bytes - 1)
    world.one_pass()
    world.panel.review()


def deliver_webhooks(world):
    deliver(world, world.panel.take_webhooks())
    world.one_pass()


def assert_usable(world, *, quota=gib(10), next_plan=None):
    user = user_of(world)
    assert user["status"] == "active"
    assert user["data_limit"] == quota
    assert user["used_traffic"] == 0
    assert user["next_plan"] == next_plan
    assert world.account("alice").quota_bytes == quota
    world.panel.review()
    assert user_of(world)["status"] == "active"
    before = list(world.transport.writes)
    world.one_pass()
    assert world.transport.writes == before, "a settled user is not written to again"


@pytest.mark.parametrize("panel_bytes", [gib(4), 0])
def test_the_panel_cuts_off_a_user_whose_quota_is_used_up(world, panel_bytes):
    used_up(world, panel_bytes=panel_bytes)
    user = user_of(world)
    if panel_bytes:
        assert (user["status"], user["data_limit"]) == ("limited", gib(3))
    else:
        assert (user["status"], user["data_limit"]) == ("disabled", FLOOR_BYTES)
    assert world.account("alice").quota_bytes == gib(10)


@pytest.mark.parametrize("panel_bytes", [gib(4), 0])
@pytest.mark.parametrize("next_plan", [None, PLAN])
class TestResets:
    """Every way to reset a user gives it back, with the quota and the next plan as they were."""

    def test_the_reset_button_with_its_webhook(self, world, panel_bytes, next_plan):
        used_up(
            world,
            panel_bytes=panel_bytes,
            next_plan=next_plan,
        )
        world.panel.reset_user("alice")
        deliver_webhooks(world)
        assert_usable(world, next_plan=next_plan)

    def test_the_reset_button_when_its_webhook_is_lost(self, world, panel_bytes, next_plan):
        used_up(
            world,
            panel_bytes=panel_bytes,
            next_plan=next_plan,
        )
        world.panel.reset_user("alice")
        world.one_pass()
        if panel_bytes:
            assert_usable(world, next_plan=next_plan)
            return
        # Without panel traffic only the webhook tells a reset from a user set active by hand.
        assert (user_of(world)["status"], world.account("alice").baseline_bytes) == ("active", 0)
        world.clock.advance(seconds=61)
        world.one_pass()
        assert user_of(world)["status"] == "disabled"
        deliver_webhooks(world)
        assert_usable(
            world, next_plan=next_plan if next_plan is None else user_of(world)["next_plan"]
        )

    def test_a_reset_of_all_users_which_sends_no_webhook(self, world, panel_bytes, next_plan):
        world.panel.create_user("witness", data_limit=gib(10))
        world.panel.use_traffic("witness", gib(1))
        world.ledger.report("witness", gib(1))
        used_up(
            world,
            panel_bytes=panel_bytes,
            next_plan=next_plan,
        )
        world.panel.reset_all("root")
        world.one_pass()
        world.one_pass()
        assert_usable(world, next_plan=next_plan)

    def test_the_monthly_strategy_which_sends_no_webhook(self, world, panel_bytes, next_plan):
        used_up(
            world,
            panel_bytes=panel_bytes,
            next_plan=next_plan,
            data_limit_reset_strategy="month",
        )
        world.clock.advance(days=30, minutes=-6)
        world.one_pass()
        assert user_of(world)["status"] in {"limited", "disabled"}
        world.clock.advance(minutes=7)
        world.panel.reset_periodic()
        world.one_pass()
        assert_usable(world, next_plan=next_plan)

    def test_our_own_api(self, world, panel_bytes, next_plan):
        used_up(
            world,
            panel_bytes=panel_bytes,
            next_plan=next_plan,
        )
        world.run(world.bridge.actions.reset_user("alice", actor="root"))
        assert_usable(world, next_plan=next_plan)

    def test_our_own_reset_of_all_users(self, world, panel_bytes, next_plan):
        used_up(
            world,
            panel_bytes=panel_bytes,
            next_plan=next_plan,
        )
        caller = world.run(world.bridge.panel.whoami())
        world.run(world.bridge.actions.reset_all(bearer=None, caller=caller))
        world.one_pass()
        assert_usable(world, next_plan=next_plan)


@pytest.mark.parametrize("panel_bytes", [gib(4), 0])
@pytest.mark.parametrize("adds_remaining", [True, False])
def test_a_next_plan_fires_at_the_crossing(world, panel_bytes, adds_remaining):
    """Its limit is the new quota, with what remained of the old one: here an overrun of 1 GiB."""
    plan = PLAN | {"fire_on_either": True, "add_remaining_traffic": adds_remaining}
    used_up(world, panel_bytes=panel_bytes, next_plan=plan)
    world.one_pass()
    assert_usable(world, quota=gib(50) if adds_remaining else gib(49))


@pytest.mark.parametrize("way", ["reseller", "by hand"])
def test_a_user_let_in_by_hand_is_forgiven_nothing(world, way):
    """Neither by the switch for all of a reseller's users, nor in the dialog."""
    world.panel.add_admin("shop", password="x")
    world.panel.create_user("alice", data_limit=gib(10), by="shop")
    world.ledger.report("alice", gib(12))
    world.one_pass()
    assert user_of(world)["status"] == "disabled"
    if way == "reseller":
        world.panel.disable_users_of("shop")
        world.one_pass()
        world.panel.activate_users_of("shop")
    else:
        world.panel.modify_user("alice", {"status": "active"})
    world.one_pass()
    assert user_of(world)["status"] == "active"
    assert world.bridge.store.events.newest(username="alice")[0].event.kind == "let_in"
    world.clock.advance(seconds=61)
    world.one_pass()
    account = world.account("alice")
    assert (user_of(world)["status"], account.is_disabled_by_us) == ("disabled", True)
    assert (account.baseline_bytes, account.quota_bytes) == (0, gib(10))


def test_a_reset_of_all_users_is_noticed_of_one_who_used_more_within_a_poll(world):
    for name in ("alice", "witness"):
        world.panel.create_user(name, data_limit=gib(10))
        world.panel.use_traffic(name, gib(1))
        world.ledger.report(name, gib(2))
    world.one_pass()
    world.panel.reset_all("root")
    world.panel.use_traffic("alice", gib(3))
    world.one_pass()
    world.one_pass()
    for name, used in (("alice", gib(3)), ("witness", 0)):
        assert world.account(name).baseline_bytes == gib(2), name
        assert user_of(world, name)["data_limit"] == gib(10)
        assert user_of(world, name)["used_traffic"] == used


@pytest.mark.parametrize("adds_remaining", [True, False])
def test_a_next_plan_fired_by_hand_for_a_disabled_user_without_panel_traffic(world, adds_remaining):
    plan = PLAN | {"add_remaining_traffic": adds_remaining}
    used_up(world, panel_bytes=0, external_bytes=gib(10.5), next_plan=plan)
    assert user_of(world)["status"] == "disabled"
    world.panel.fire_next_plan("alice")
    world.one_pass()
    account, user = world.account("alice"), user_of(world)
    assert account.quota_bytes == (gib(50) if adds_remaining else gib(49.5))
    assert account.baseline_bytes == gib(10.5)
    assert user["status"] == "active"
    # The panel added the rest of what was published; lowering that waits for its step.
    assert 0 <= user["data_limit"] - account.quota_bytes <= gib(0.5) + FLOOR_BYTES


def test_a_monthly_user_without_any_traffic_in_the_panel_begins_anew_by_the_calendar(world):
    used_up(world, panel_bytes=0, external_bytes=gib(5), data_limit_reset_strategy="month")
    world.clock.advance(days=30)
    world.panel.reset_periodic()
    world.one_pass()
    world.clock.advance(hours=1, minutes=6)
    world.one_pass()
    assert_usable(world)


@pytest.mark.parametrize("way", ["button", "all", "periodic", "ours"])
@pytest.mark.parametrize("panel_bytes", [gib(1), 0])
def test_a_user_whom_an_admin_disabled_is_never_brought_back_by_us(world, way, panel_bytes):
    world.panel.create_user("alice", data_limit=gib(10), data_limit_reset_strategy="month")
    world.ledger.report("alice", gib(2))
    world.one_pass()
    if panel_bytes:
        world.panel.use_traffic("alice", panel_bytes)
    world.panel.modify_user("alice", {"status": "disabled"})
    world.ledger.report("alice", gib(12))
    world.one_pass()
    writes = [write for write in world.transport.writes if write[0] == "PUT"]
    match way:
        case "ours":
            world.run(world.bridge.actions.reset_user("alice", actor="root"))
            assert user_of(world)["status"] == "disabled"
            return
        case "all":
            world.panel.reset_all("root")
        case "periodic":
            world.clock.advance(days=31)
            world.panel.reset_periodic()
        case "button":
            # Marzban itself makes the user active here; that is its admin's doing, not ours.
            pass
    world.one_pass()
    world.clock.advance(hours=2)
    world.one_pass()
    assert user_of(world)["status"] == "disabled"
    assert [write for write in world.transport.writes if write[0] == "PUT"] == writes


def test_the_edit_dialogs_rounding_does_not_drift(world):
    quota = 12_345_678_901
    world.panel.create_user("alice", data_limit=quota)
    world.panel.use_traffic("alice", gib(1))
    world.ledger.report("alice", gib(2))
    world.one_pass()
    for number in range(20):
        world.panel.edit_in_dialog("alice", note=f"edit {number}")
        world.one_pass()
    assert world.account("alice").quota_bytes == quota
    assert abs(user_of(world)["data_limit"] - (quota - gib(2))) <= 16 * 1024


def test_the_edit_dialog_of_a_limited_user_does_not_let_it_in(world):
    used_up(world)
    world.panel.edit_in_dialog("alice", note="hello")
    world.one_pass()
    world.panel.review()
    assert user_of(world)["status"] == "limited"
    assert world.account("alice").quota_bytes == gib(10)


@pytest.mark.parametrize("panel_bytes", [gib(4), 0])
def test_a_real_edit_of_the_quota_is_honoured(world, panel_bytes):
    used_up(world, panel_bytes=panel_bytes)
    world.panel.edit_in_dialog("alice", data_limit=20 * GIB)
    world.one_pass()
    user = user_of(world)
    assert user["status"] == "active"
    assert user["data_limit"] == gib(20) - (gib(11) - panel_bytes)
    assert world.account("alice").quota_bytes == gib(20)


def test_a_quota_that_becomes_unlimited_lets_the_user_in(world):
    used_up(world, panel_bytes=0, external_bytes=gib(11))
    world.panel.modify_user("alice", {"data_limit": 0})
    world.one_pass()
    user = user_of(world)
    assert (user["status"], user["data_limit"]) == ("active", None)


def test_a_recreated_user_begins_with_nothing_used(world):
    used_up(world)
    world.panel.delete_user("alice")
    world.one_pass()
    assert [each.username for each in world.bridge.store.unknown_names.all()] == ["alice"]
    world.clock.advance(seconds=5)
    world.panel.create_user("alice", data_limit=gib(3))
    world.one_pass()
    assert user_of(world)["data_limit"] == gib(3)
    account = world.account("alice")
    assert (account.username, account.quota_bytes) == ("alice", gib(3))
    assert world.ledger.total_bytes("alice") == account.baseline_bytes


def test_a_name_the_panel_does_not_know_is_an_orphan_until_the_user_appears(world):
    world.ledger.report("bob", gib(9))
    world.one_pass()
    assert world.bridge.store.counts()["unknown_names"] == 1
    world.panel.create_user("bob", data_limit=gib(10))
    world.one_pass()
    world.ledger.report("bob", gib(4))
    world.one_pass()
    assert user_of(world, "bob")["data_limit"] == gib(6)
    assert world.bridge.store.counts()["unknown_names"] == 0


def test_a_user_on_hold_is_counted_and_stays_on_hold(world):
    world.panel.create_user(
        "alice", data_limit=gib(10), status="on_hold", on_hold_expire_duration=86400
    )
    world.ledger.report("alice", gib(12))
    world.one_pass()
    assert user_of(world)["status"] == "on_hold"
    world.run(world.bridge.actions.reset_user("alice", actor="root"))
    user = user_of(world)
    assert (user["status"], user["on_hold_expire_duration"]) == ("on_hold", 86400)


def test_a_reset_gives_a_formerly_limited_user_its_place_in_xray_back(world):
    """Marzban's periodic job leaves it out; our restoring write re-adds it."""
    used_up(world, data_limit_reset_strategy="month")
    world.clock.advance(days=30, minutes=1)
    world.panel.reset_periodic()
    assert not world.panel.users["alice"].in_xray
    world.one_pass()
    assert world.panel.users["alice"].in_xray


def test_writes_per_period_are_few_however_many_reports_arrive(world):
    world.panel.create_user("alice", data_limit=gib(10))
    world.panel.use_traffic("alice", gib(1))
    for _ in range(300):
        world.ledger.report("alice", 32 * 1024 * 1024)
        world.one_pass()
    puts = [write for write in world.transport.writes if write[0] == "PUT"]
    assert user_of(world)["status"] == "limited"
    assert len(puts) <= 77 + 20 + 1


def test_a_panel_that_is_down_is_taken_up_again_where_it_was_left(world):
    world.panel.create_user("alice", data_limit=gib(10))
    world.panel.use_traffic("alice", gib(4))
    world.ledger.report("alice", gib(7))
    world.transport.is_down = True
    with pytest.raises(Exception, match="the panel is down"):
        world.run(world.bridges.run_once())
    world.restart()
    world.transport.is_down = False
    world.one_pass()
    assert user_of(world)["status"] == "limited"


def test_observing_changes_nothing(tmp_path):
    world = World(tmp_path, enforcement=Enforcement.OBSERVE)
    try:
        used_up(world)
        assert user_of(world)["data_limit"] == gib(10)
        assert [write for write in world.transport.writes if write[0] == "PUT"] == []
    finally:
        world.close()


def test_releasing_gives_everybody_the_admins_quota_back(world):
    used_up(world, panel_bytes=0, external_bytes=gib(11))
    world.panel.create_user("bob", data_limit=gib(8))
    world.panel.use_traffic("bob", gib(1))
    world.ledger.report("bob", gib(4))
    world.one_pass()

    async def release():
        return [
            account.username async for account, wrote in world.bridge.actions.release() if wrote
        ]

    assert world.run(release()) == ["alice", "bob"]
    assert (user_of(world)["status"], user_of(world)["data_limit"]) == ("active", gib(10))
    assert user_of(world, "bob")["data_limit"] == gib(8)


def test_a_ledger_that_lost_something_changes_nothing_until_rebase(world):
    used_up(world)
    world.ledger.totals["alice"] = (gib(2), gib(1), world.ledger.seq + 1)
    world.ledger.seq += 1
    world.one_pass()
    assert world.account("alice").is_held
    assert user_of(world)["status"] == "limited"
    world.run(world.bridges.rebase(actor="root"))
    account = world.account("alice")
    assert not account.is_held
    assert gib(2) - account.baseline_bytes == gib(7), "the usage is what it was"
    assert gib(1) - account.raw_baseline_bytes == gib(7), "and so are its raw bytes"
    world.one_pass()
    assert user_of(world)["status"] == "limited"


def test_a_second_reset_of_all_users_is_noticed_as_well_as_the_first(world):
    world.panel.create_user("zoe", data_limit=gib(10))
    for number in (1, 2):
        world.panel.use_traffic("zoe", gib(1))
        world.ledger.report("zoe", gib(1))
        if number == 1:
            used_up(world, panel_bytes=0, external_bytes=gib(11))
        else:
            world.ledger.report("alice", gib(11))
            world.one_pass()
        assert user_of(world)["status"] == "disabled"
        world.panel.reset_all("root")
        world.one_pass()
        world.one_pass()
        assert_usable(world)


def test_what_was_read_before_a_reset_is_not_taken_for_news_after_it(world):
    """A page of users may be older than the reset that was carried out while it was on its way."""
    used_up(world)
    read_at = time.monotonic()
    old = world.run(world.bridge.panel.get_user("alice"))
    world.run(world.bridge.actions.reset_user("alice", actor="root"))
    world.ledger.report("alice", gib(1))
    world.one_pass()
    baseline = world.account("alice").baseline_bytes
    world.run(world.bridge.settler.settle("alice", old, read_at=read_at))
    assert world.account("alice").baseline_bytes == baseline
    assert world.account("alice").sighting.used_bytes == 0
    assert world.bridge.store.reset_news.of_everybody(None) is None


def test_another_ledger_stops_the_bridge_until_rebase(world):
    used_up(world)
    world.ledger.ledger_id = "ledger-2"
    world.ledger.totals = {"alice": (gib(1), gib(1), 1)}
    world.ledger.seq = 1
    with pytest.raises(Exception, match="another ledger"):
        world.run(world.bridges.run_once())
    world.run(world.bridges.rebase(actor="root"))
    world.one_pass()
    assert user_of(world)["status"] == Status.LIMITED
    world.clock.advance(seconds=1)
    assert world.clock() - world.account("alice").sighting.seen_at <= timedelta(seconds=1)


@pytest.mark.parametrize("panel_bytes", [gib(4), 0])
def test_a_bridge_that_dies_right_after_its_write_knows_it_for_its_own(world, panel_bytes):
    world.panel.create_user("alice", data_limit=gib(10))
    world.ledger.report("alice", 1)
    world.one_pass()
    if panel_bytes:
        world.panel.use_traffic("alice", panel_bytes)
    for external_bytes in (gib(3), gib(9)):
        world.ledger.report("alice", external_bytes)
        world.transport.crash_after_writes = 1
        world.one_pass()
        assert world.transport.crash_after_writes is None, "the write must have happened"
        assert world.account("alice").quota_bytes == gib(10)
    assert world.account("alice").is_disabled_by_us == (not panel_bytes)
    world.transport.crash_after_writes = 1
    world.panel.edit_in_dialog("alice", data_limit=gib(40))
    world.one_pass()
    account = world.account("alice")
    assert (account.quota_bytes, account.is_disabled_by_us) == (gib(40), False)
    assert account.baseline_bytes == 0, "letting a user in by ourselves is no reset"
    assert user_of(world)["status"] == "active"
