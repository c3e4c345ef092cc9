"""A ledger that was restored from a copy, by whatever means, and has grown since or has not."""

from __future__ import annotations

import pytest

from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World


@pytest.fixture
def world(tmp_path, store_place):
    opened = World(tmp_path, store=store_place.setting)
    for name in ("alice", "bob"):
        opened.panel.create_user(name, by="root", data_limit=gib(20))
        opened.panel.use_traffic(name, gib(1))
        opened.ledger.report(name, gib(1))
    opened.one_pass()
    yield opened
    opened.close()


def limit(world, name):
    return world.panel.find(name).data_limit


def external(world, name):
    account = world.account(name)
    return world.ledger.total_bytes(name) - account.baseline_bytes


def read_feed(world):
    while world.run(world.bridges.feed_reader.read(wait_seconds=0)):
        pass


def rebase(world):
    moved = world.run(world.bridges.rebase(actor="root"))
    return [account for _, account in moved]


@pytest.mark.parametrize("is_restarted", [True, False], ids=["restarted", "same run"])
def test_a_ledger_that_regrew_past_what_was_read_holds_whose_reports_it_lost(world, is_restarted):
    """The copy may share its latest run with what was read: it is the next run that tells."""
    if is_restarted:
        world.ledger.restart()
        world.ledger.report("bob", gib(1))
    copied = world.ledger.copied()
    world.ledger.report("alice", gib(4))
    world.one_pass()
    assert limit(world, "alice") == gib(15)
    world.ledger.restore(copied)
    # More in number and in bytes than what was read, for everybody.
    for _ in range(5):
        world.ledger.report("alice", gib(2))
        world.ledger.report("bob", gib(1))
    world.one_pass()
    assert world.account("alice").is_held
    assert limit(world, "alice") == gib(15)
    assert not world.account("bob").is_held, "what was read of bob is all there"
    assert limit(world, "bob") == gib(20 - 6 - is_restarted)
    (event,) = [
        each.event
        for each in world.bridge.store.events.newest(username="alice")
        if each.event.kind == "conflict"
    ]
    assert "rebase" in event.text

    rebase(world)
    world.one_pass()
    assert not world.account("alice").is_held
    assert external(world, "alice") == gib(5), "the usage is what it was"
    assert limit(world, "alice") == gib(15)
    world.ledger.report("alice", gib(1))
    world.one_pass()
    assert limit(world, "alice") == gib(14)


def test_one_user_who_regrew_in_a_ledger_that_is_still_shorter_is_held_too(world):
    copied = world.ledger.copied()
    for _ in range(9):
        world.ledger.report("alice", gib(0.5))
    world.one_pass()
    world.ledger.restore(copied)
    world.ledger.report("alice", gib(9))
    world.one_pass()
    assert world.account("alice").is_held
    rebase(world)
    assert external(world, "alice") == gib(5.5)


def test_usage_that_was_read_and_not_published_is_kept_as_well(world):
    copied = world.ledger.copied()
    world.ledger.report("alice", 1234567)  # less than a step: the panel is not asked for it
    read_feed(world)
    world.ledger.restore(copied)
    world.ledger.report("alice", gib(3))
    world.one_pass()
    assert world.account("alice").is_held
    rebase(world)
    assert external(world, "alice") == gib(1) + 1234567


def test_a_rebase_before_the_bridge_has_read_the_ledger_again_finds_out_by_itself(world):
    copied = world.ledger.copied()
    world.ledger.report("alice", gib(4))
    world.one_pass()
    world.ledger.restore(copied)
    for _ in range(4):
        world.ledger.report("alice", gib(2))
        world.ledger.report("bob", gib(2))
    moved = rebase(world)
    assert [each.username for each in moved] == ["alice"]
    assert (external(world, "alice"), external(world, "bob")) == (gib(5), gib(9))
    world.one_pass()
    assert (limit(world, "alice"), limit(world, "bob")) == (gib(15), gib(11))


def test_a_rebase_to_another_ledger_keeps_what_was_read_and_not_published(world):
    world.ledger.report("alice", 1234567)
    read_feed(world)
    world.ledger.restore({"seq": 0, "totals": {}, "runs": [], "ledger_id": "another"})
    world.ledger.report("alice", gib(9))
    rebase(world)
    assert external(world, "alice") == gib(1) + 1234567
    world.one_pass()
    assert not world.account("alice").is_held
    assert world.bridge.store.counts()["held"] == 0


def test_a_copy_from_before_the_last_restart_is_told_as_well(world):
    copied = world.ledger.copied()
    for _ in range(2):
        world.ledger.restart()
        world.ledger.report("alice", gib(1))
        world.one_pass()
    world.ledger.restore(copied)
    for _ in range(4):
        world.ledger.report("alice", gib(2))
    world.one_pass()
    assert world.account("alice").is_held
    assert not world.account("bob").is_held


def test_a_ledger_that_lost_nothing_that_was_read_goes_on_without_a_word(world):
    """What the collector acknowledged and nobody read yet is lost to its senders, not to us."""
    copied = world.ledger.copied()
    world.ledger.report("alice", gib(4))
    world.ledger.restore(copied)
    for _ in range(5):
        world.ledger.report("alice", gib(1))
    world.one_pass()
    assert not world.account("alice").is_held
    assert limit(world, "alice") == gib(14)


def test_restarts_of_the_collector_alarm_nobody(world):
    for number in range(8):
        world.ledger.restart()
        if number % 2:
            world.ledger.report("alice", gib(1))
        if number % 3:
            world.one_pass()
        world.ledger.restart()
        world.ledger.report("bob", gib(1))
    world.one_pass()
    assert world.bridge.store.counts()["held"] == 0
    assert (limit(world, "alice"), limit(world, "bob")) == (gib(15), gib(11))


def test_whoever_was_held_before_is_held_once_and_keeps_the_usage_of_then(world):
    copied = world.ledger.copied()
    world.ledger.report("alice", gib(4))
    world.one_pass()
    for _ in range(2):
        world.ledger.restore(copied)
        for _ in range(3):
            world.ledger.report("alice", gib(3))
        world.one_pass()
    events = world.bridge.store.events.newest(username="alice")
    assert [each.event.kind for each in events].count("conflict") == 1
    rebase(world)
    assert external(world, "alice") == gib(5)
    world.one_pass()
    assert not world.account("alice").is_held


def test_a_reset_settles_what_a_user_is_held_for(world):
    """Whatever was lost, the new period begins at the total of now."""
    copied = world.ledger.copied()
    world.ledger.report("alice", gib(4))
    world.one_pass()
    world.ledger.restore(copied)
    world.ledger.report("alice", gib(1))
    world.one_pass()
    assert world.account("alice").is_held
    usage = world.run(world.bridge.actions.reset_user("alice", actor="root"))
    assert usage.balance.used_bytes == 0
    account = world.account("alice")
    assert world.ledger.total_bytes("alice") - account.admin_baseline_bytes == gib(5)
    world.ledger.report("alice", gib(2))
    world.one_pass()
    assert not world.account("alice").is_held
    assert (external(world, "alice"), limit(world, "alice")) == (gib(2), gib(18))
    rebase(world)
    world.one_pass()
    assert (external(world, "alice"), limit(world, "alice")) == (gib(2), gib(18))
