"""Contacts and refusals: what is kept of many, and that nothing is counted twice or not at all."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from collector.intake.contact_log import MOST_WAITING, STORED_AGAIN_MILLIS, ContactLog
from collector.reports.contacts import (
    KEPT_DAYS,
    MOST_REFUSED,
    OTHERS,
    Contacts,
    Reason,
    Refused,
    format_contacts,
    merged,
    parse_contacts,
)
from collector.reports.report import DAY_MILLIS

NOW = 1_790_000_000_000
REFUSED = st.builds(
    Refused,
    st.integers(0, 300).map(lambda number: f"198.51.{number // 256}.{number % 256}"),
    st.sampled_from([Reason.NO_KEY.value, Reason.UNKNOWN_KEY.value]),
    st.integers(1, 10**6),
    st.integers(NOW - 1000, NOW),
)


def by_reason(refused):
    counts = Counter()
    for each in refused:
        counts[each.reason] += each.requests
    return counts


@given(st.lists(st.lists(REFUSED, max_size=200), max_size=4))
def test_refusals_are_bounded_and_none_is_lost(batches):
    kept = Contacts()
    for batch in batches:
        kept = merged(kept, Contacts(refused=batch), now_millis=NOW)
        kept = parse_contacts(format_contacts(kept))
    assert by_reason(kept.refused) == by_reason([each for batch in batches for each in batch])
    assert len(kept.refused) <= MOST_REFUSED + len(Reason)
    told_apart = [(each.address, each.reason) for each in kept.refused]
    assert len(told_apart) == len(set(told_apart))


def test_the_latest_addresses_are_told_apart_and_old_ones_forgotten():
    rows = [Refused(f"a{number}", "no key", 1, NOW - number) for number in range(150)]
    kept = merged(Contacts(), Contacts(refused=rows), now_millis=NOW)
    assert [each.address for each in kept.refused[:2]] == ["a0", "a1"]
    assert kept.refused[-1] == Refused(OTHERS, "no key", 50, NOW - MOST_REFUSED)
    later = merged(kept, Contacts(), now_millis=NOW - 50 + KEPT_DAYS * DAY_MILLIS)
    assert {each.address for each in later.refused} == {f"a{number}" for number in range(51)}


def test_a_contact_is_the_latest_of_any_collector():
    kept = merged(Contacts({"r": 5, "s": 5}), Contacts({"r": 3, "s": 7, "t": 1}), now_millis=NOW)
    assert kept.last_contacts == {"r": 5, "s": 7, "t": 1}


def test_a_new_contact_is_stored_at_once_and_a_busy_one_each_minute():
    noted = ContactLog()
    assert noted.take() is None
    noted.note_contact("r", at_millis=NOW)
    assert noted.take() == Contacts({"r": NOW})
    noted.note_contact("r", at_millis=NOW + STORED_AGAIN_MILLIS)
    assert noted.take() is None
    assert noted.take(is_last=True) == Contacts({"r": NOW + STORED_AGAIN_MILLIS})
    noted.note_contact("r", at_millis=NOW + 2 * STORED_AGAIN_MILLIS + 1)
    assert noted.take() == Contacts({"r": NOW + 2 * STORED_AGAIN_MILLIS + 1})
    assert noted.take(is_last=True) is None


def test_what_could_not_be_stored_is_taken_again_with_what_came_since():
    noted = ContactLog()
    noted.note_contact("r", at_millis=NOW)
    noted.note_refusal("a", Reason.NO_KEY, at_millis=NOW)
    taken = noted.take()
    noted.note_refusal("a", Reason.NO_KEY, at_millis=NOW + 1)
    noted.give_back(taken)
    assert noted.take() == Contacts({"r": NOW}, [Refused("a", "no key", 2, NOW + 1)])


def test_addresses_beyond_memory_are_summed_up():
    noted = ContactLog()
    for number in range(MOST_WAITING + 500):
        noted.note_refusal(f"a{number}", Reason.NO_KEY, at_millis=NOW + number)
    taken = noted.take()
    assert len(taken.refused) <= MOST_REFUSED + 1
    assert by_reason(taken.refused) == {"no key": MOST_WAITING + 500}
