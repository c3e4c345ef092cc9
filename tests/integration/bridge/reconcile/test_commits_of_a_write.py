"""How often the store commits for one published limit, and what is on disk before it is sent."""

from __future__ import annotations

import contextlib
import sqlite3

import msgspec
import pytest

from marzban_bridge.panels.users import Status
from marzban_bridge.quota.account import Account
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World


@pytest.fixture
def world(tmp_path):
    """A user with 10 GiB, of which 1 is used in the panel."""
    with contextlib.closing(World(tmp_path)) as world:
        world.panel.create_user("alice", data_limit=gib(10))
        world.panel.use_traffic("alice", gib(1))
        world.ledger.report("alice", 1)
        world.one_pass()
        yield world


def counted_commits(world):
    """Return the list that gets an entry with each commit, and with each request to the panel."""
    handle, seen = world.bridge.store._handle, []
    commit, ask = handle._commit, world.transport._inner.handle_async_request

    def noted_commit():
        seen.append("commit")
        commit()

    async def noted_request(request):
        seen.append(request.method)
        return await ask(request)

    handle._commit = noted_commit
    world.transport._inner.handle_async_request = noted_request
    return seen


def settling(world):
    """Read the feed; return what settles the user from the queue, as the loops do."""
    world.run(world.bridges.feed_reader.to_end())
    queue, loop = world.bridge.queue, world.bridge.reconciler
    urgency = queue.most_urgent()
    return lambda: world.run(loop._settle_batch(urgency))


@pytest.mark.parametrize(("used_gib", "status"), [(1, "active"), (12, "limited")])
def test_a_write_takes_two_commits_one_before_it_and_one_with_its_answer(world, used_gib, status):
    """There were four: the evaluation, the write to come, its answer, and the evaluation of it."""
    world.ledger.report("alice", gib(used_gib))
    settle = settling(world)
    seen = counted_commits(world)
    settle()
    assert world.panel.find("alice").status == status
    assert seen == ["GET", "commit", "PUT", "commit"]
    assert world.account("alice").sighting.status is Status(status)
    assert world.account("alice").open_writes == ()


def test_what_is_written_is_on_disk_before_the_panel_is_asked(world):
    """Another connection reads the file while the write is on its way, as a start would."""
    found = []

    async def look():
        with contextlib.closing(sqlite3.connect(world.settings.store)) as file:
            row = file.execute("SELECT state FROM account").fetchone()
        found.append(msgspec.json.decode(row[0], type=Account))

    world.ledger.report("alice", gib(2))
    settle = settling(world)
    world.transport.before_next_write = look
    settle()
    (account,) = found
    (write,) = account.open_writes
    assert write.data_limit_bytes == world.panel.find("alice").data_limit == gib(8) - 1
    assert account.seen_total_bytes == gib(2) + 1, "the evaluation that led to it is there, too"


def test_an_evaluation_is_undone_with_the_write_that_could_not_be_stored(world):
    """Both are one commit, so that no other user's commit takes half of them along."""
    world.ledger.report("alice", gib(2))
    settle = settling(world)
    before = world.account("alice")
    handle, commit = world.bridge.store._handle, world.bridge.store._handle._commit

    def full():
        raise sqlite3.OperationalError("database or disk is full")

    handle._commit = full
    with pytest.raises(sqlite3.OperationalError):
        settle()
    handle._commit = commit
    assert world.account("alice") == before
    assert not any(method == "PUT" for method, _ in world.transport.writes)
