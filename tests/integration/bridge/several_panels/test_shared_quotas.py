"""One quota over several panels: all traffic of one name counts, wherever it was, and resets are one."""

from __future__ import annotations

import pytest

from marzban_bridge.quota.account import FLOOR_BYTES, Enforcement
from tests.support.bridge.bridge_builders import gib

FLOOR = FLOOR_BYTES / gib(1)


@pytest.fixture
def world(opened):
    world = opened("two", "three", spans=True)
    world.create("default", limit=10)
    world.create("two", limit=20)
    world.ledger.report("alice", 1)
    world.look(2)
    return world


def used(world, panel):
    account = world.account(panel)
    return world.external(panel) + account.sighting.used_bytes


def writes(world, panel):
    return [path for method, path in world.transports[panel].writes if method == "PUT"]


def resets(world, panel):
    return [path for _, path in world.transports[panel].writes if path.endswith("/reset")]


def test_the_quota_is_the_first_panels_and_the_other_is_told_what_is_left_of_it(world):
    world.ledger.report("alice", gib(1) - 1)
    world.use("default", 2)
    world.use("two", 3)
    world.look(3)
    assert world.account("two").quota_bytes == world.account("default").quota_bytes == gib(10)
    assert world.shown("default") == ("active", pytest.approx(10 - 1 - 3))
    assert world.shown("two") == ("active", pytest.approx(10 - 1 - 2))
    assert used(world, "default") == used(world, "two") == gib(6)
    assert world.account("three") is None


def test_all_are_limited_when_the_sum_crosses(world):
    world.use("default", 4)
    world.use("two", 3)
    world.look(3)
    for panel in ("default", "two"):
        world.panels[panel].review()
        assert world.shown(panel)[0] == "active"
    world.ledger.report("two/alice", gib(3))
    world.look(2)
    for panel in ("default", "two"):
        world.panels[panel].review()
        assert world.shown(panel)[0] == "limited"
    settled = {panel: len(writes(world, panel)) for panel in ("default", "two")}
    world.look(3)
    assert {panel: len(writes(world, panel)) for panel in settled} == settled


def test_a_user_without_traffic_on_a_panel_is_disabled_there(world):
    world.use("default", 11)
    world.look(3)
    world.panels["default"].review()
    assert world.shown("default")[0] == "limited"
    assert world.shown("two") == ("disabled", pytest.approx(FLOOR))


@pytest.mark.parametrize("panel", ["default", "two"])
@pytest.mark.parametrize("way", ["button", "all", "api"])
def test_a_reset_on_one_panel_is_one_on_all_of_them_once(world, panel, way):
    world.use("default", 4)
    world.use("two", 3)
    world.ledger.report("alice", gib(4))
    world.look(3)
    for each in ("default", "two"):
        world.panels[each].review()
        assert world.shown(each)[0] == "limited"
        world.transports[each].writes.clear()
    if way == "button":
        world.panels[panel].reset_user("alice")
    elif way == "all":
        world.panels[panel].reset_all("root")
    else:
        world.run(world.bridge(panel).actions.reset_user("alice", actor="root"))
    world.look(4)
    other = "two" if panel == "default" else "default"
    for each in ("default", "two"):
        assert world.panels[each].get_user("alice")["used_traffic"] == 0
        assert world.shown(each) == ("active", pytest.approx(10))
        assert used(world, each) == 0
        assert world.account(each).quota_bytes == gib(10)
    assert len(resets(world, other)) == 1
    assert len(resets(world, panel)) == (1 if way == "api" else 0)
    world.look(3)
    assert len(resets(world, other)) == 1, "and no echo of it comes back"
    assert world.shown("default")[0] == world.shown("two")[0] == "active"


def test_a_panel_that_was_down_at_the_reset_follows_and_what_was_used_since_counts(world):
    world.use("default", 2)
    world.use("two", 3)
    world.look(2)
    world.transports["two"].is_down = True
    world.panels["default"].reset_user("alice")
    world.look()
    world.use("default", 1)
    world.use("two", 2)
    world.ledger.report("alice", gib(1))
    world.look(2)
    assert used(world, "default") == gib(2), "nobody knows yet of what panel two counted"
    world.transports["two"].is_down = False
    world.look(4)
    assert world.panels["two"].get_user("alice")["used_traffic"] == 0
    assert used(world, "default") == used(world, "two") == gib(4)
    assert world.shown("two") == ("active", pytest.approx(10 - 4))
    assert world.shown("default") == ("active", pytest.approx(10 - 3))


@pytest.mark.parametrize("panel", ["default", "two"])
def test_a_quota_set_on_any_panel_is_the_quota(world, panel):
    world.use("two", 3)
    world.look(2)
    world.panels[panel].modify_user("alice", {"data_limit": gib(30)})
    world.look(3)
    for each in ("default", "two"):
        assert world.account(each).quota_bytes == gib(30)
    assert world.shown("default") == ("active", pytest.approx(27))
    assert world.shown("two") == ("active", pytest.approx(30))
    world.look(3)
    assert world.account("default").quota_bytes == gib(30)


def test_the_dialog_saved_without_a_change_sets_nothing(world):
    world.use("two", 3)
    world.look(3)
    for panel in ("default", "two"):
        world.panels[panel].edit_in_dialog("alice", note="touched")
    world.look(3)
    assert world.account("default").quota_bytes == world.account("two").quota_bytes == gib(10)


def test_a_panel_that_shows_no_limit_gets_what_is_left_of_the_quota(world):
    world.create("three", limit=None)
    world.use("default", 2)
    world.look(3)
    assert world.account("three").quota_bytes == gib(10)
    assert world.shown("three") == ("active", pytest.approx(8))
    world.panels["three"].modify_user("alice", {"data_limit": 0})
    world.look(3)
    assert world.account("default").quota_bytes is None, "whoever takes the limit away means it"


def test_a_crash_between_taking_the_quota_and_publishing_it_is_no_edit(opened):
    world = opened("two", spans=True)
    world.create("default", limit=10)
    world.create("two", limit=None)
    world.ledger.report("alice", 1)
    world.transports["two"].is_down = True
    world.look(2)
    world.transports["two"].is_down = False
    world.transports["two"].crash_after_writes = 1
    world.look(3)
    assert world.account("two").quota_bytes == world.account("default").quota_bytes == gib(10)
    assert world.shown("two") == ("active", pytest.approx(10))


def test_without_a_quota_a_limit_on_another_panel_is_left_to_that_panel(opened):
    world = opened("two", spans=True)
    world.create("default", limit=None)
    world.create("two", limit=20)
    world.ledger.report("alice", gib(1))
    world.look(4)
    assert world.account("default").quota_bytes is None
    assert world.account("two").quota_bytes is None
    assert world.shown("two") == ("active", 20)
    assert world.shown("default") == ("active", None)


def test_a_first_panel_that_was_down_has_its_word_once_it_is_back(opened):
    world = opened("two", spans=True)
    world.create("default", limit=10)
    world.create("two", limit=20)
    world.transports["default"].is_down = True
    world.ledger.report("alice", gib(1))
    world.look(2)
    assert world.account("two").quota_bytes == gib(20)
    world.transports["default"].is_down = False
    world.look(4)
    assert world.account("two").quota_bytes == world.account("default").quota_bytes == gib(10)
    assert world.shown("two") == ("active", 9)


def test_a_deleted_user_leaves_what_it_used_and_comes_back_into_the_same_period(world):
    world.use("two", 3)
    world.look(2)
    world.panels["two"].delete_user("alice")
    world.look(2)
    assert world.account("two") is None
    assert used(world, "default") == gib(3) + 1
    world.clock.advance(seconds=5)
    world.create("two", limit=50)
    world.use("two", 1)
    world.look(3)
    assert used(world, "default") == used(world, "two") == gib(4) + 1
    assert world.account("two").quota_bytes == gib(10)
    world.panels["two"].reset_user("alice")
    world.look(4)
    assert used(world, "default") == used(world, "two") == 0
    world.use("default", 1)
    world.use("two", 1)
    world.look(2)
    world.panels["default"].reset_user("alice")
    world.look(4)
    assert world.panels["two"].get_user("alice")["used_traffic"] == 0


def test_a_name_that_all_panels_lost_begins_anew(world):
    world.use("two", 3)
    world.ledger.report("alice", gib(2))
    world.look(2)
    for panel in ("default", "two"):
        world.panels[panel].delete_user("alice")
    world.look(3)
    assert [each.username for each in world.bridge("default").store.unknown_names.all()] == [
        "alice"
    ]
    world.clock.advance(seconds=5)
    world.create("two", limit=5)
    world.look(2)
    assert used(world, "two") == 0
    assert world.account("two").quota_bytes == gib(5)


def test_a_name_that_no_panel_has_is_an_orphan_once(world):
    world.ledger.report("nobody", gib(1))
    world.look(4)
    assert world.events("default", "orphan") == ["nobody"]
    assert world.events("two", "orphan") == world.events("three", "orphan") == []


def test_switched_on_everybody_keeps_what_was_used_and_switched_off_as_well(opened):
    world = opened("two")
    world.create("default", limit=10)
    world.create("two", limit=20)
    world.ledger.report("alice", gib(1))
    world.ledger.report("two/alice", gib(2))
    world.use("default", 1)
    world.use("two", 1)
    world.look(2)
    assert [world.external(panel) for panel in ("default", "two")] == [gib(1), gib(2)]
    world.restart(spans=True)
    world.look(3)
    assert used(world, "default") == used(world, "two") == gib(5)
    assert world.shown("two") == ("active", pytest.approx(10 - 4))
    world.restart(spans=False)
    world.look(3)
    assert [used(world, panel) for panel in ("default", "two")] == [gib(2), gib(3)]
    assert not world.account("default").is_held
    world.ledger.report("two/alice", gib(1))
    world.look(2)
    assert [used(world, panel) for panel in ("default", "two")] == [gib(2), gib(4)]
    world.restart(spans=True)
    world.look(2)
    assert used(world, "default") == used(world, "two") == gib(6)
    world.panels["two"].reset_user("alice")
    world.look(4)
    assert used(world, "default") == used(world, "two") == 0


def test_who_observes_resets_nobody_else(opened):
    world = opened("two", spans=True)
    world.restart(enforcement=Enforcement.OBSERVE)
    world.create("default", limit=10)
    world.create("two", limit=20)
    world.ledger.report("alice", gib(1))
    world.use("two", 2)
    world.look(2)
    world.use("default", 1)
    world.look(2)
    world.panels["default"].reset_user("alice")
    world.look(3)
    assert world.panels["two"].get_user("alice")["used_traffic"] == gib(2)
    assert all(not writes(world, panel) and not resets(world, panel) for panel in world.panels)


def test_after_a_restored_store_all_panels_are_put_in_step(world):
    world.use("default", 1)
    world.use("two", 2)
    world.ledger.report("alice", gib(1) - 1)
    world.look(3)
    world.run(world.bridges.rebase(actor="test", is_restored=True))
    world.look(3)
    assert used(world, "default") == used(world, "two") == gib(4)
    world.use("two", 1)
    world.look(3)
    assert used(world, "default") == used(world, "two") == gib(5)
    assert not world.account("default").is_held


def test_a_reset_that_a_restored_store_does_not_know_makes_no_odometer_fall(world):
    world.use("default", 1)
    world.use("two", 6)
    world.look(3)
    for panel in ("default", "two"):
        world.panels[panel].reset_user("alice")
    world.run(world.bridges.rebase(actor="test", is_restored=True))
    world.look(3)
    for panel in ("default", "two"):
        assert not world.account(panel).is_held
    world.use("two", 1)
    world.look(3)
    for panel in ("default", "two"):
        assert not world.account(panel).is_held
        world.panels[panel].review()
        assert world.shown(panel)[0] == "active"


def test_after_a_ledger_that_lost_something_all_are_held_and_rebased_together(world):
    world.use("two", 2)
    world.ledger.report("alice", gib(3) - 1)
    world.look(3)
    world.ledger.totals["alice"] = (gib(1), gib(1), world.ledger.seq + 1)
    world.ledger.seq += 1
    world.look(2)
    assert world.account("default").is_held
    assert world.account("two").is_held
    world.run(world.bridges.rebase(actor="test"))
    world.look(2)
    assert used(world, "default") == used(world, "two") == gib(5)
    world.use("default", 1)
    world.look(3)
    assert used(world, "default") == used(world, "two") == gib(6)


def test_the_number_of_writes_grows_with_the_logarithm_of_the_traffic(world):
    for _ in range(150):
        world.use("two", 0.06)
        world.look()
    assert used(world, "default") == pytest.approx(gib(9), rel=1e-6)
    assert len(writes(world, "default")) <= 90
    assert len(writes(world, "two")) <= 3


def test_names_that_nothing_was_reported_of_share_a_quota_as_well(opened):
    world = opened("two", spans=True)
    world.create("default", "bob", limit=10)
    world.create("two", "bob", limit=20)
    world.create("two", "carol", limit=20)
    world.use("two", 9, "bob")
    world.use("default", 2, "bob")
    world.look(3)
    for panel, name in (("default", "bob"), ("two", "bob")):
        world.panels[panel].review()
        assert world.shown(panel, name)[0] == "limited"
    assert world.account("two", "carol") is None
    assert world.shown("two", "carol") == ("active", 20)


def test_what_is_taken_back_is_given_back_on_every_panel(world):
    world.use("default", 2)
    world.use("two", 3)
    spike = world.ledger.report("alice", gib(100))
    other = world.ledger.report("two/alice", gib(1))
    world.look(3)
    for panel in ("default", "two"):
        world.panels[panel].review()
        assert world.shown(panel)[0] == "limited"
    world.ledger.void(spike)
    world.look(3)
    for panel in ("default", "two"):
        world.panels[panel].review()
        assert world.shown(panel)[0] == "active"
        assert used(world, panel) == gib(6) + 1
    world.panels["two"].reset_user("alice")
    world.look(3)
    world.ledger.report("alice", gib(1))
    world.ledger.void(other)  # the reset on one of them has forgiven it on both
    world.look(3)
    assert used(world, "default") == used(world, "two") == gib(1)
    late = world.ledger.report("two/alice", gib(2))
    world.look(2)
    world.ledger.void(late)
    world.look(3)
    assert used(world, "default") == used(world, "two") == gib(1)
