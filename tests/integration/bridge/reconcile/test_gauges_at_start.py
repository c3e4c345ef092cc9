"""A bridge that was restarted shows what its store knows before it has reached the panel."""

from __future__ import annotations

import asyncio
import re

from tests.support.bridge.bridge_world import BridgeWorld


def gauge(text, name):
    [value] = re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)
    return float(value)


async def test_a_restart_while_the_panel_is_away_ends_no_alert(tmp_path):
    """Zero until the first pass would be told as the end of what is wrong."""
    world = BridgeWorld(tmp_path)
    async with world.serving():
        world.ledger.report("nobody-knows", 5)
        await world.bridges.run_once()
        assert gauge((await world.client.get("/metrics")).text, "bridge_orphans") == 1
    world.faults.is_down = True
    async with world.serving():
        text = (await world.client.get("/metrics")).text
    assert gauge(text, "bridge_panel_up") == 0
    assert gauge(text, "bridge_orphans") == 1


async def test_users_whom_the_panel_sees_online_are_counted_by_a_pass(tmp_path):
    async with BridgeWorld(tmp_path).serving() as world:
        world.panel.use_traffic("alice", 10)
        for name in ("alice", "bob"):
            world.ledger.report(name, 5)
        await online_users_are(1, world)
        world.clock.advance(seconds=300)
        await online_users_are(0, world)


async def online_users_are(count, world):
    """Make passes until one counts so many: one that the bridge began by itself may end last."""
    async with asyncio.timeout(60):
        text = ""
        while not text or gauge(text, "bridge_online_users") != count:
            await world.bridges.run_once()
            text = (await world.client.get("/metrics")).text
