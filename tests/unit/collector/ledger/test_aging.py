"""How old a report is by the time that collectors ran."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collector.ledger.aging import MARKS_PER_WINDOW, Ages

HOUR = 3_600_000
WEEK = 7 * 24 * HOUR


def test_nothing_is_old_in_a_ledger_that_begins_to_count():
    ages = Ages.parse(None).later(ran_millis=0, seq=1000, kept_millis=WEEK)
    assert ages.old_through(kept_millis=WEEK) == 0


def test_what_was_there_is_old_when_collectors_ran_for_so_long():
    ages = Ages.parse(None)
    for hour in range(7 * 24 + 1):
        assert ages.old_through(kept_millis=WEEK) == 0
        ages = ages.later(ran_millis=HOUR if hour else 0, seq=1000 + hour, kept_millis=WEEK)
    assert ages.old_through(kept_millis=WEEK) == 1000


@given(
    steps=st.lists(
        st.tuples(st.integers(0, 3 * 24 * HOUR), st.integers(0, 50)), min_size=1, max_size=300
    ),
    kept=st.sampled_from([HOUR, 24 * HOUR, WEEK]),
)
def test_no_report_is_called_old_before_its_time_and_each_is_soon_after(steps, kept):
    ages, seq, ran = Ages(), 0, 0
    came: list[tuple[int, int]] = []
    for ran_millis, reports in steps:
        ran += ran_millis
        came += [(number, ran) for number in range(seq + 1, seq + reports + 1)]
        seq += reports
        ages = Ages.parse(ages.later(ran_millis=ran_millis, seq=seq, kept_millis=kept).format())
        old = ages.old_through(kept_millis=kept)
        assert all(ran - at >= kept for number, at in came if number <= old)
        assert len(ages.marks) <= MARKS_PER_WINDOW + 2
    later = ages.later(ran_millis=kept, seq=seq, kept_millis=kept)
    later = later.later(ran_millis=kept + 1, seq=seq, kept_millis=kept)
    assert later.old_through(kept_millis=kept) == seq


def test_a_clock_that_went_back_ages_nothing():
    ages = Ages(10, ()).later(ran_millis=-5, seq=1, kept_millis=1000)
    assert ages.ran_millis == 10
