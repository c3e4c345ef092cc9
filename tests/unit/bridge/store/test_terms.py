"""Whether a store still has all that was seen in it, as a table."""

from __future__ import annotations

import pytest

from marzban_bridge.store.postgres.terms import (
    MAX_FORMER_LENGTH,
    TOKEN_BYTES,
    Term,
    former_terms,
    has_moved,
    lacks,
)

ONE, TWO, THREE = (digit * 2 * TOKEN_BYTES for digit in "123")


@pytest.mark.parametrize(
    ("known", "now", "former", "is_lacking"),
    [
        (Term(ONE, 5), Term(ONE, 5), "", False),
        (Term(ONE, 5), Term(ONE, 6), "", False),  # one whose answer was lost
        (Term(ONE, 5), Term(ONE, 4), "", True),
        (Term(ONE, 5), Term(TWO, 0), f" {ONE}:5", False),
        (Term(ONE, 5), Term(TWO, 9), f" {ONE}:7", False),
        (Term(ONE, 5), Term(TWO, 9), f" {ONE}:4", True),
        (Term(ONE, 5), Term(TWO, 9), "", True),  # the term itself is lost
        (Term(ONE, 5), Term("", 0), f" {ONE}:5", False),  # given back
        (Term(ONE, 5), Term("", 0), f" {THREE}:9", True),
        (Term(ONE, 0), Term(THREE, 1), f" {ONE}:0 {TWO}:3", False),
        # Led by so many since that the term has been cut off.
        (Term(ONE, 5), Term(TWO, 0), "x" * MAX_FORMER_LENGTH, False),
    ],
)
def test_a_store_lacks_what_was_seen_and_is_not_there(known, now, former, is_lacking):
    assert lacks(known, now, former=former) is is_lacking


def test_a_list_that_was_cut_off_is_read_as_far_as_it_goes():
    assert former_terms(f"c0ffee {TWO}:3 {THREE}:") == {TWO: 3}


@pytest.mark.parametrize(("token", "is_counted"), [(ONE, True), ("0" * 16, False), ("", False)])
def test_a_leader_of_an_earlier_version_counts_nothing(token, is_counted):
    assert Term(token, 0).is_counted is is_counted


@pytest.mark.parametrize(
    ("led_in", "mark", "seen", "is_so"),
    [
        ("a", "a", {"a"}, False),
        ("a", "b", {"b"}, True),
        ("a", "b", {"a", "b"}, False),  # this process would have missed what was lost
        ("", "b", {"b"}, False),  # led by an earlier version
        ("a", None, set(), False),  # an engine that does not tell
    ],
)
def test_a_store_has_moved_that_is_elsewhere_and_came_there_unseen(led_in, mark, seen, is_so):
    assert has_moved(led_in, mark, seen=seen) is is_so
