"""A panel that is empty, or on a wrong volume, for a while: nobody changes, on no panel."""

from __future__ import annotations

import pytest

from marzban_bridge.quota.trust.panel_suspension import LEAST_USERS
from marzban_bridge.simulator.snapshot import restore_snapshot, to_snapshot
from tests.support.bridge.bridge_builders import gib

BOTH = ("default", "two")


@pytest.fixture
def opened(opened_in_file):
    return opened_in_file


def used(world, panel, name):
    return world.external(panel, name) + world.account(panel, name).sighting.used_bytes


def fill(world, count):
    """Have so many users on both panels, each with 6 of 10 used: 2 and 1 there, 3 reported."""
    names = [f"user{number}" for number in range(count)]
    for name in names:
        for panel in BOTH:
            world.create(panel, name, limit=10)
            world.ledger.report(f"{panel}/{name}", 1)
        world.ledger.report(name, gib(3))
        world.use("default", 2, name)
        world.use("two", 1, name)
    world.look(3)
    return names


def books(world, names):
    return {
        (panel, name): (used(world, panel, name), world.account(panel, name).quota_bytes)
        for panel in BOTH
        for name in names
    }


def shown(world, names):
    return {(panel, name): world.shown(panel, name) for panel in BOTH for name in names}


def other_users(world, panel, names):
    """Have the panel show the users of another volume: some of the same names, made later."""
    world.clock.advance(seconds=30)
    world.panels[panel].users = {}
    for name in [*names, "zed"]:
        world.create(panel, name, limit=50)


LIES = ["empty", "another volume"]


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("panel", BOTH)
@pytest.mark.parametrize("spans", [False, True], ids=["separate", "shared"])
@pytest.mark.parametrize("count", [1, 3])
def test_nobody_changes_on_any_panel(opened, count, spans, panel, lie):
    world = opened("two", spans=spans)
    names = fill(world, count)
    before, limits = books(world, names), shown(world, names)
    snapshot = to_snapshot(world.panels[panel])
    if lie == "empty":
        world.panels[panel].users = {}
    else:
        other_users(world, panel, names)
    for _ in range(2):
        world.look()
    other = "two" if panel == "default" else "default"
    if count >= LEAST_USERS or lie == "empty":  # of fewer users each is believed until it is back
        assert [world.shown(other, name) for name in names] == [
            limits[other, name] for name in names
        ]
    restore_snapshot(world.panels[panel], snapshot)
    world.look(3)
    assert books(world, names) == before
    assert shown(world, names) == limits
    if lie == "empty":
        assert not any(world.bridge(panel).store.gone_accounts.get(name) for name in names)
    assert not any(path.endswith("/reset") for _, path in world.transports[other].writes)


@pytest.mark.parametrize("spans", [False, True], ids=["separate", "shared"])
def test_what_is_reported_meanwhile_counts_for_whom_it_did_before(opened, spans):
    world = opened("two", spans=spans)
    names = fill(world, 3)
    before = books(world, names)
    snapshot = to_snapshot(world.panels["default"])
    world.panels["default"].users = {}
    for name in names:
        world.ledger.report(name, gib(0.5))
    world.look(2)
    restore_snapshot(world.panels["default"], snapshot)
    world.look(3)
    for name in names:
        assert used(world, "default", name) == before["default", name][0] + gib(0.5)
        more = gib(0.5) if spans else 0
        assert used(world, "two", name) == before["two", name][0] + more


@pytest.mark.parametrize("count", [1, 3])
def test_a_name_that_is_first_reported_while_its_panel_is_empty_waits_for_it(opened, count):
    world = opened("two")
    fill(world, count)
    world.create("default", "carol")
    world.create("two", "carol")
    snapshot = to_snapshot(world.panels["default"])
    world.panels["default"].users = {}
    world.ledger.report("carol", gib(1))
    world.run(world.bridge("default").settler.settle("carol", None, read_at=float("-inf")))
    world.look(2)
    restore_snapshot(world.panels["default"], snapshot)
    world.look(3)
    assert world.external("default", "carol") == gib(1)
    assert world.account("two", "carol") is None


def test_the_others_go_on_with_what_was_last_seen_of_the_empty_one(opened):
    world = opened("two", spans=True)
    names = fill(world, 3)
    world.panels["default"].users = {}
    world.look()
    world.use("two", 3, names[0])
    world.ledger.report(names[1], gib(4))
    world.look(2)
    world.panels["two"].review()
    assert used(world, "two", names[0]) == gib(9) + 2
    assert world.shown("two", names[1])[0] == "limited"
    world.panels["two"].reset_user(names[0])
    world.look(2)
    assert used(world, "two", names[0]) == 0


@pytest.mark.parametrize("spans", [False, True], ids=["separate", "shared"])
def test_a_user_who_is_back_is_taken_up_though_there_is_nothing_to_do(opened, spans):
    """Taken for quiet it had an account and one that was put aside, and counted twice."""
    world = opened("two", spans=spans)
    names = fill(world, 1)
    before = books(world, names)
    for _ in range(2):
        snapshot = to_snapshot(world.panels["default"])
        world.panels["default"].users = {}
        world.look()
        restore_snapshot(world.panels["default"], snapshot)
        world.use("two", 0.25, names[0])
        world.look(3)
        assert world.bridge("default").store.gone_accounts.get(names[0]) is None
    assert world.events("default", "returned") == names * 2
    more = {"default": gib(0.5) if spans else 0, "two": gib(0.5)}
    assert {
        key: (used_bytes - more[key[0]], quota)
        for key, (used_bytes, quota) in books(world, names).items()
    } == before


def test_who_is_back_counts_once_though_an_earlier_user_of_the_name_was_put_aside_too(opened):
    """What it counted was left in the quota it shares now, not in that of the one before."""
    world = opened("two", "three", spans=True)
    world.create("three", limit=10)
    world.ledger.report("three/alice", 1)
    world.use("three", 1)
    world.look(2)
    world.panels["three"].delete_user("alice")
    world.look(2)
    for panel in ("default", "two"):
        world.create(panel, limit=20)
    world.ledger.report("alice", gib(2))
    world.use("default", 4)
    world.use("two", 3)
    world.look(3)
    before = {panel: used(world, panel, "alice") for panel in BOTH}
    assert set(before.values()) == {gib(9)}
    for _ in range(2):
        snapshot = to_snapshot(world.panels["default"])
        world.panels["default"].delete_user("alice")
        world.look(2)
        assert used(world, "two", "alice") == gib(9)
        restore_snapshot(world.panels["default"], snapshot)
        world.look(3)
        assert {panel: used(world, panel, "alice") for panel in BOTH} == before
