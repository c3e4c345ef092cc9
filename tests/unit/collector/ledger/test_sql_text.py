"""One SQL text for both engines, as PostgreSQL's driver takes it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.ledger.postgres.database import psycopg_text
from collector.ledger.sql.database import whole
from collector.ledger.sqlite.database import DIALECT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT :a, :first_seq", "SELECT %(a)s, %(first_seq)s"),
        ("WHERE day > :day - 14 AND day <= :day", "WHERE day > %(day)s - 14 AND day <= %(day)s"),
        ("CAST(:name AS text)", "CAST(%(name)s AS text)"),
        ("SELECT :a::bigint, b::int", "SELECT %(a)s::bigint, b::int"),
        ("SELECT ':not_one' || :one", "SELECT ':not_one' || %(one)s"),
        ("SELECT 'it''s :not_one', :one", "SELECT 'it''s :not_one', %(one)s"),
        ('SELECT ":not_one" FROM t', 'SELECT ":not_one" FROM t'),
        ("LIKE 'a%' AND 7 % 2 = :one", "LIKE 'a%%' AND 7 %% 2 = %(one)s"),
        ("port || ':' || server", "port || ':' || server"),
        ("ORDER BY name COLLATE BINARY, id", 'ORDER BY name COLLATE "C", id'),
        ("SELECT 'COLLATE BINARY'", "SELECT 'COLLATE BINARY'"),
    ],
)
def test_a_text_for_both_engines_is_spelt_for_postgresql(text, expected):
    assert psycopg_text(text) == expected


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_a_sum_in_halves_is_the_sum(amounts):
    with closing(sqlite3.connect(":memory:")) as db:  # Python 3.13 warns of one that is not closed
        db.execute("CREATE TABLE t (n INTEGER)")
        db.executemany("INSERT INTO t VALUES (?)", [(n,) for n in amounts])
        (answered,) = db.execute(f"SELECT {DIALECT.sum_of('n')} FROM t").fetchone()
    assert whole(answered) == sum(amounts)


def test_a_sum_that_postgresql_answers_is_read_exactly():
    assert whole(Decimal(2**70 + 1)) == 2**70 + 1
    assert whole(Decimal(-(2**70))) == -(2**70)
    assert whole(0) == 0
