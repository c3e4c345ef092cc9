"""Who waits for whom while a bridge stands still."""

from __future__ import annotations

import asyncio

import pytest

from marzban_bridge.errors import PausedError, ReleasedError
from marzban_bridge.reconcile.standstill import Standstill


async def test_it_begins_when_the_steps_under_way_are_over_and_holds_further_ones():
    standstill, may_end, order = Standstill(), asyncio.Event(), []

    async def step(name):
        async with standstill.step():
            order.append(f"{name} begins")
            await may_end.wait()
            order.append(f"{name} ends")

    async def hold():
        async with standstill.hold("a rebase"):
            order.append("held")
            await asyncio.sleep(0)
            order.append("over")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(step("one"))
        await asyncio.sleep(0)
        tasks.create_task(hold())
        await asyncio.sleep(0)
        tasks.create_task(step("two"))
        await asyncio.sleep(0)
        may_end.set()
    assert order == ["one begins", "one ends", "held", "over", "two begins", "two ends"]


async def test_a_step_that_does_not_end_is_no_deadlock():
    standstill = Standstill(rest_seconds=0.01)
    async with standstill.step():
        with pytest.raises(PausedError, match="a rebase was not begun"):
            async with standstill.hold("a rebase"):
                pytest.fail("a step is under way")
    with standstill.action():
        assert standstill.reason is None


async def test_a_step_that_is_cancelled_while_it_waits_or_works_holds_up_nothing():
    standstill = Standstill()

    async def step():
        async with standstill.step():
            await asyncio.Event().wait()

    working = asyncio.create_task(step())
    await asyncio.sleep(0)
    working.cancel()
    async with standstill.hold("a rebase"):
        waiting = asyncio.create_task(step())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    async with standstill.hold("a rebase"):
        assert standstill.times == 1


async def test_after_a_release_no_step_and_no_action_begins():
    standstill = Standstill()
    async with standstill.hold("a release"):
        with pytest.raises(PausedError, match="a release is under way"), standstill.action():
            pytest.fail("it stands still")
        standstill.released = "released"
    assert standstill.reason == "released"
    with pytest.raises(ReleasedError), standstill.action():
        pytest.fail("it is released")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01), standstill.step():
            pytest.fail("it is released")


async def test_a_sleep_ends_with_the_standstill_that_may_have_mended_its_cause():
    standstill = Standstill()
    sleeping = asyncio.create_task(standstill.sleep(3600))
    await asyncio.sleep(0)
    async with standstill.hold("a rebase"):
        pass
    async with asyncio.timeout(120):
        await sleeping
