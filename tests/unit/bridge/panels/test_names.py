"""Whose a reported name is: the user of exactly that name, else the only one equal without case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzban_bridge.panels.names import folded, owner_of


@pytest.mark.parametrize(
    ("reported", "names", "owner"),
    [
        ("Alice", ["Alice"], "Alice"),
        ("Alice", ["alice", "Alice", "ALICE"], "Alice"),
        ("Alice", ["alice"], "alice"),
        ("Alice", ["alice", "alice"], "alice"),
        ("Alice", ["alice", "ALICE"], None),
        ("Alice", [], None),
        ("Alice", ["Alice "], None),
        ("Alice ", ["Alice"], None),
        ("Zoe\u0301", ["Zo\u00e9"], "Zo\u00e9"),
        ("zo\u00c9", ["Zoe\u0301"], "Zo\u00e9"),
    ],
)
def test_the_exact_name_goes_before_the_only_one_equal_without_case(reported, names, owner):
    assert owner_of(reported, names) == owner


NAMES = st.text(st.sampled_from("aAbB"), min_size=1, max_size=3)


@given(reported=NAMES, names=st.lists(NAMES))
def test_an_owner_is_one_of_the_users_and_no_two_others_could_be_meant(reported, names):
    equal = {name for name in names if folded(name) == folded(reported)}
    owner = owner_of(reported, names)
    if reported in equal:
        assert owner == reported
    else:
        assert owner == (next(iter(equal)) if len(equal) == 1 else None)
