"""Limits that tools and people set in the panel, and the quota they come to."""

from __future__ import annotations

import pytest

from marzban_bridge.quota.account import Enforcement
from marzban_bridge.quota.typed_limits import TypedLimits
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World


@pytest.fixture
def open_world(tmp_path):
    worlds = []

    def opened(meaning, **settings):
        typed_limits = TypedLimits.parse(meaning)
        world = World(tmp_path / str(len(worlds)), typed_limits=typed_limits, **settings)
        world.panel.add_admin("shop", password="of-the-shop")
        for name, owner in (("alice", "shop"), ("bob", None)):
            world.panel.create_user(name, data_limit=gib(10), by=owner)
            world.ledger.report(name, gib(7))
        world.one_pass()
        worlds.append(world)
        return world

    yield opened
    for world in worlds:
        world.close()


def add(world, name, amount_bytes):
    """Do as a bot does: read the limit, add to it, write it back."""
    shown_bytes = world.panel.get_user(name)["data_limit"]
    world.panel.modify_user(name, {"data_limit": shown_bytes + amount_bytes})
    world.one_pass()


def limit(world, name):
    return world.panel.get_user(name)["data_limit"]


def last_change(world, name):
    events = world.bridge.store.events.newest(username=name)
    return next(each.event for each in events if each.event.kind == "quota_changed")


@pytest.mark.parametrize("uses_notes", [True, False])
def test_a_tool_that_adds_to_what_the_panel_shows_adds_to_the_quota(open_world, uses_notes):
    world = open_world("left", uses_notes=uses_notes)
    assert limit(world, "alice") == gib(3)
    add(world, "alice", gib(20))
    assert world.account("alice").quota_bytes == gib(30)
    assert limit(world, "alice") == gib(23)
    writes = len(world.transport.writes)
    for _ in range(3):
        world.one_pass()
    assert world.account("alice").quota_bytes == gib(30), "what was typed is typed once"
    assert len(world.transport.writes) == writes, "and the panel shows it already"
    world.ledger.report("alice", gib(4))
    world.one_pass()
    assert limit(world, "alice") == gib(19)
    add(world, "alice", gib(5))
    assert world.account("alice").quota_bytes == gib(35)


def test_the_event_says_which_rule_was_applied(open_world):
    world = open_world("quota, shop=left")
    for name in ("alice", "bob"):
        add(world, name, gib(20))
    assert world.account("alice").quota_bytes == gib(30)
    assert world.account("bob").quota_bytes == gib(23), "bob is nobody's: it is the quota"
    left, quota = last_change(world, "alice"), last_change(world, "bob")
    assert "what the user may still use (BRIDGE_TYPED_LIMIT_MEANS)" in left.text
    assert "7.00 GiB" in left.text
    assert (left.before, left.after) == (str(gib(10)), str(gib(30)))
    assert "left" not in quota.text
    assert (quota.before, quota.after) == (str(gib(10)), str(gib(23)))


def test_by_default_a_typed_limit_is_the_quota(open_world):
    world = open_world("quota")
    world.panel.edit_in_dialog("alice", data_limit=gib(50))
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(50)
    assert limit(world, "alice") == gib(43)


def test_saving_the_dialog_unchanged_is_no_edit_whatever_a_typed_limit_means(open_world):
    world = open_world("left")
    world.panel.edit_in_dialog("alice")
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(10)


def test_who_has_used_up_all_and_more_is_left_what_was_typed(open_world):
    world = open_world("left")
    world.ledger.report("alice", gib(5))
    world.one_pass()
    assert world.panel.get_user("alice")["status"] == "disabled"
    world.panel.edit_in_dialog("alice", data_limit=gib(20))
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(32)
    assert limit(world, "alice") == gib(20)
    assert world.panel.get_user("alice")["status"] == "active"


def test_unlimited_stays_unlimited_and_what_follows_it_is_left(open_world):
    world = open_world("left")
    world.panel.modify_user("alice", {"data_limit": 0})
    world.one_pass()
    assert world.account("alice").quota_bytes is None
    world.panel.modify_user("alice", {"data_limit": gib(2)})
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(9)
    assert limit(world, "alice") == gib(2)


def test_a_reset_gives_the_quota_back_and_not_what_was_left(open_world):
    world = open_world("left")
    add(world, "alice", gib(20))
    world.run(world.bridge.actions.reset_user("alice", actor="root"))
    assert limit(world, "alice") == gib(30)


def test_where_no_limit_is_published_what_is_typed_is_the_quota(open_world):
    for enforcement in (Enforcement.DISABLE, Enforcement.OBSERVE):
        world = open_world("left", enforcement=enforcement)
        assert limit(world, "alice") == gib(10)
        add(world, "alice", gib(20))
        assert world.account("alice").quota_bytes == gib(30)
        assert limit(world, "alice") == gib(30)
