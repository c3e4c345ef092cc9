"""Whose turn it is: users of whom something is due before those whose limit only moves."""

from __future__ import annotations

from marzban_bridge.reconcile.work_queue import CROSSINGS_IN_A_ROW, Urgency, WorkQueue

CROSSING, PUBLISH = Urgency.CROSSING, Urgency.PUBLISH


def filled(*, crossings=(), publishes=()):
    queue = WorkQueue()
    queue.add(publishes, PUBLISH, now_seconds=1)
    queue.add(crossings, CROSSING, now_seconds=2)
    return queue


def taken(queue, limit=2, few=1):
    urgency, batch = queue.take(limit=limit, few=few)
    return urgency, list(batch.since_seconds), batch.gives_way


def test_a_crossing_goes_first_however_many_waited_before():
    queue = filled(crossings=["x"], publishes=map(str, range(2500)))
    assert taken(queue) == (CROSSING, ["x"], False)
    assert taken(queue) == (PUBLISH, ["0", "1"], True)


def test_who_came_first_goes_first():
    queue = filled(crossings="abc")
    queue.add("dab", CROSSING, now_seconds=3)
    assert [taken(queue)[1] for _ in range(2)] == [["a", "b"], ["c", "d"]]
    assert not queue


def test_a_publish_that_becomes_a_crossing_keeps_since_when_it_waits():
    queue = filled(publishes="ab")
    queue.add("b", CROSSING, now_seconds=9)
    queue.add("b", PUBLISH, now_seconds=9)
    _, batch = queue.take(limit=2, few=1)
    assert batch.since_seconds == {"b": 1}
    assert taken(queue)[1] == ["a"]


def test_a_flood_of_crossings_does_not_starve_the_others():
    queue = filled(crossings=map(str, range(100)), publishes="ab")
    turns = [taken(queue, few=1) for _ in range(CROSSINGS_IN_A_ROW + 1)]
    assert [urgency for urgency, _, _ in turns] == [CROSSING] * CROSSINGS_IN_A_ROW + [PUBLISH]
    assert turns[-1] == (PUBLISH, ["a"], False), "these few give way to nobody"
    assert taken(queue)[0] == CROSSING


def test_what_is_put_back_is_next_and_nobody_waits_twice():
    queue = filled(publishes="abcd")
    _, batch = queue.take(limit=3, few=1)
    queue.add("b", CROSSING, now_seconds=5)
    queue.put_back(batch.since_seconds, PUBLISH)
    assert taken(queue) == (CROSSING, ["b"], False)
    assert taken(queue, limit=9)[1] == ["a", "c", "d"]
    assert not queue
