"""What a sender reported by hour and day."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.reports.report import MAX_AMOUNT_BYTES
from collector.reports.sender_days import HourBytes, SenderBytes, SenderDay, grown, in_hour

FIRST = 100 * 24


def row(raw_bytes, hour, hour_bytes, earlier_hour_bytes, *, day=100):
    return SenderDay(day, "s", raw_bytes, hour, hour_bytes, earlier_hour_bytes)


@pytest.mark.parametrize(
    ("known", "hours", "expected"),
    [
        (None, [(FIRST, 5)], [row(5, FIRST, 5, 0)]),
        (row(5, FIRST, 5, 0), [(FIRST, 2)], [row(7, FIRST, 7, 0)]),
        (row(5, FIRST, 5, 0), [(FIRST + 1, 2)], [row(7, FIRST + 1, 2, 5)]),
        (row(5, FIRST + 1, 1, 4), [(FIRST + 1, 9), (FIRST + 3, 2)], [row(16, FIRST + 3, 2, 10)]),
        (row(5, FIRST + 2, 5, 1), [(FIRST + 1, 3)], [row(8, FIRST + 2, 5, 3)]),
        (None, [(FIRST + 24, 1), (FIRST, 2)], [row(2, FIRST, 2, 0), row(1, FIRST + 24, 1, 0, day=101)]),
        (
            row(MAX_AMOUNT_BYTES, FIRST, MAX_AMOUNT_BYTES, 0),
            [(FIRST, MAX_AMOUNT_BYTES)],
            [row(MAX_AMOUNT_BYTES, FIRST, MAX_AMOUNT_BYTES, 0)],
        ),
    ],
)  # fmt: skip
def test_hours_are_added_to_their_days(known, hours, expected):
    before = {} if known is None else {(known.day, known.sender): known}
    assert grown(before, [HourBytes("s", *each) for each in hours]) == expected


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=20))
def test_added_in_their_order_the_largest_hour_of_each_day_is_known(hours):
    by_hour: dict[int, int] = {}
    known: dict[tuple[int, str], SenderDay] = {}
    for hour, amount in sorted(hours):
        by_hour[hour] = by_hour.get(hour, 0) + amount
        for changed in grown(known, [HourBytes("s", hour, amount)]):
            known[changed.day, "s"] = changed
    for changed in known.values():
        of_day = {hour: amount for hour, amount in by_hour.items() if hour // 24 == changed.day}
        assert changed.raw_bytes == sum(of_day.values())
        assert (changed.hour, changed.hour_bytes) == (max(of_day), of_day[max(of_day)])
        assert changed.earlier_hour_bytes == max(
            (amount for hour, amount in of_day.items() if hour < max(of_day)), default=0
        )


def test_what_is_in_no_sum_yet_counts_where_it_belongs():
    unfolded = [HourBytes("s", hour, 1) for hour in (FIRST - 1, FIRST, FIRST + 1)]
    assert in_hour(None, [], hour=FIRST) == SenderBytes(0, 0)
    assert in_hour(row(9, FIRST, 4, 5), unfolded, hour=FIRST) == SenderBytes(5, 11)
    assert in_hour(row(9, FIRST, 4, 5), unfolded, hour=FIRST + 1) == SenderBytes(1, 11)
