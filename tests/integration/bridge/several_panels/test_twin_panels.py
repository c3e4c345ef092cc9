"""One panel under two addresses is recognized, and counts once."""

from __future__ import annotations

import contextlib

import httpx
import pytest

from marzban_bridge.cli import panels as panels_command
from marzban_bridge.errors import SettingsError
from marzban_bridge.reconcile.trust.twin_panels import TwinPanels
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.snapshot import restore_snapshot, to_snapshot
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import AccidentProneTransport


def alias(world, name, of):
    """Have an entry's address lead to another entry's panel."""
    world.panels[name] = world.panels[of]
    inner = httpx.ASGITransport(world.apps[of])
    world.transports[name] = AccidentProneTransport(inner)


def ready_reasons(world):
    return [text for name in world.panels if (text := world.bridge(name).store.suspension.text)]


def stop(world):
    world.run(world._stack.aclose())
    world._stack = contextlib.AsyncExitStack()


@pytest.mark.parametrize("spans", [False, True])
def test_a_second_entry_of_a_panel_is_left_alone_and_counts_nothing(opened, spans):
    world = opened("two", configured=("default",))
    world.create("default")
    world.use("default", 3)
    world.ledger.report("alice", gib(1))
    world.look()
    alias(world, "two", "default")
    world.restart(("default", "two"), spans=spans)
    world.look(3)
    world.ledger.report("two/alice", gib(1))
    world.ledger.report("alice", gib(1))
    world.look(3)
    assert world.account("two") is None
    assert world.external("default") == (gib(3) if spans else gib(2))
    assert world.shown("default") == ("active", 7 if spans else 8)
    (reason,) = ready_reasons(world)
    assert "panels default and two are one panel" in reason


def test_an_entry_that_is_new_is_left_alone_also_where_it_stands_first(opened):
    """Panel two is known; MARZBAN_URL is set to another address of it."""
    world = opened("two")
    world.create("two")
    world.ledger.report("two/alice", gib(4))
    world.look(2)
    alias(world, "default", "two")
    world.restart()
    world.look(3)
    assert world.account("default") is None
    assert world.external("two") == gib(4)
    (reason,) = ready_reasons(world)
    assert "No user is changed as one of default" in reason


def test_a_panel_whose_address_comes_to_lead_to_another_is_left_alone_while_it_does(opened):
    world = opened("two")
    for panel in world.panels:
        world.create(panel)
        world.ledger.report(f"{panel}/alice", gib(2))
        world.clock.advance(seconds=5)
    world.look(3)
    own = world.panels["two"], world.transports["two"]
    alias(world, "two", "default")
    world.restart()
    world.look(2)
    assert any("are one panel" in each for each in ready_reasons(world))
    assert world.shown("default") == ("active", 8)
    world.panels["two"], world.transports["two"] = own
    world.restart()
    world.ledger.report("two/alice", gib(1))
    world.look(3)
    assert ready_reasons(world) == []
    assert (world.external("default"), world.external("two")) == (gib(2), gib(3))


def test_a_panel_that_cannot_be_asked_is_known_by_what_it_showed_last(opened):
    world = opened("two", configured=("default",))
    for name in ("alice", "bob", "carol"):
        world.create("default", name)
    world.restart(("default", "two"))
    world.look(2)
    alias(world, "two", "default")
    world.transports["default"].is_down = True
    world.restart()
    world.ledger.report("two/alice", gib(1))
    world.look(2)
    assert world.account("two") is None
    world.transports["default"].is_down = False
    world.look(2)
    assert world.account("two") is None


def copy_of(world, panel):
    """Put a restored copy of a panel's database in panel two's place."""
    copy = SimulatedPanel(clock=world.clock, admins={"root": ("", True)})
    restore_snapshot(copy, to_snapshot(world.panels[panel]))
    world.panels["two"].users = copy.users
    world.panels["two"].secret = copy.secret


def test_a_copy_of_a_panel_is_another_one_once_it_was_used(opened):
    world = opened("two", configured=("default",))
    world.create("default")
    world.use("default", 1)
    copy_of(world, "default")
    world.use("two", 1)
    world.restart(("default", "two"))
    world.ledger.report("two/alice", gib(1))
    world.look(3)
    assert ready_reasons(world) == []
    assert world.external("two") == gib(1)


def test_a_copy_that_was_not_used_is_accepted_by_a_command(opened):
    world = opened("two", configured=("default",))
    world.create("default")
    world.use("default", 1)
    world.ledger.report("two/alice", gib(1))
    world.look()
    copy_of(world, "default")
    world.restart(("default", "two"))
    world.look(2)
    (reason,) = ready_reasons(world)
    assert "marzban-bridge panels apart default two" in reason
    stop(world)
    assert world.run(panels_command.tell_apart(world.settings, "two", "default")) == 0
    world.bridges = world.open(("default", "two"), spans=False)
    world.ledger.report("two/alice", gib(1))
    world.look(3)
    assert ready_reasons(world) == []
    assert world.account("two") is not None


def test_panels_without_users_and_panels_whose_users_are_called_alike_are_two(opened):
    world = opened("two")
    world.look(2)
    assert ready_reasons(world) == []
    for panel in world.panels:
        world.create(panel)
    world.look(2)
    assert ready_reasons(world) == []


def test_a_mistaken_table_is_refused_before_the_start_and_a_known_panel_is_not(opened):
    world = opened("two", configured=("default",))
    world.create("default")
    alias(world, "two", "default")
    world.restart(("default", "two"))

    def twins():
        panels = {name: each.panel for name, each in world.bridges.by_name.items()}
        store = world.bridges.first.store
        return TwinPanels(panels, store=store, clock=world.clock, metrics={})

    with pytest.raises(SettingsError, match="panels default and two are one panel"):
        world.run(twins().demand_different())
    world.transports["default"].is_down = True
    world.run(twins().demand_different())  # it says nothing yet


def test_users_created_on_two_panels_are_known_with_the_next_pass(opened):
    """Nothing is reported of them: new users of each panel are read with each pass."""
    world = opened("two", spans=True)
    world.look()
    world.create("default")
    world.create("two")
    world.use("default", 6)
    for name in world.panels:
        world.run(world.bridge(name).reconciler.health.check())
    for bridge in world.bridges.by_name.values():
        world.run(bridge.reconciler.pass_over_all())
    assert world.shown("two") == ("active", 4)


def test_all_names_are_read_again_where_there_are_more_users_than_names(opened):
    """Old users come back with a backup: they are not among the newest."""
    world = opened("two", spans=True)
    world.create("default", "old")
    world.clock.advance(days=1)
    for number in range(30):
        world.create("two", f"user{number:02}")
    world.look()
    world.clock.advance(seconds=1)
    saved = world.panels["default"].users
    world.panels["two"].users = {
        **saved,
        **world.panels["two"].users,
    }
    world.run(world.bridge("two").reconciler.health.check())
    assert world.bridges.duplicate_names._again["two"].is_set()
