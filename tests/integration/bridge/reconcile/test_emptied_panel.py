"""A panel that has lost all its users, however many it had and however they are looked at."""

from __future__ import annotations

import pytest

from marzban_bridge.panels.users import Status
from marzban_bridge.simulator.snapshot import restore_snapshot, to_snapshot
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World

SIZES = (3, 4, 5, 50, 51)


@pytest.fixture
def world(tmp_path):
    opened = World(tmp_path)
    yield opened
    opened.close()


def fill(world, count):
    """Have so many users on the panel: every third is over its quota and limited."""
    names = [f"user{number:02}" for number in range(count)]
    for number, name in enumerate(names):
        world.panel.create_user(name, data_limit=gib(10))
        world.panel.use_traffic(name, gib(1))
        world.ledger.report(name, gib(3 if number % 3 else 10))
    world.one_pass()
    world.panel.review()
    world.one_pass()
    return names


def settle(world, *names):
    for name in names:
        world.run(world.bridge.settler.settle(name, None, read_at=float("-inf")))


def suspensions(world):
    return [each.kind for each in world.bridge.store.suspension.reasons]


def kinds(world):
    return {each.event.kind for each in world.bridge.store.events.newest(limit=10_000)}


@pytest.mark.parametrize("is_single", [False, True], ids=["pass", "single users"])
@pytest.mark.parametrize("count", SIZES)
def test_it_is_in_doubt_until_its_users_are_back_and_none_is_marked_deleted(
    world, count, is_single
):
    names = fill(world, count)
    before, snapshot = list(world.bridge.store.accounts.all()), to_snapshot(world.panel)
    world.panel.users = {}
    if is_single:
        settle(world, *names[:4])
        assert suspensions(world) == ["users_gone"]
    for _ in range(3):
        world.one_pass()
        assert suspensions(world) == ["users_gone"]
    assert list(world.bridge.store.accounts.all()) == before
    restore_snapshot(world.panel, snapshot)
    world.one_pass()
    assert suspensions(world) == []
    assert not {"deleted", "returned", "recreated"} & kinds(world)


@pytest.mark.parametrize("count", [1, 2])
def test_of_so_few_users_each_is_believed_to_be_deleted_and_goes_on_when_it_is_back(world, count):
    names = fill(world, count)
    snapshot = to_snapshot(world.panel)
    world.panel.users = {}
    world.one_pass()
    assert (suspensions(world), list(world.bridge.store.accounts.all())) == ([], [])
    restore_snapshot(world.panel, snapshot)
    world.one_pass()
    assert [world.account(name).quota_bytes for name in names] == [gib(10)] * count


@pytest.mark.parametrize("status", [Status.LIMITED, Status.EXPIRED])
def test_users_whom_the_panel_cleans_up_count_where_nobody_is_left(world, status):
    names = fill(world, 4)
    for name in names:
        world.panel.users[name].status = status
    world.one_pass()
    world.panel.users = {}
    world.one_pass()
    assert suspensions(world) == ["users_gone"]
    assert len(list(world.bridge.store.accounts.all())) == 4


def test_users_who_are_held_are_not_marked_deleted_either(world):
    names = fill(world, 3)
    for name in names:
        world.run(world.bridge.settler.hold(name))
    world.panel.users = {}
    world.one_pass()
    assert suspensions(world) == ["users_gone"]
    assert all(world.account(name).is_held for name in names)


def test_users_who_were_deleted_before_neither_begin_the_doubt_nor_keep_it(world):
    names = fill(world, 6)
    for name in names[:3]:
        world.panel.delete_user(name)
        world.one_pass()
    assert suspensions(world) == []
    snapshot = to_snapshot(world.panel)
    world.panel.users = {}
    world.one_pass()
    assert suspensions(world) == ["users_gone"]
    restore_snapshot(world.panel, snapshot)
    world.one_pass()
    assert suspensions(world) == []
    assert [each.username for each in world.bridge.store.accounts.all()] == names[3:]


def test_a_panel_that_gets_its_users_back_one_by_one_stays_in_doubt_until_most_are_there(world):
    names = fill(world, 4)
    snapshot = to_snapshot(world.panel)
    world.panel.users = {}
    world.one_pass()
    restore_snapshot(world.panel, snapshot)
    back = dict(world.panel.users)
    for count in (1, 2):
        world.panel.users = {name: back[name] for name in names[:count]}
        world.one_pass()
        assert suspensions(world) == ["users_gone"]
    world.panel.users = {name: back[name] for name in names[:3]}
    world.one_pass()
    assert suspensions(world) == []
    assert [each.username for each in world.bridge.store.accounts.all()] == names[:3]


def test_it_may_lose_them_after_others_were_looked_at_and_before_a_write(world):
    """The sample of before says nothing about users that were listed and are not there now."""
    names = fill(world, 8)
    for name in names[:4]:  # for which others are looked at
        world.panel.modify_user(name, {"data_limit": gib(20)})
    for name in names:
        world.ledger.report(name, gib(30))

    async def lose_all():
        world.panel.users = {}

    world.transport.before_next_write = lose_all
    world.one_pass()
    assert suspensions(world) == ["users_gone"]
    assert len(list(world.bridge.store.accounts.all())) == 8
    assert "deleted" not in kinds(world)
