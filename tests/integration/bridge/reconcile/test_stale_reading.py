"""What an admin did since a list was read is not written over by what the list said."""

from __future__ import annotations

import time

import pytest

from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World


@pytest.fixture
def world(tmp_path):
    opened = World(tmp_path)
    opened.panel.create_user("alice", data_limit=gib(10))
    opened.ledger.report("alice", gib(1))
    opened.one_pass()
    assert opened.panel.get_user("alice")["data_limit"] == gib(9)
    yield opened
    opened.close()


def test_a_user_is_read_again_before_anything_is_written_to_it(world):
    bridge = world.bridge
    read_at = time.monotonic()
    from_the_list = world.run(bridge.panel.get_user("alice"))
    world.panel.edit_in_dialog("alice", data_limit=gib(50))
    world.ledger.report("alice", gib(2))
    world.run(world.bridges.feed_reader.to_end())
    world.run(bridge.settler.settle("alice", from_the_list, read_at=read_at))
    assert world.account("alice").quota_bytes == gib(50)
    assert world.panel.get_user("alice")["data_limit"] == gib(47)
