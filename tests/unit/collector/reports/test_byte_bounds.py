"""How many bytes a sender may report in an hour and a day."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.reports.byte_bounds import SHARE, Bounds, ByteBounds
from collector.reports.sender_days import HOUR_MILLIS, SenderBytes
from tests.support.collector.ledgers import DAY

MIDNIGHT = DAY * 24 * HOUR_MILLIS
BOUNDS = Bounds("COLLECTOR_USER", 100, 320, 640)


def take(bounds, amount, *, at=MIDNIGHT, sender="s", stored=None):
    """Let a request through as the collector does, reading what `stored` says where it must."""
    if bounds.must_read(sender, amount, now_millis=at):
        reading = bounds.begin_reading(sender, now_millis=at)
        found = SenderBytes(0, 0) if stored is None else stored(reading.hour)
        bounds.note_read(sender, reading, found, now_millis=at)
    beyond = bounds.let_through(sender, amount, now_millis=at)
    bounds.settle(sender, amount)
    return beyond


class Book:
    """A ledger that remembers what was let through, by hour."""

    def __init__(self):
        self.hours = {}
        self.reads = 0

    def add(self, hour, amount):
        self.hours[hour] = self.hours.get(hour, 0) + amount

    def read(self, hour):
        self.reads += 1
        day = sum(amount for each, amount in self.hours.items() if each // 24 == hour // 24)
        return SenderBytes(self.hours.get(hour, 0), day)


@pytest.mark.parametrize(
    ("stored", "at", "amount", "expected"),
    [
        (SenderBytes(0, 0), MIDNIGHT, 320, None),
        (SenderBytes(0, 0), MIDNIGHT, 321, ("hour", 320, 3600.0)),
        (SenderBytes(220, 220), MIDNIGHT + 1_800_000, 100, None),
        (SenderBytes(221, 221), MIDNIGHT + 1_800_000, 100, ("hour", 320, 1800.0)),
        (SenderBytes(0, 541), MIDNIGHT, 100, ("day", 640, 3600.0)),
        (SenderBytes(0, 541), MIDNIGHT + 24 * HOUR_MILLIS - 5000, 100, ("day", 640, 5.0)),
        (SenderBytes(0, 541), MIDNIGHT + 23 * HOUR_MILLIS - 5000, 100, ("day", 640, 3600.0)),
    ],
)
def test_a_request_beyond_a_bound_is_told_which_and_when_to_come_again(
    stored, at, amount, expected
):
    assert take(ByteBounds(BOUNDS), amount, at=at, stored=lambda _: stored) == expected


def test_an_hour_and_a_day_later_there_is_room_again():
    bounds, book = ByteBounds(BOUNDS), Book()

    def send(at):
        beyond = take(bounds, 100, at=at, stored=book.read)
        if beyond is None:
            book.add(at // HOUR_MILLIS, 100)
        return beyond and beyond.span

    hour, day = HOUR_MILLIS, 24 * HOUR_MILLIS
    moments = [0, 1, 2, 3, hour, hour + 1, hour + 2, hour + 3, 2 * hour, day - 1, day]
    found = [send(MIDNIGHT + each) for each in moments]
    assert found == [None] * 3 + ["hour"] + [None] * 3 + ["day", "day", "day", None]


def test_the_ledger_is_not_read_for_who_is_far_from_the_bound():
    bounds, book = ByteBounds(BOUNDS), Book()
    for _ in range(BOUNDS.hour_bytes // SHARE):
        assert take(bounds, 1, stored=book.read) is None
    assert book.reads == 0
    assert take(bounds, 1, stored=book.read) is None
    assert book.reads == 1


def test_who_is_refused_is_refused_from_memory_for_a_second():
    bounds, book = ByteBounds(BOUNDS), Book()
    book.add(MIDNIGHT // HOUR_MILLIS, 300)
    found = [take(bounds, 21, at=MIDNIGHT + at, stored=book.read) for at in (0, 1, 999, 1000)]
    assert all(each.span == "hour" for each in found)
    assert book.reads == 2


def test_what_is_on_its_way_counts_and_what_was_not_stored_does_not_count_for_long():
    bounds = ByteBounds(BOUNDS)
    assert bounds.let_through("s", 300, now_millis=MIDNIGHT) is None
    reading = bounds.begin_reading("s", now_millis=MIDNIGHT)
    bounds.note_read("s", reading, SenderBytes(0, 0), now_millis=MIDNIGHT)
    assert bounds.let_through("s", 100, now_millis=MIDNIGHT).span == "hour"
    bounds.settle("s", 300)
    assert take(bounds, 100, stored=lambda _: SenderBytes(0, 0)) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 100), st.integers(0, 400_000), st.booleans()),
        max_size=200,
    )
)
def test_several_collectors_and_restarts_let_through_a_share_more_each_at_most(requests):
    """As decision 0017 says: the bound, and for every collector and restart a part in SHARE."""
    book, at, restarts = Book(), MIDNIGHT, 0
    collectors = [ByteBounds(BOUNDS) for _ in range(3)]
    for number, amount, later, restarts_now in requests:
        at += later
        if restarts_now:
            collectors[number] = ByteBounds(BOUNDS)
            restarts += 1
        if take(collectors[number], amount, at=at, stored=book.read) is None:
            book.add(at // HOUR_MILLIS, amount)
    share = BOUNDS.hour_bytes // SHARE
    spare = (len(collectors) + restarts) * share
    assert all(amount <= BOUNDS.hour_bytes + spare for amount in book.hours.values())
    for hour in book.hours:
        assert book.read(hour).day_bytes <= BOUNDS.day_bytes + spare


def test_those_seen_longest_ago_are_forgotten_and_read_again():
    bounds, book = ByteBounds(BOUNDS, remembered=1), Book()
    book.add(MIDNIGHT // HOUR_MILLIS, 310)
    assert take(bounds, 5, stored=book.read) is None
    assert take(bounds, 5, sender="t", stored=book.read) is None
    assert take(bounds, 21, stored=book.read).span == "hour"
