"""A database that a test has used is lent again, empty, and not before the test has closed it."""

from __future__ import annotations

import psycopg


def tables(url):
    with psycopg.connect(url) as db:
        query = "SELECT tablename FROM pg_tables WHERE schemaname = 'ours'"
        return [name for (name,) in db.execute(query)]


def fill(url):
    with psycopg.connect(url) as db:
        db.execute("CREATE SCHEMA ours")
        db.execute("CREATE TABLE ours.row (id integer)")


def test_what_is_given_back_is_there_until_it_is_lent_again_and_is_empty_then(postgres):
    lent = postgres.new_database()
    fill(postgres.url(lent))
    postgres.take_back()
    assert tables(postgres.url(lent)) == ["row"]
    assert postgres.new_database() == lent
    assert tables(postgres.url(lent)) == []


def test_a_database_that_a_test_has_changed_is_lent_no_more(postgres):
    lent = postgres.new_database()
    with psycopg.connect(postgres.url(lent)) as db:
        db.execute(f"ALTER DATABASE {lent} SET work_mem = '8MB'")
    postgres.take_back()
    assert postgres.new_database() != lent
