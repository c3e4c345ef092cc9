"""Whose turn it is: users of whom something is due before those whose limit only moves."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from marzban_bridge.reconcile.work_queue import Urgency, WorkQueue

CROSSING, PUBLISH = Urgency.CROSSING, Urgency.PUBLISH


class Stored:
    """What is stored of users, and what the panel is asked by names."""

    def __init__(self, **urgencies):
        self.urgencies = urgencies
        self.asked_soon, self.asked_later = [], []

    def has_account(self, key):
        return key in self.urgencies

    def urgency(self, key):
        return self.urgencies.get(key)

    def announced(self, keys):
        self.asked_soon += keys

    def reported(self, keys):
        self.asked_later += keys


class Seconds:
    """A clock that is set."""

    now = 0.0

    def __call__(self):
        return self.now


def empty(stored=None, clock=None):
    stored = stored or Stored()
    return WorkQueue(users=stored, names=stored, monotonic_seconds=clock or Seconds())


def filled(*, crossings=(), publishes=(), clock=None):
    queue = empty(clock=clock)
    queue.add(publishes, PUBLISH)
    queue.add(crossings, CROSSING)
    return queue


def taken(queue, urgency=PUBLISH, limit=2):
    return list(queue.get(urgency, limit=limit).since_seconds)


def test_a_crossing_does_not_wait_behind_others_however_many_waited_before():
    queue = filled(crossings=["x"], publishes=map(str, range(2500)))
    assert queue.most_urgent() is CROSSING
    assert taken(queue, CROSSING) == ["x"]
    assert queue.most_urgent() is PUBLISH
    assert taken(queue) == ["0", "1"]


def test_who_came_first_goes_first():
    queue = filled(crossings="abc")
    queue.add("dab")
    assert [taken(queue, CROSSING) for _ in range(2)] == [["a", "b"], ["c", "d"]]
    assert queue.most_urgent() is None


def test_a_publish_that_becomes_a_crossing_keeps_since_when_it_waits():
    clock = Seconds()
    queue = filled(publishes="ab", clock=clock)
    clock.now = 9.0
    queue.add("b", CROSSING)
    queue.add("b", PUBLISH)
    batch = queue.get(CROSSING, limit=2)
    assert batch.since_seconds == {"b": 0.0}
    clock.now = 12.0
    assert queue.done(batch) == [12.0]
    assert taken(queue) == ["a"]


def test_who_is_put_back_is_next_and_no_name_waits_twice():
    clock = Seconds()
    queue = filled(publishes="abcd", clock=clock)
    batch = queue.get(PUBLISH, limit=3)
    clock.now = 5.0
    queue.add("b", CROSSING)
    queue.put_back(batch)
    assert taken(queue, CROSSING) == ["b"]
    assert queue.get(PUBLISH, limit=9).since_seconds == {"a": 0.0, "c": 0.0, "d": 0.0}
    assert queue.most_urgent() is None


def test_a_batch_costs_by_its_own_users_and_not_by_those_who_wait():
    queue = filled(publishes=map(str, range(50_000)))
    batch = queue.get(PUBLISH, limit=10)
    tracemalloc.start()
    try:
        queue.put_back(batch)
        copied_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert copied_bytes < 100_000, "a copy of the queue is megabytes"
    assert taken(queue, limit=3) == ["0", "1", "2"]


def test_what_is_stored_says_who_is_settled_and_how_urgently():
    stored = Stored(cut=CROSSING, moves=PUBLISH, well=None)
    queue = empty(stored)
    queue.add_if_needed(["moves", "well", "cut", "unknown"])
    assert (taken(queue, CROSSING), taken(queue)) == (["cut"], ["moves"])
    assert queue.most_urgent() is None
    assert (stored.asked_soon, stored.asked_later) == ([], ["well", "unknown"])


def test_a_name_without_an_account_that_is_added_is_asked_for_as_if_it_were_new():
    stored = Stored(alice=None)
    empty(stored).add(["alice", "new"])
    assert stored.asked_soon == ["new"]


@pytest.mark.parametrize("urgency", Urgency)
async def test_loops_that_wait_for_users_of_an_urgency_are_woken(urgency):
    queue = empty()
    waiting = [asyncio.create_task(queue.wait(urgency)) for _ in range(2)]
    (other,) = set(Urgency) - {urgency}
    queue.add(["other"], other)
    await asyncio.sleep(0)
    assert not any(each.done() for each in waiting)
    queue.add(["a"], urgency)
    async with asyncio.timeout(120):
        await asyncio.gather(*waiting)


async def test_a_loop_with_work_does_not_wait():
    async with asyncio.timeout(120):
        await filled(publishes="a").wait(PUBLISH)
