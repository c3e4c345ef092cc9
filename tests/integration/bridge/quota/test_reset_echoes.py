"""Resets that show in nothing but a webhook: which webhook is the echo of which reset."""

from __future__ import annotations

import itertools

import pytest

from marzban_bridge.simulator.panel.database import PanelDatabase
from tests.support.bridge.bridge_builders import gib

PLAN = {"data_limit": gib(5), "expire": 0, "add_remaining_traffic": False, "fire_on_either": True}


@pytest.fixture
def world(opened):
    world = opened()
    world.create("default", data_limit_reset_strategy="day")
    world.ledger.report("alice", gib(1))
    world.look()
    return world


DIGESTS = (number.to_bytes(16, "big") for number in itertools.count())


def hear(world, panel="default", times=1):
    """Take so many webhooks of resets, in one batch."""
    world.bridge(panel).store.reset_news.announce(
        [(next(DIGESTS), "alice") for _ in range(times)], at=world.clock(), remember_seconds=3600
    )


def used(world, panel="default"):
    return world.external(panel) + world.account(panel).sighting.used_bytes


def reset_by_api(world, panel="default"):
    world.run(world.bridge(panel).actions.reset_user("alice", actor="root"))


def test_a_button_minutes_after_a_periodic_reset_is_one_of_its_own(world):
    world.use("default", 2)
    world.look()
    world.clock.advance(days=1, minutes=3)
    world.panels["default"].reset_periodic()
    world.look()
    assert used(world) == 0
    world.ledger.report("alice", gib(3))
    world.clock.advance(minutes=4)
    world.panels["default"].reset_user("alice")
    hear(world)
    world.look()
    assert used(world) == 0


def test_the_echo_of_the_bridges_own_reset_forgives_nothing(world):
    reset_by_api(world)
    world.ledger.report("alice", gib(3))
    hear(world)
    world.look(2)
    assert used(world) == gib(3)


def test_the_echo_of_a_button_that_was_seen_first_forgives_nothing(world):
    world.use("default", 2)
    world.look()
    world.panels["default"].reset_user("alice")
    world.look()
    world.ledger.report("alice", gib(3))
    hear(world)
    world.look(2)
    assert used(world) == gib(3)


@pytest.mark.parametrize("batches", [(1, 1), (2,)], ids=["one by one", "in one batch"])
def test_a_button_after_the_bridges_own_reset_is_told_by_the_second_webhook(world, batches):
    reset_by_api(world)
    world.ledger.report("alice", gib(3))
    world.panels["default"].reset_user("alice")
    for times in batches:
        hear(world, times=times)
        world.look()
    assert used(world) == 0
    world.ledger.report("alice", gib(1))
    world.look(2)
    assert used(world) == gib(1), "and it is one reset"


def test_a_reset_of_all_by_the_bridge_has_no_echo(world):
    admin = world.run(world.bridge("default").panel.whoami())
    world.run(world.bridge("default").actions.reset_all(bearer=None, caller=admin))
    world.look()
    assert used(world) == 0
    world.ledger.report("alice", gib(3))
    world.panels["default"].reset_user("alice")
    hear(world)
    world.look()
    assert used(world) == 0


@pytest.mark.parametrize("panel_traffic", [0, 2])
def test_a_next_plan_outlives_the_buttons_of_both_panels_at_once(opened, panel_traffic):
    world = opened("two", spans=True)
    for panel in ("default", "two"):
        world.create(panel, limit=10, next_plan=PLAN)
    world.ledger.report("alice", gib(1))
    world.use("default", 2)
    world.use("two", panel_traffic)
    world.look(3)
    for panel in ("default", "two"):
        world.panels[panel].reset_user("alice")
    world.look(3)
    for panel in ("default", "two"):
        plan = world.panels[panel].get_user("alice")["next_plan"]
        assert plan is not None, panel
        assert plan["data_limit"] == gib(5)
        hear(world, panel)
    world.look(3)
    assert used(world, "default") == used(world, "two") == 0
    assert all(world.panels[panel].get_user("alice")["next_plan"] for panel in ("default", "two"))


@pytest.mark.parametrize("batches", [(2,), (1, 1)], ids=["together", "one by one"])
def test_a_reset_that_a_crash_had_carried_out_twice_has_two_echoes(world, batches):
    world.transports["default"].crash_after_writes = 1
    assert not world.attempt(
        lambda: world.bridge("default").actions.reset_user("alice", actor="root")
    )
    world.look()
    writes = [path for _, path in world.transports["default"].writes if path.endswith("/reset")]
    assert len(writes) == 2
    world.ledger.report("alice", gib(3))
    for times in batches:
        hear(world, times=times)
        world.look()
    assert used(world) == gib(3)
    world.panels["default"].reset_user("alice")
    hear(world)
    world.look()
    assert used(world) == 0


def accepted_as_it_is(world):
    """Its database was restored, and the bridge is to take it as it is."""
    database = PanelDatabase(world.panels["default"])
    world.use("default", 1)
    world.look()
    database.dump("backup")
    world.use("default", 1)
    world.look()
    database.restore("backup")
    world.look(2)
    world.run(world.bridge("default").panel_rebase.apply(actor="root"))
    world.panels["default"].reset_all()


def reset_of_all(world):
    world.use("default", 1)
    world.look()
    world.panels["default"].reset_all()


def seen_button(world):
    world.use("default", 1)
    world.look()
    world.panels["default"].reset_user("alice")
    world.look()
    hear(world)


@pytest.mark.parametrize("between", [accepted_as_it_is, reset_of_all, seen_button])
def test_an_echo_is_expected_whatever_else_happens_before_it_comes(world, between):
    reset_by_api(world)
    between(world)
    world.look()
    world.ledger.report("alice", gib(3))
    world.look()
    hear(world)
    world.look(2)
    assert used(world) == gib(3)
    world.panels["default"].reset_user("alice")
    hear(world)
    world.look()
    assert used(world) == 0, "and no further one is"
