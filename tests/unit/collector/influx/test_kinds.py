"""What other databases than InfluxDB 2.x are given, and what is left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.influx.kinds import TargetKind, numbers_only
from collector.influx.lines import to_line
from collector.schema import EVENTS, USER_LISTS, Policy

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\"), min_size=1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)


@given(
    tags=st.dictionaries(st.sampled_from(["user", "admin", "panel"]), NAMES, min_size=1),
    fields=st.lists(st.one_of(NUMBERS, TEXTS), min_size=1, max_size=6),
)
def test_texts_are_left_out_and_everything_else_is_as_it_was(tags, fields):
    named = {f"f{n}": value for n, value in enumerate(fields)}
    numbers = {name: value for name, value in named.items() if not isinstance(value, str)}
    expected = [to_line("user_usage", tags, numbers, 7)] if numbers else []
    assert list(numbers_only([to_line("user_usage", tags, named, 7)])) == expected


@pytest.mark.parametrize("measurement", [EVENTS.name, USER_LISTS.name])
def test_what_says_nothing_without_its_texts_is_left_out_whole(measurement):
    line = to_line(measurement, {"rank": "01"}, {"user": "alice", "used_bytes": 5}, 7)
    assert list(numbers_only([line])) == []


def test_only_what_overwrites_is_given_the_sums_of_days():
    assert TargetKind.VICTORIAMETRICS.policies == (Policy.RAW,)
    assert TargetKind.INFLUXDB3.policies == TargetKind.INFLUXDB.policies == tuple(Policy)
