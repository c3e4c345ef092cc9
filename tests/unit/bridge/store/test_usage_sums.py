"""Sums in the bridge's store stay within its integers."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marzban_bridge.store.usage_sums import MOST_BYTES, bounded, sum_of


def summed(values):
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE usage (n INTEGER)")
        db.executemany("INSERT INTO usage VALUES (?)", [(each,) for each in values])
        return db.execute(f"SELECT {sum_of('n')} FROM usage").fetchone()[0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0),
        ([5, 7], 12),
        ([2**53 + 1, 2**53 + 1], 2**54 + 2),
        ([MOST_BYTES - 1], MOST_BYTES - 1),
        ([MOST_BYTES, MOST_BYTES], MOST_BYTES),
        ([MOST_BYTES] * 9, MOST_BYTES),
        ([10, -3], 7),
    ],
)
def test_a_sum_is_exact_and_ends_at_the_most(values, expected):
    assert summed(values) == expected


@given(st.lists(st.integers(0, 2**60), max_size=8))
def test_a_sum_that_fits_is_exact(values):
    assert bounded(summed(values)) == bounded(sum(values))
