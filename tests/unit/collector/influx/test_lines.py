"""How points are spelt in line protocol, and which cannot be."""

from __future__ import annotations

import math

import pytest

from collector.influx.lines import PackedLines, UnwritableError, series_key, to_line


@pytest.mark.parametrize(
    ("tags", "key"),
    [
        ({"user": "alice"}, "m,user=alice"),
        ({"user": "a", "port": "443", "server": "de"}, "m,port=443,server=de,user=a"),
        ({"user": "a b"}, "m,user=a\\ b"),
        ({"user": "a,b"}, "m,user=a\\,b"),
        ({"user": "a=b"}, "m,user=a\\=b"),
        ({"user": 'say "hi"'}, 'm,user=say\\ "hi"'),
        ({"user": "back\\slash"}, "m,user=back\\slash"),
        ({"user": "сервер 🚀"}, "m,user=сервер\\ 🚀"),
        ({"a key": "v"}, "m,a\\ key=v"),
        ({}, "m"),
    ],
)
def test_a_series_is_named_by_its_tags_in_order_with_delimiters_escaped(tags, key):
    assert series_key("m", tags) == key


def test_a_measurement_escapes_spaces_and_commas_but_no_equals_sign():
    assert series_key("a b,c=d", {}) == "a\\ b\\,c=d"


@pytest.mark.parametrize("value", ["", "ends in a backslash\\", "two\nlines", "two\rlines"])
def test_a_tag_without_a_spelling_is_refused_by_name(value):
    with pytest.raises(UnwritableError, match="tag user"):
        series_key("m", {"user": value})


@pytest.mark.parametrize(
    ("value", "spelling"),
    [
        (1, "1i"),
        (0, "0i"),
        (-(2**63), "-9223372036854775808i"),
        (True, "1i"),
        (0.5, "0.5"),
        (1e300, "1e+300"),
        (2.0, "2.0"),
        ("text", '"text"'),
        ("", '""'),
        ('say "hi"', '"say \\"hi\\""'),
        ("back\\slash\\", '"back\\\\slash\\\\"'),
        ("two\nlines, a=b", '"two\nlines, a=b"'),
    ],
)
def test_a_field_is_spelt_by_its_type(value, spelling):
    assert to_line("m", {"t": "a"}, {"f": value}, 7) == f"m,t=a f={spelling} 7"


def test_fields_that_are_unknown_are_left_out():
    assert to_line("m", {}, {"a": 1, "b": None, "c": "x"}, 0) == 'm a=1i,c="x" 0'


def test_a_point_without_a_known_field_is_refused():
    with pytest.raises(UnwritableError, match="at least one field"):
        to_line("m", {}, {"a": None}, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused(value):
    with pytest.raises(UnwritableError, match="field ratio"):
        to_line("m", {}, {"ratio": value}, 0)


def test_packed_lines_are_those_that_were_packed():
    text = "\n".join(f"сервер,n={n} v={n}i {n}" for n in range(1000))
    packed = PackedLines(text, lines=1000)
    assert len(packed) == 1000
    assert "\n".join(packed) == text
    assert [packed[0], *packed[1:3]] == text.split("\n")[:3]
    assert len(packed.body) < len(text) / 3
