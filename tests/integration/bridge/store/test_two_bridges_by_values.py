"""Two bridges with stores of their own on one panel, where notes are left alone."""

from __future__ import annotations

import pytest

from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World


@pytest.fixture
def pair(tmp_path):
    """Return two bridges that read two ledgers of the same traffic, each a moment apart."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = World(tmp_path / "one", uses_notes=False)
    one.panel.create_user("alice", data_limit=gib(10))
    two = World(tmp_path / "two", panel=one.panel, uses_notes=False)
    yield one, two
    two.close()
    one.close()


def use(worlds, amount):
    for world in worlds:
        world.ledger.report("alice", amount)


def conflicts(world):
    return [each for each in world.bridge.store.events.newest() if each.event.kind == "conflict"]


def test_neither_shrinks_the_quota_to_nothing_within_seconds(pair):
    one, two = pair
    use(pair, 1)
    one.one_pass()
    two.one_pass()
    for _ in range(5):
        use([one], gib(1) + 12345)
        one.one_pass()
        use([two], gib(1) + 12345)
        use([two], 77_777)
        two.one_pass()
    held = [world for world in pair if world.account("alice").is_held]
    assert held
    for world in held:
        assert len(conflicts(world)) == 1
        assert "another bridge" in conflicts(world)[0].event.text
    assert max(world.account("alice").quota_bytes for world in held) == gib(10)
    assert one.panel.get_user("alice")["data_limit"] > gib(0.9)


def test_after_a_rebase_the_quota_of_before_is_published(pair):
    test_neither_shrinks_the_quota_to_nothing_within_seconds(pair)
    world = next(each for each in pair if each.account("alice").is_held)
    world.run(world.bridges.rebase(actor="root"))
    world.one_pass()
    account = world.account("alice")
    assert (account.is_held, account.quota_bytes) == (False, gib(10))


def test_an_admin_who_types_twice_within_a_minute_is_heard(pair):
    one, _ = pair
    use([one], gib(3))
    one.one_pass()
    for typed in (gib(8), gib(5.5), gib(4.25)):
        one.panel.modify_user("alice", {"data_limit": typed})
        one.one_pass()
        assert one.account("alice").quota_bytes == typed
        assert not one.account("alice").is_held
