"""The users of a reseller whose quota is used up and enforced are cut off, and let in again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from marzban_bridge.errors import PanelError
from marzban_bridge.panels.users import Status
from marzban_bridge.quota.account import Enforcement
from marzban_bridge.quota.resellers.reseller import ResellerChange, ResellerReset
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.panels_world import PanelsWorld
from tests.support.bridge.resellers import (
    add_resellers,
    kinds,
    move,
    set_quota,
    status,
    use,
    used,
)
from tests.support.bridge.webhook_delivery import deliver
from tests.support.bridge.world import World


def opened_world(folder, kind="marzban", **settings):
    world = World(folder, kind=kind, **settings)
    add_resellers(world, "shop", "mart")
    world.panel.create_user("alice", by="shop", data_limit=gib(100))
    world.panel.create_user("bob", by="shop")
    world.panel.create_user("eve", by="mart", data_limit=gib(100))
    return world


@pytest.fixture
def world(tmp_path):
    world = opened_world(tmp_path)
    yield world
    world.close()


@pytest.fixture(params=["marzban", "pasarguard"])
def either(tmp_path, request):
    world = opened_world(tmp_path, request.param)
    yield world
    world.close()


@pytest.fixture
def stored(tmp_path, store_place):
    """A world on either engine of the store."""
    world = opened_world(tmp_path, store=store_place.setting)
    yield world
    world.close()


def cross(world, *, external=6):
    """Use 10 GiB of the shop's enforced quota of 10."""
    set_quota(world, "shop", 10, is_enforced=True)
    use(world, "bob", panel=10 - external, external=external)
    world.panel.review()


def statuses(world):
    return [status(world, name) for name in ("alice", "bob", "eve")]


CUT_OFF = ["disabled", "disabled", "active"]
LET_IN = ["active", "active", "active"]


def assert_settled(world):
    """A pass writes nothing to the panel."""
    before = list(world.transport.writes)
    world.one_pass()
    assert world.transport.writes == before


def test_crossing_cuts_off_all_of_its_users_and_of_no_one_elses(either):
    cross(either)
    assert statuses(either) == CUT_OFF
    assert either.panel.get_user("alice")["data_limit"] == gib(100), "the limit stays as typed"
    assert either.panel.get_user("bob")["data_limit"] in {None, 0}
    assert not either.panel.use_traffic("alice", 1)
    assert_settled(either)


def test_without_enforcement_it_is_shown_and_told_alone(either):
    set_quota(either, "shop", 10)
    use(either, "bob", panel=5, external=6)
    assert statuses(either) == LET_IN
    assert "reseller_over" in kinds(either)
    assert not [path for method, path in either.transport.writes if method == "PUT"]


@pytest.mark.parametrize("by", ["reset", "raise", "unset", "no enforcement"])
def test_all_are_let_in_again(either, by):
    cross(either)
    if by == "reset":
        either.bridge.resellers.reset("shop", actor="test")
    elif by == "unset":
        either.bridge.resellers.unset("shop", actor="test")
    elif by == "raise":
        set_quota(either, "shop", 20)
    else:
        set_quota(either, "shop", is_enforced=False)
    either.one_pass()
    assert statuses(either) == LET_IN
    assert either.panel.use_traffic("alice", 1)
    assert either.panel.get_user("alice")["data_limit"] == gib(100)
    assert either.account("alice").quota_bytes == gib(100)
    assert_settled(either)


def test_a_new_period_lets_all_in(world):
    set_quota(world, "shop", 10, is_enforced=True, reset=ResellerReset.DAY)
    use(world, "bob", external=11)
    assert statuses(world) == CUT_OFF
    world.clock.advance(days=1)
    world.one_pass()
    assert statuses(world) == LET_IN
    assert used(world, "shop") == 0


def test_users_whom_the_admin_disabled_stay_as_they_are(either):
    either.panel.modify_user("alice", {"status": "disabled"})
    cross(either)
    either.bridge.resellers.reset("shop", actor="test")
    either.one_pass()
    assert statuses(either) == ["disabled", "active", "active"]


def test_users_on_hold_and_expired_are_left_alone_until_they_are_active(world):
    world.panel.create_user(
        "hold", by="shop", status="on_hold", on_hold_expire_duration=86400, data_limit=gib(5)
    )
    expires_at = int((world.clock() + timedelta(seconds=5)).timestamp())
    world.panel.create_user("old", by="shop", expire=expires_at)
    world.clock.advance(seconds=10)
    world.panel.review()
    cross(world)
    assert (status(world, "hold"), status(world, "old")) == ("on_hold", "expired")
    world.panel.find("hold").status = Status.ACTIVE
    world.one_pass()
    assert status(world, "hold") == "disabled"


def test_a_user_over_its_own_limit_is_not_let_in_by_a_raised_one(world):
    world.panel.modify_user("alice", {"data_limit": gib(2)})
    set_quota(world, "shop", 10, is_enforced=True)
    use(world, "alice", panel=2)
    world.panel.review()
    use(world, "bob", external=9)
    assert statuses(world) == ["limited", "disabled", "active"]
    world.panel.modify_user("alice", {"data_limit": gib(50)})
    world.one_pass()
    assert status(world, "alice") == "disabled"
    world.bridge.resellers.reset("shop", actor="test")
    world.one_pass()
    assert statuses(world) == LET_IN
    assert world.panel.get_user("alice")["data_limit"] == gib(50)


def test_a_user_used_up_on_its_own_stays_cut_off_when_the_reseller_is_not(world):
    world.panel.modify_user("alice", {"data_limit": gib(2)})
    set_quota(world, "shop", 10, is_enforced=True)
    use(world, "alice", external=3)
    use(world, "bob", external=8)
    world.bridge.resellers.reset("shop", actor="test")
    world.one_pass()
    assert statuses(world) == ["disabled", "active", "active"]
    world.run(world.bridge.actions.reset_user("alice", actor="test"))
    assert statuses(world) == LET_IN


def test_the_admins_edits_of_a_cut_off_user_count_and_open_nothing(either):
    cross(either)
    either.panel.modify_user("alice", {"data_limit": gib(30)})
    either.one_pass()
    assert status(either, "alice") == "disabled"
    assert either.account("alice").quota_bytes == gib(30)
    either.bridge.resellers.reset("shop", actor="test")
    either.one_pass()
    assert statuses(either) == LET_IN
    assert either.panel.get_user("alice")["data_limit"] == gib(30)


@pytest.mark.parametrize("by", ["edit", "all of the admin's"])
def test_a_user_whom_an_admin_makes_active_is_cut_off_again_in_a_minute(world, by):
    cross(world)
    if by == "edit":
        world.panel.modify_user("alice", {"status": "active"})
    else:
        world.panel.activate_users_of("shop")
    world.one_pass()
    assert status(world, "alice") == "active"
    texts = [each.event.text for each in world.bridge.store.events.newest(limit=5)]
    assert any("resellers reset shop" in text for text in texts)
    world.clock.advance(seconds=61)
    world.one_pass()
    assert statuses(world) == CUT_OFF


@pytest.mark.parametrize("by", ["button", "bridge", "all"])
def test_a_reset_of_a_user_does_not_let_it_in(either, by):
    cross(either)
    if by == "button":
        either.panel.reset_user("bob")
        deliver(either, either.panel.take_webhooks())
    elif by == "all":
        either.panel.reset_all()
    else:
        either.run(either.bridge.actions.reset_user("bob", actor="test"))
    either.one_pass()
    either.clock.advance(seconds=61)
    either.one_pass()
    assert statuses(either) == CUT_OFF
    assert used(either, "shop") == 10
    either.bridge.resellers.reset("shop", actor="test")
    either.one_pass()
    assert statuses(either) == LET_IN


def test_a_cut_off_users_own_periodic_reset_is_made_up_for(world):
    world.panel.create_user("daily", by="shop", data_limit=gib(5), data_limit_reset_strategy="day")
    set_quota(world, "shop", 10, is_enforced=True)
    use(world, "daily", panel=1, external=1)
    use(world, "bob", external=9)
    assert status(world, "daily") == "disabled"
    world.clock.advance(days=1, seconds=60)
    world.panel.reset_periodic()
    world.one_pass()
    assert world.panel.get_user("daily")["used_traffic"] == 0
    assert status(world, "daily") == "disabled"
    world.bridge.resellers.reset("shop", actor="test")
    world.one_pass()
    assert status(world, "daily") == "active"
    assert used(world, "shop") == 0


def test_a_next_plan_waits_until_the_user_is_let_in(world):
    plan = {
        "data_limit": gib(50),
        "expire": 0,
        "add_remaining_traffic": True,
        "fire_on_either": True,
    }
    world.panel.modify_user("alice", {"data_limit": gib(2), "next_plan": plan})
    set_quota(world, "shop", 4, is_enforced=True)
    world.ledger.report("alice", gib(5))
    world.one_pass()
    world.one_pass()
    cut_off = world.panel.get_user("alice")
    assert (cut_off["status"], cut_off["next_plan"] is None) == ("disabled", False)
    world.bridge.resellers.reset("shop", actor="test")
    world.one_pass()
    assert status(world, "alice") == "active"
    assert world.panel.get_user("alice")["data_limit"] == gib(50)


def test_a_user_who_is_moved_away_while_cut_off_is_let_in_and_one_who_is_moved_here_is_not(either):
    cross(either)
    move(either, "alice", "mart")
    move(either, "eve", "shop")
    either.one_pass()
    either.one_pass()
    assert statuses(either) == ["active", "disabled", "disabled"]
    assert_settled(either)


def test_a_deleted_user_comes_back_cut_off_and_is_let_in(world):
    cross(world)
    gone = world.panel.users.pop("alice")
    world.one_pass()
    world.panel.users["alice"] = gone
    world.one_pass()
    assert status(world, "alice") == "disabled"
    world.bridge.resellers.unset("shop", actor="test")
    world.one_pass()
    assert statuses(world) == LET_IN


@pytest.mark.parametrize("is_letting_in", [False, True])
@pytest.mark.parametrize("after_writes", [1, 2])
def test_a_crash_after_a_write_and_before_it_is_stored(stored, after_writes, is_letting_in):
    set_quota(stored, "shop", 10, is_enforced=True)
    use(stored, "bob", panel=4)
    if is_letting_in:
        use(stored, "bob", external=6)
        stored.bridge.resellers.reset("shop", actor="test")
    else:
        stored.ledger.report("bob", gib(6))
    stored.transport.crash_after_writes = after_writes
    stored.one_pass()
    stored.one_pass()
    assert statuses(stored) == (LET_IN if is_letting_in else CUT_OFF)
    assert used(stored, "shop") == (0 if is_letting_in else 10)
    stored.bridge.resellers.unset("shop", actor="test")
    stored.one_pass()
    assert statuses(stored) == LET_IN
    assert_settled(stored)


@pytest.mark.parametrize("kind", ["marzban", "pasarguard"])
def test_a_write_that_lands_late_is_taken_for_none_of_the_admins(tmp_path, kind):
    world = opened_world(tmp_path, kind)
    set_quota(world, "shop", 10, is_enforced=True)
    world.ledger.report("bob", gib(11))
    world.transport.delayed_writes = 1
    with pytest.raises(PanelError):
        world.run(world.bridges.run_once())
    world.bridge.resellers.reset("shop", actor="test")
    world.run(world.transport.carry_out_delayed())
    world.clock.advance(minutes=5)
    world.one_pass()
    world.one_pass()
    assert statuses(world) == LET_IN
    world.close()


def test_a_panel_that_is_down_at_the_crossing_is_made_up_for(world):
    set_quota(world, "shop", 10, is_enforced=True)
    world.ledger.report("bob", gib(11))
    world.transport.is_down = True
    with pytest.raises(PanelError):
        world.run(world.bridges.run_once())
    world.transport.is_down = False
    world.restart()
    world.one_pass()
    assert statuses(world) == CUT_OFF


def test_observing_changes_nothing(tmp_path):
    world = opened_world(tmp_path, enforcement=Enforcement.OBSERVE)
    cross(world)
    assert statuses(world) == LET_IN
    assert used(world, "shop") == 10
    world.close()


def test_a_release_lets_all_in(world):
    cross(world)

    async def release():
        return [each async for each in world.bridges.release()]

    world.run(release())
    assert statuses(world) == LET_IN


def test_a_reseller_whom_pasarguard_itself_stops_is_counted_and_let_in_all_the_same(tmp_path):
    world = opened_world(tmp_path, "pasarguard")
    set_quota(world, "shop", 10, is_enforced=True)
    shop = world.panel.find_admin("shop")
    shop.data_limit = gib(1)
    use(world, "bob", panel=2)
    world.panel.review()
    use(world, "alice", external=9)
    assert used(world, "shop") == 11
    assert status(world, "eve") == "active"
    cut_off = statuses(world)
    world.bridge.resellers.reset("shop", actor="test")
    world.one_pass()
    assert cut_off == CUT_OFF
    assert statuses(world) == LET_IN
    world.close()


def test_an_admin_disables_all_its_users_while_they_are_cut_off_or_not(world):
    """Whom the panel shows disabled already stays disabled by the bridge, which lets it in."""
    set_quota(world, "shop", 10, is_enforced=True)
    world.panel.disable_users_of("shop")
    use(world, "bob", external=11)
    assert statuses(world) == CUT_OFF
    world.bridge.resellers.reset("shop", actor="test")
    world.one_pass()
    assert statuses(world) == CUT_OFF, "the admin disabled them"


class TestTwoPanels:
    """An admin of each panel is a reseller of its own, though they have one name."""

    @pytest.fixture(params=[False, True], ids=["own quotas", "shared quotas"])
    def panels(self, tmp_path, request):
        world = PanelsWorld(tmp_path, "two", spans=request.param)
        for panel in world.panels.values():
            panel.add_admin("shop", password="a-password")
        world.create("default", "alice", limit=100, by="shop")
        world.create("two", "alice", limit=100, by="shop")
        world.create("two", "bob", limit=100, by="shop")
        yield world
        world.close()

    def test_each_counts_and_cuts_off_its_own(self, panels):
        for name in panels.panels:
            bridge = panels.bridge(name)
            change = ResellerChange(quota_bytes=gib(10), is_enforced=True)
            panels.run(bridge.resellers.set("shop", change, actor="test"))
        panels.look(2)
        panels.use("default", 4)
        panels.use("two", 3)
        panels.ledger.report("default/alice", gib(5))
        panels.ledger.report("two/alice", gib(8))
        panels.look(2)
        used_bytes = {
            name: panels.bridge(name).store.resellers.get("shop").used_bytes
            for name in panels.panels
        }
        assert used_bytes == {"default": gib(9), "two": gib(11)}
        assert [
            panels.shown("default")[0],
            panels.shown("two")[0],
            panels.shown("two", "bob")[0],
        ] == ["active", "disabled", "disabled"]
        panels.restart()
        panels.bridge("two").resellers.reset("shop", actor="test")
        panels.look(2)
        assert panels.shown("two")[0] == panels.shown("two", "bob")[0] == "active"
