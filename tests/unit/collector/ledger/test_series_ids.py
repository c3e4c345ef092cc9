"""What is remembered of series: exactly what was put in, in bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.ledger.sqlite import series_ids
from collector.ledger.sqlite.series_ids import SeriesIds

keys = st.tuples(
    st.sampled_from(["alice", "bob", "ю"]),
    st.integers(0, 400).map(str),
    st.sampled_from([0, 443, 65535]),
    st.sampled_from(["vless", "unknown"]),
)


@given(st.dictionaries(keys, st.integers(1, 2**32 + 5), max_size=300), st.lists(keys))
def test_what_is_remembered_is_found_and_nothing_else(series, others):
    ids = SeriesIds()
    for key, series_id in series.items():
        ids.remember(key, series_id)
    for key in [*series, *others]:
        found = ids.get(key)
        assert found == (series.get(key) if series.get(key, 0) < 2**32 else None)


@given(
    st.dictionaries(keys, st.integers(1, 2**31), min_size=1),
    st.lists(keys, min_size=1),
    st.booleans(),
)
def test_of_many_at_once_those_that_were_asked_for_are_found(series, others, is_asked_for):
    ids = SeriesIds()
    for key, series_id in series.items():
        ids.remember(key, series_id)
        assert not is_asked_for or ids.get(key) == series_id
    asked = [*series, *others]
    known = series if is_asked_for else {}
    assert ids.recent(*zip(*asked, strict=True)) == [known.get(key) for key in asked]


@pytest.mark.parametrize("servers", [1, 3])
@pytest.mark.parametrize("ports", [1, 2])
def test_users_are_told_apart_on_one_server_on_some_and_on_several_ports(servers, ports):
    ids = SeriesIds()
    asked = [
        (f"user{number}", f"server-{number % servers}", number // 3 % ports, "vless")
        for number in range(1, 30)
    ]
    for number, key in enumerate(asked, start=1):
        ids.remember(key, number)
        ids.get(key)
    columns = list(zip(*asked, strict=True))
    assert ids.recent(*columns) == list(range(1, 30))
    columns[0] = ["stranger"] * 29
    assert ids.recent(*columns) == [None] * 29


def test_few_that_were_asked_for_last_are_found_faster(monkeypatch):
    monkeypatch.setattr(series_ids, "MAX_RECENT", 10)
    ids = SeriesIds()
    for number in range(1, 26):
        ids.remember(key := ("alice", f"server-{number}", 443, "vless"), number)
        assert ids.get(key) == number
    places = [("alice", f"server-{number}", 443, "vless") for number in range(1, 26)]
    assert ids.recent(*zip(*places, strict=True)) == [None] * 20 + list(range(21, 26))


def test_an_id_that_looks_like_the_number_of_a_place_is_not_taken_for_one():
    ids = SeriesIds()
    places = [("alice", str(number), 443, "vless") for number in range(300)]
    for number, key in enumerate(places):
        ids.remember(key, number * 0x0101_0101 % 2**32 or 1)
    for number, key in enumerate(places):
        assert ids.get(key) == (number * 0x0101_0101 % 2**32 or 1)


def test_beyond_its_bounds_it_forgets_and_is_right_all_the_same():
    ids = SeriesIds(max_users=10, max_series=50)
    for number in range(1, 1000):
        key = (f"user{number % 17}", f"server-{number}", 443, "vless")
        ids.remember(key, number)
        assert ids.get(key) == number
        assert len(ids) <= 50


def test_more_places_than_can_be_numbered_are_no_fault(monkeypatch):
    monkeypatch.setattr(series_ids, "_MAX_PLACES", 20)
    ids = SeriesIds()
    for number in range(1, 200):
        key = (f"user{number % 3}", f"server-{number}", 443, "vless")
        ids.remember(key, number)
        assert ids.get(key) == number
        assert len(ids) <= 20
