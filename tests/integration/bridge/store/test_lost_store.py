"""A bridge that starts without the store it had: told from one that starts for the first time."""

from __future__ import annotations

import logging

import pytest

from marzban_bridge.errors import StoreSuspendedError
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World


@pytest.fixture
def world(tmp_path):
    opened = World(tmp_path)
    for name in ("alice", "bob"):
        opened.panel.create_user(name, by="root", data_limit=gib(10))
        opened.panel.use_traffic(name, gib(1))
    yield opened
    opened.close()


def lose_store(world):
    world.run(world._stack.aclose())
    for each in world.settings.store.parent.glob("bridge.sqlite3*"):
        each.unlink()
    world.restart()


def status_and_limit(world, name):
    user = world.panel.find(name)
    return str(user.status), user.data_limit


def reset_by_everybody_before(world):
    """A year of traffic that earlier periods have settled."""
    for name in ("alice", "bob"):
        world.ledger.report(name, gib(90))
    world.one_pass()
    for name in ("alice", "bob"):
        world.run(world.bridge.actions.reset_user(name, actor="root"))
    world.ledger.report("alice", gib(3))
    world.one_pass()
    assert status_and_limit(world, "alice") == ("active", gib(7))


def test_without_the_store_nobody_is_changed_until_a_rebase_takes_the_panel_at_its_word(world):
    reset_by_everybody_before(world)
    lose_store(world)
    with pytest.raises(StoreSuspendedError, match=r"store is new.*lost.*rebase"):
        world.one_pass()
    world.restart()
    with pytest.raises(StoreSuspendedError, match="rebase"):
        world.one_pass()
    assert (status_and_limit(world, "alice"), status_and_limit(world, "bob")) == (
        ("active", gib(7)),
        ("active", gib(10)),
    )
    world.run(world.bridges.rebase(actor="root"))
    world.one_pass()
    assert status_and_limit(world, "alice") == ("active", gib(7)), "what is left is what it was"
    world.ledger.report("alice", gib(1))
    world.one_pass()
    assert status_and_limit(world, "alice") == ("active", gib(6))
    world.restart()
    world.one_pass()
    assert world.bridge.store.suspended is None


def test_a_plan_says_why_as_well(world):
    reset_by_everybody_before(world)
    lose_store(world)

    async def plan():
        return [each async for each in world.bridge.reconciler.previews()]

    with pytest.raises(StoreSuspendedError, match="store is new"):
        world.run(plan())


def test_the_store_put_back_ends_it(world):
    reset_by_everybody_before(world)
    world.run(world._stack.aclose())
    kept = world.settings.store.read_bytes()
    world.settings.store.unlink()
    world.restart()
    with pytest.raises(StoreSuspendedError):
        world.one_pass()
    world.run(world._stack.aclose())
    world.settings.store.write_bytes(kept)
    world.restart()
    world.ledger.report("alice", gib(1))
    world.one_pass()
    assert status_and_limit(world, "alice") == ("active", gib(6))


def test_a_crash_before_it_was_said_is_no_way_around_it(world, monkeypatch):
    reset_by_everybody_before(world)
    lose_store(world)
    with monkeypatch.context() as patch:
        patch.setattr(world.bridge.store, "suspend", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            world.one_pass()
    world.restart()
    with pytest.raises(StoreSuspendedError):
        world.one_pass()


def test_the_first_start_ever_is_like_any_other(world):
    world.ledger.report("alice", gib(3))
    world.one_pass()
    assert status_and_limit(world, "alice") == ("active", gib(7))


def test_a_store_that_never_held_anything_is_no_loss(world):
    """A first start with a wrong setting, say, and then another."""
    world.one_pass()
    lose_store(world)
    world.ledger.report("alice", gib(3))
    world.one_pass()
    assert status_and_limit(world, "alice") == ("active", gib(7))


def test_a_store_of_another_panel_is_no_loss_and_is_mentioned(world, caplog):
    reset_by_everybody_before(world)
    (told,) = world.ledger.positions.values()
    told["panel"] = "0" * 32
    lose_store(world)
    with caplog.at_level(logging.WARNING):
        world.one_pass()
    assert world.bridge.store.suspended is None
    assert "a panel on another host" in caplog.text


def test_a_store_that_an_older_version_told_of_is_taken_for_ours(world):
    reset_by_everybody_before(world)
    (told,) = world.ledger.positions.values()
    told["panel"] = ""
    lose_store(world)
    with pytest.raises(StoreSuspendedError):
        world.one_pass()


def test_a_doubt_that_begins_while_the_panel_is_asked_stops_what_was_under_way(world, monkeypatch):
    """The collector may come back, and not vouch for the store, in the middle of a look."""
    world.ledger.report("alice", gib(1))
    world.one_pass()
    world.ledger.report("alice", gib(9))
    world.run(world.bridges.feed_reader.read(wait_seconds=0))
    ask = world.bridge.panel.get_user

    async def ask_and_doubt(username):
        user = await ask(username)
        world.bridges.rollback_check.suspend("the store is an older one")
        return user

    monkeypatch.setattr(world.bridge.panel, "get_user", ask_and_doubt)
    writes = len(world.transport.writes)
    world.run(world.bridge.settler.settle("alice", None, read_at=float("-inf")))
    assert len(world.transport.writes) == writes
    assert world.account("alice").seen_total_bytes == gib(1)
