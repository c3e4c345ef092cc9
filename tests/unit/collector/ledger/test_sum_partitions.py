"""Which collector adds up which partition of the sums, and when the leader numbers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.ledger.postgres.sums import members
from collector.ledger.postgres.sums.members import Members, share_of
from collector.ledger.postgres.sums.partitions import part_of
from collector.ledger.postgres.sums.rounds import ROUND_REPORTS, Rounds

tokens = st.lists(st.text("abcdef", min_size=3, max_size=3), min_size=1, max_size=9, unique=True)
parts = st.lists(st.integers(0, 63), max_size=20, unique=True)


@given(tokens, parts)
def test_each_partition_is_one_running_collectors_and_each_has_as_many(running, parts):
    shares = [share_of(each, running, parts) for each in running]
    assert sorted(part for share in shares for part in share) == sorted(parts)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(tokens, parts)
def test_a_collector_counts_itself_whether_it_is_listed_or_not(running, parts):
    me = running[0]
    assert share_of(me, running[1:], parts) == share_of(me, running, parts)


def test_users_are_spread_over_all_partitions_and_stay_where_they_are():
    counts = Counter(part_of(f"user{n}", 4) for n in range(4000))
    assert sorted(counts) == [0, 1, 2, 3]
    assert min(counts.values()) > 800
    assert part_of("user1", 1) == 0
    # Stored with each report: another function would only move users, but let it be on purpose.
    assert [part_of(name, 4) for name in ("alice", "bob", "Бобик", "bob.panel")] == [3, 0, 0, 3]


class Table:
    """The rows of `adder`, as much of a database as `Members` asks of it."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}

    def execute(self, text, values=()):
        if text.startswith("INSERT"):
            self.rows[values[0]] = self.rows.get(values[0], 0) + 1
        elif text.startswith("DELETE") and values[1:] in {(), (self.rows.get(values[0]),)}:
            self.rows.pop(values[0], None)
        return self

    def fetchall(self):
        return list(self.rows.items())


class World:
    def __init__(self, monkeypatch) -> None:
        self.now_seconds = 1000.0
        monkeypatch.setattr(members, "seconds_now", lambda: self.now_seconds)
        self.table = Table()

    def member(self) -> Members:
        return Members(holder="h", lease_seconds=6)

    def shares(self, *running: Members, seconds: float = 0.0) -> list[list[int]]:
        """Have these poll four times a second for so long; return the partitions of each."""
        until_seconds = self.now_seconds + seconds
        while self.now_seconds < until_seconds:
            self.now_seconds += 0.25
            for each in running:
                each.share(self.table, range(4))
        return [each.share(self.table, range(4)) for each in running]


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_one_has_all_and_a_second_one_takes_half(world):
    one, two = world.member(), world.member()
    assert world.shares(one) == [[0, 1, 2, 3]]
    shares = world.shares(one, two, seconds=2.5)
    assert sorted(shares) == [[0, 2], [1, 3]]


def test_rows_that_a_restored_database_brings_have_no_partitions_and_are_removed(world):
    world.table.rows |= {"a": 7, "z": 9}
    one = world.member()
    assert world.shares(one) == [[0, 1, 2, 3]]
    assert world.shares(one, seconds=3) == [[0, 1, 2, 3]]
    world.shares(one, seconds=62)
    assert list(world.table.rows) == [one.name]


def test_the_partitions_of_one_that_is_gone_are_taken_within_a_lease(world):
    one, two, three = world.member(), world.member(), world.member()
    world.shares(one, two, three, seconds=3)
    (of_one, of_two) = world.shares(one, two, seconds=5)
    assert len(of_one) + len(of_two) < 4
    (of_one, of_two) = world.shares(one, two, seconds=1.5)
    assert sorted([*of_one, *of_two]) == [0, 1, 2, 3]
    world.shares(one, two, seconds=60)
    assert len(world.table.rows) == 2


def test_one_that_leaves_in_good_order_is_replaced_within_a_second(world):
    one, two = world.member(), world.member()
    world.shares(one, two, seconds=3)
    two.leave(world.table)
    assert world.shares(one, seconds=1) == [[0, 1, 2, 3]]


def test_one_that_cannot_add_up_leaves_its_partitions_to_the_others_until_it_can(world):
    one, two = world.member(), world.member()
    world.shares(one, two, seconds=3)
    two.is_able = False
    (of_one, _) = world.shares(one, two, seconds=7)
    assert of_one == [0, 1, 2, 3]
    two.is_able = True
    assert sorted(world.shares(one, two, seconds=3)) == [[0, 2], [1, 3]]


def test_one_that_was_frozen_comes_back_after_its_row_was_removed(world):
    one, two = world.member(), world.member()
    world.shares(one, two, seconds=3)
    world.shares(one, seconds=100)
    assert len(world.table.rows) == 1
    assert sorted(world.shares(one, two, seconds=3)) == [[0, 2], [1, 3]]


def test_a_round_is_numbered_when_the_one_before_is_added_up_or_after_a_second():
    rounds = Rounds()
    assert rounds.may_number(ahead=0, now_seconds=10)
    rounds.numbered(10)
    assert not rounds.may_number(ahead=0, now_seconds=10.1)
    assert rounds.may_number(ahead=0, now_seconds=10.1, is_awaited=True)
    assert rounds.may_number(ahead=0, now_seconds=10.5)
    assert not rounds.may_number(ahead=1, now_seconds=10.9, is_awaited=True)
    assert not rounds.may_number(ahead=1, now_seconds=10.9)
    assert rounds.may_number(ahead=1, now_seconds=11)


def test_with_too_much_ahead_nothing_is_numbered_until_all_is_added_up():
    """So that a user whose reports keep coming is no longer ahead of the head, and is read."""
    rounds = Rounds()
    assert not rounds.may_number(ahead=ROUND_REPORTS, now_seconds=10)
    assert not rounds.may_number(ahead=1, now_seconds=1000)
    assert rounds.may_number(ahead=0, now_seconds=1000)
    assert rounds.may_number(ahead=ROUND_REPORTS - 1, now_seconds=1001)
