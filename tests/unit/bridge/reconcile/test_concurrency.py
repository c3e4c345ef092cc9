"""How many users are settled at once: the panel's answers decide."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from marzban_bridge.errors import PanelUnavailableError
from marzban_bridge.reconcile.users.concurrency import (
    CROSSINGS_IN_A_ROW,
    FEWEST_USERS,
    FIRST_WRITES,
    MOST_USERS,
    RENEWAL_WRITES,
    ConcurrencyLimit,
)
from marzban_bridge.reconcile.work_queue import Urgency


class Panel:
    """Answers writes after a time that depends on how many users are settled at once."""

    def __init__(self, seconds):
        self.now = 0.0
        self.limit = ConcurrencyLimit(monotonic_seconds=lambda: self.now)
        self.seconds = seconds

    async def write(self, times, *, users=None):
        for _ in range(times):
            count = users or self.limit.users
            async with contextlib.AsyncExitStack() as places:
                for _ in range(count):
                    await places.enter_async_context(self.limit.place(Urgency.CROSSING))
                with self.limit.writing():
                    self.now += self.seconds(count)

    async def write_together(self):
        """Write to as many users as allowed, all of whom begin before the first one ends."""
        async with contextlib.AsyncExitStack() as places:
            count = self.limit.users
            for _ in range(count):
                await places.enter_async_context(self.limit.place(Urgency.CROSSING))
            with contextlib.ExitStack() as writes:
                for _ in range(count):
                    writes.enter_context(self.limit.writing())
                self.now += self.seconds(count)

    async def write_in_turn(self):
        """Write to as many users as allowed, each of whom begins as soon as it has its place."""
        async with contextlib.AsyncExitStack() as places:
            with contextlib.ExitStack() as writes:
                count = self.limit.users
                for _ in range(count):
                    await places.enter_async_context(self.limit.place(Urgency.CROSSING))
                    writes.enter_context(self.limit.writing())
                self.now += self.seconds(count)


def in_threads(count, seconds):
    return lambda users: seconds * max(1.0, users / count)


async def test_a_panel_that_is_far_away_is_asked_for_many_at_once():
    panel = Panel(lambda _: 0.2)
    await panel.write(100)
    assert panel.limit.users == MOST_USERS


async def test_a_panel_that_is_far_away_is_asked_for_twice_as_many_after_each_answer():
    panel = Panel(lambda _: 0.2)
    limits = []
    for _ in range(6):
        limits.append(panel.limit.users)
        await panel.write_together()
    assert limits == [4, 4, 5, 10, 20, 32], "the panel is measured with few at first"


async def test_users_who_begin_one_after_the_other_are_as_many_at_once():
    """Each was counted with those before it only, so that the limit took 10 s to grow."""
    panel = Panel(lambda _: 0.2)
    limits = []
    for _ in range(6):
        limits.append(panel.limit.users)
        await panel.write_in_turn()
    assert limits == [4, 4, 5, 10, 20, 32]


async def test_the_limit_shrinks_at_once_to_what_the_panel_serves_and_no_further():
    panel = Panel(in_threads(10, 0.2))
    limits = []
    for _ in range(30):
        limits.append(panel.limit.users)
        await panel.write_in_turn()
    assert max(limits) <= 24
    assert all(10 <= limit <= 14 for limit in limits[7:])


async def test_answers_that_are_a_little_late_with_many_users_keep_the_limit():
    """The bridge takes a few milliseconds for each user, and its own answers are late by that."""
    panel = Panel(lambda users: 0.2 + 0.0008 * users)
    for _ in range(30):
        await panel.write_in_turn()
    assert panel.limit.users >= MOST_USERS - 4


async def test_of_a_panel_that_lets_users_wait_no_more_are_asked_for_at_a_time_than_before():
    panel = Panel(in_threads(10, 0.2))
    limits = []
    for _ in range(50):
        limits.append(panel.limit.users)
        await panel.write_together()
    assert max(limits) <= 24
    assert all(8 <= limit <= 14 for limit in limits[8:])


async def test_a_panel_whose_answers_differ_by_chance_is_asked_for_many_all_the_same():
    """Each answer compared with the shortest one was, so that 12 % more kept the limit low."""
    dice = random.Random(49)
    panel = Panel(lambda _: dice.uniform(0.2, 0.3))
    await panel.write(RENEWAL_WRITES // 2)
    assert panel.limit.users >= MOST_USERS // 2


async def test_what_began_before_the_panel_is_measured_again_says_nothing_about_it():
    panel = Panel(lambda _: 0.2)
    await panel.write_together()
    with contextlib.ExitStack() as writes:
        for _ in range(MOST_USERS):
            writes.enter_context(panel.limit.writing())
        await panel.write(RENEWAL_WRITES - FEWEST_USERS, users=1)
        panel.now += 10
    assert (panel.limit.users, panel.limit._writes) == (FEWEST_USERS, 0)


async def test_a_panel_that_works_on_one_after_the_other_is_asked_for_few():
    panel = Panel(in_threads(1, 0.05))
    await panel.write(500)
    assert panel.limit.users <= FEWEST_USERS + 4


async def test_a_panel_of_ten_threads_is_asked_for_little_more_than_ten_at_once():
    panel = Panel(in_threads(10, 0.2))
    await panel.write(500)
    assert 10 <= panel.limit.users <= 14


async def test_a_panel_that_becomes_slow_is_asked_for_fewer():
    panel = Panel(lambda _: 0.2)
    await panel.write(100)
    panel.seconds = in_threads(4, 0.2)
    await panel.write(100)
    assert panel.limit.users <= FEWEST_USERS + 4


async def test_few_users_say_nothing_about_many():
    panel = Panel(lambda _: 0.2)
    await panel.write(100, users=2)
    assert panel.limit.users == FEWEST_USERS


async def test_after_many_writes_what_the_panel_takes_is_measured_again():
    panel = Panel(lambda _: 0.2)
    await panel.write(RENEWAL_WRITES)
    assert panel.limit.users == FEWEST_USERS
    panel.seconds = lambda _: 0.4
    await panel.write(100)
    assert panel.limit.users == MOST_USERS


async def test_a_panel_that_is_as_it_was_when_it_is_measured_again_is_asked_for_as_many():
    """The limit grew from the fewest users each time, for a second of each ten."""
    panel = Panel(lambda _: 0.2)
    await panel.write(RENEWAL_WRITES)
    assert panel.limit.users == FEWEST_USERS
    panel.seconds = lambda _: 0.22
    await panel.write(FIRST_WRITES)
    assert panel.limit.users == MOST_USERS


@pytest.mark.parametrize("seconds", [0.1, 0.4])
async def test_a_panel_that_is_another_when_it_is_measured_again_is_asked_for_few_at_first(seconds):
    panel = Panel(lambda _: 0.2)
    await panel.write(RENEWAL_WRITES)
    panel.seconds = lambda _: seconds
    await panel.write(FIRST_WRITES)
    assert panel.limit.users <= FEWEST_USERS + 1


async def test_a_panel_that_was_away_is_not_asked_for_as_many_as_before():
    panel = Panel(lambda _: 0.2)
    await panel.write(RENEWAL_WRITES)
    with pytest.raises(PanelUnavailableError), panel.limit.writing():
        raise PanelUnavailableError("away")
    await panel.write(FIRST_WRITES)
    assert panel.limit.users <= FEWEST_USERS + 1


async def test_a_panel_that_is_away_is_asked_for_few_when_it_is_back():
    panel = Panel(lambda _: 0.2)
    await panel.write(100)
    with pytest.raises(PanelUnavailableError), panel.limit.writing():
        raise PanelUnavailableError("away")
    assert panel.limit.users == FEWEST_USERS


async def test_no_more_are_settled_at_once_and_who_came_first_is_first():
    limit = ConcurrencyLimit()
    at_once, most, began = 0, 0, []

    async def settle(number):
        nonlocal at_once, most
        async with limit.place(Urgency.PUBLISH):
            began.append(number)
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            at_once -= 1

    await asyncio.gather(*map(settle, range(30)))
    assert (most, began) == (FEWEST_USERS, list(range(30)))


@pytest.mark.parametrize("is_admitted", [False, True])
async def test_who_is_cancelled_while_it_waits_leaves_its_place_to_the_next(is_admitted):
    limit = ConcurrencyLimit()
    ends = asyncio.Event()
    began = []

    async def settle(number):
        async with limit.place(Urgency.PUBLISH):
            began.append(number)
            await ends.wait()

    tasks = [asyncio.create_task(settle(number)) for number in range(FEWEST_USERS + 2)]
    await asyncio.sleep(0)
    first, waiting = tasks[0], tasks[FEWEST_USERS]
    first.cancel()
    if is_admitted:
        await asyncio.sleep(0)  # the first one leaves, and the next one is to run after that
    waiting.cancel()
    await asyncio.wait([first, waiting])
    ends.set()
    async with asyncio.timeout(120):
        await asyncio.gather(*tasks[1:FEWEST_USERS], tasks[-1])
    assert began == [*range(FEWEST_USERS), FEWEST_USERS + 1]
    assert limit._settled == 0


async def order_of(limit, crossings, publishes):
    """Return the order in which users begin who all wait for the one place that becomes free."""
    ends, began = asyncio.Event(), []

    async def hold():
        async with limit.place(Urgency.PUBLISH):
            await ends.wait()

    async def settle(name, urgency):
        async with limit.place(urgency):
            began.append(name)
            await asyncio.sleep(0)

    holding = [asyncio.create_task(hold()) for _ in range(FEWEST_USERS - 1)]
    await asyncio.sleep(0)
    async with limit.place(Urgency.PUBLISH):
        waiting = [asyncio.create_task(settle(name, Urgency.PUBLISH)) for name in publishes]
        waiting += [asyncio.create_task(settle(name, Urgency.CROSSING)) for name in crossings]
        await asyncio.sleep(0)
    async with asyncio.timeout(120):
        await asyncio.gather(*waiting)
    ends.set()
    await asyncio.gather(*holding)
    return began


async def test_crossings_come_before_all_others_that_wait():
    assert await order_of(ConcurrencyLimit(), "xyz", "abcd") == list("xyzabcd")


async def test_a_crossing_finds_a_place_that_others_leave_free():
    """All others begin together, and so the next place is free when the first of them ends."""
    limit, began = ConcurrencyLimit(), []
    limit._set(MOST_USERS)

    async def settle(name, urgency):
        async with limit.place(urgency):
            began.append(name)
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as tasks:
        others = [
            tasks.create_task(settle(number, Urgency.PUBLISH)) for number in range(2 * MOST_USERS)
        ]
        await asyncio.sleep(0)
        others.append(tasks.create_task(settle("x", Urgency.CROSSING)))
        await asyncio.sleep(0)
        for task in others:
            task.cancel()
    assert began == [*range(MOST_USERS - 2), "x"]


async def test_a_flood_of_crossings_does_not_starve_the_others():
    crossings = [f"x{number}" for number in range(3 * CROSSINGS_IN_A_ROW)]
    began = await order_of(ConcurrencyLimit(), crossings, "ab")
    assert [began.index(name) for name in "ab"] == [CROSSINGS_IN_A_ROW, 2 * CROSSINGS_IN_A_ROW + 1]
    assert [name for name in began if name not in "ab"] == crossings
