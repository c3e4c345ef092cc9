"""How often the same one may do the same thing."""

from __future__ import annotations

from marzban_bridge.api.access.throttle import Throttle


def test_after_a_burst_it_is_one_at_a_time():
    throttle = Throttle(burst=3, refill_seconds=60)
    waits = [throttle.take("alice", now_seconds=100.0) for _ in range(5)]
    assert waits == [0, 0, 0, 60, 60]
    assert throttle.take("alice", now_seconds=160.0) == 0
    assert throttle.take("alice", now_seconds=160.0) == 60


def test_names_do_not_share_even_when_they_look_like_neighbours():
    throttle = Throttle(burst=1, refill_seconds=60)
    assert throttle.take("2001:db8::1", now_seconds=0.0) == 0
    assert throttle.take("2001:db8::2", now_seconds=0.0) == 0


def test_what_is_given_back_was_not_taken():
    throttle = Throttle(burst=1, refill_seconds=60)
    for _ in range(5):
        assert throttle.take("alice", now_seconds=0.0) == 0
        throttle.give_back("alice", now_seconds=0.0)


def test_no_more_names_are_remembered_than_allowed():
    throttle = Throttle(burst=1, refill_seconds=60, remembered=3)
    for number in range(100):
        throttle.take(str(number), now_seconds=0.0)
    assert len(throttle._tried) == 3
