"""How often the same one may do the same thing."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.runtime.rate_limit import RateLimit


def test_after_a_burst_it_is_one_at_a_time():
    limit = RateLimit(per_second=1 / 60, burst=3)
    waits = [limit.take("alice", now_seconds=100.0) for _ in range(5)]
    assert waits == pytest.approx([0, 0, 0, 60, 60])
    assert limit.take("alice", now_seconds=160.0) == 0
    assert limit.take("alice", now_seconds=160.0) == pytest.approx(60)


def test_names_do_not_share_even_when_they_look_like_neighbours():
    limit = RateLimit(per_second=1, burst=1)
    assert limit.take("2001:db8::1", now_seconds=0.0) == 0
    assert limit.take("2001:db8::2", now_seconds=0.0) == 0


def test_what_is_given_back_was_not_taken():
    limit = RateLimit(per_second=1, burst=1)
    for _ in range(5):
        assert limit.take("alice", now_seconds=0.0) == 0
        limit.give_back("alice", now_seconds=0.0)


def test_no_more_names_are_remembered_than_allowed():
    limit = RateLimit(per_second=1, burst=1, remembered=3)
    for number in range(100):
        limit.take(str(number), now_seconds=0.0)
    assert len(limit._buckets) == 3


def test_those_that_gave_all_back_push_no_others_out():
    limit = RateLimit(per_second=1, burst=1, remembered=3)
    limit.take("alice", now_seconds=0.0)
    for number in range(100):
        limit.take(str(number), now_seconds=0.0)
        limit.give_back(str(number), now_seconds=0.0)
    assert limit.take("alice", now_seconds=0.0) > 0


@given(
    per_second=st.floats(0.001, 100),
    began_seconds=st.floats(0, 1e7),
    calls=st.integers(1, 5),
)
@example(per_second=0.7, began_seconds=1e7, calls=5)
def test_who_waits_as_long_as_told_is_let_through(per_second, began_seconds, calls):
    limit = RateLimit(per_second=per_second, burst=1)
    now_seconds = began_seconds
    for _ in range(calls):
        if wait_seconds := limit.take("alice", now_seconds=now_seconds):
            now_seconds += wait_seconds
            assert limit.take("alice", now_seconds=now_seconds) == 0
