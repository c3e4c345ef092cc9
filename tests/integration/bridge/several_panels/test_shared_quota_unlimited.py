"""A shared quota that becomes unlimited: no limit that the bridge wrote is left on any panel."""

from __future__ import annotations

import pytest

from tests.support.bridge.bridge_builders import gib

PANELS = ("default", "two", "three")


@pytest.fixture(params=[True, False], ids=["notes", "no notes"])
def opened(request, opened):
    def open_world(*names, **options):
        world = opened(*names, **options)
        world.restart(uses_notes=request.param)
        return world

    return open_world


@pytest.fixture
def world(opened):
    world = opened("two", "three", spans=True)
    for panel in PANELS:
        world.create(panel, limit=10)
    world.ledger.report("alice", 1)
    world.look(2)
    return world


def lift(world, panel):
    world.panels[panel].modify_user("alice", {"data_limit": 0})
    world.look(4)


@pytest.mark.parametrize("panel", PANELS)
def test_unlimited_set_on_one_panel_takes_our_limits_on_the_others_away(world, panel):
    world.use("two", 9)
    world.look(3)
    assert world.shown("three") == ("active", pytest.approx(1))
    lift(world, panel)
    assert [world.shown(each) for each in PANELS] == [("active", None)] * 3
    for transport in world.transports.values():
        transport.writes.clear()
    world.look(2)
    assert [transport.writes for transport in world.transports.values()] == [[], [], []]


def test_who_was_disabled_or_limited_by_the_shared_quota_is_let_in(world):
    world.use("default", 4)
    world.use("two", 7)
    world.look(3)
    for panel in PANELS:
        world.panels[panel].review()
    world.look(2)
    assert [world.shown(each)[0] for each in PANELS] == ["limited", "limited", "disabled"]
    lift(world, "default")
    assert [world.shown(each) for each in PANELS] == [("active", None)] * 3


def test_a_quota_set_again_afterwards_counts_what_was_used(world):
    world.use("two", 9)
    world.look(3)
    lift(world, "default")
    world.use("three", 2)
    world.panels["default"].modify_user("alice", {"data_limit": gib(20)})
    world.look(4)
    assert world.shown("default") == ("active", pytest.approx(9))
    assert world.shown("two") == ("active", pytest.approx(18))
    assert world.shown("three") == ("active", pytest.approx(11))


def test_a_panel_that_was_down_has_its_limit_taken_away_once_it_is_back(world):
    world.use("two", 9)
    world.look(3)
    world.transports["three"].is_down = True
    lift(world, "default")
    world.panels["default"].reset_user("alice")
    world.look(2)
    world.transports["three"].is_down = False
    world.look(4)
    assert world.shown("three") == ("active", None)


def test_a_limit_that_is_lifted_late_is_no_word_of_an_admin(world):
    """The write that lifts it times out, and lands after there is a quota again."""
    world.use("two", 9)
    world.look(3)
    world.transports["three"].crash_after_writes = 1
    lift(world, "default")
    assert world.shown("three") == ("active", None)
    world.panels["default"].modify_user("alice", {"data_limit": gib(20)})
    world.look(3)
    assert world.account("three").quota_bytes == gib(20)


def test_a_limit_of_a_panels_own_stays_where_the_first_panel_never_had_one(opened):
    world = opened("two", spans=True)
    world.create("default", limit=None)
    world.create("two", limit=20)
    world.ledger.report("alice", gib(1))
    world.look(4)
    world.panels["two"].reset_user("alice")
    world.look(3)
    assert [world.shown(each) for each in ("default", "two")] == [("active", None), ("active", 20)]


def test_what_was_left_of_a_panels_own_limit_is_the_limit_again_where_all_is_unlimited(opened):
    world = opened("two", spans=False)
    world.create("default", limit=None)
    world.create("two", limit=20)
    world.ledger.report("two/alice", gib(5))
    world.ledger.report("alice", 1)
    world.look(2)
    assert world.shown("two") == ("active", 15)
    world.restart(spans=True)
    world.look(4)
    assert [world.shown(each) for each in ("default", "two")] == [("active", None), ("active", 20)]
    world.restart(spans=False)
    world.look(3)
    assert world.account("two").quota_bytes == gib(20)


def test_release_leaves_no_limit_of_ours_on_a_user_who_was_on_hold(world):
    world.use("two", 9)
    world.look(3)
    world.panels["three"].modify_user("alice", {"status": "disabled"})
    lift(world, "default")
    assert world.shown("three") == ("disabled", pytest.approx(1))

    async def release():
        return [each async for each in world.bridge("three").actions.release()]

    world.run(release())
    assert world.shown("three") == ("disabled", None)
