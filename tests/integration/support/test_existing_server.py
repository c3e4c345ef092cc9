"""Tests may run on a server that is there already; it is left as it was."""

from __future__ import annotations

import sys
from contextlib import closing

import psycopg
import pytest

from tests.support.engines.existing_server import ExistingServer

PREPARED = "SELECT count(*) FROM pg_tables WHERE tablename = 'prepared'"
PREPARE = """
import psycopg, sys
with psycopg.connect(sys.argv[1]) as db:
    db.execute("CREATE SCHEMA of_the_engine")
    db.execute("CREATE TABLE of_the_engine.prepared ()")
"""
SET_ONE = """
import psycopg, sys
with psycopg.connect(sys.argv[1]) as db:
    db.execute(f"ALTER DATABASE {db.info.dbname} SET work_mem = '4MB'")
"""


def databases(url):
    with psycopg.connect(url) as db:
        return {name for (name,) in db.execute("SELECT datname FROM pg_database")}


def test_each_database_is_prepared_before_it_is_lent_and_all_are_dropped_at_the_end(
    postgres, tmp_path
):
    script = tmp_path / "prepare.py"
    script.write_text(PREPARE)
    url = postgres.url("postgres")
    before = databases(url)
    with closing(ExistingServer(url, prepare=f"{sys.executable} {script}")) as server:
        lent = server.new_database()
        with psycopg.connect(server.url(lent)) as db:
            assert db.execute(PREPARED).fetchone() == (1,)
            db.execute("CREATE SCHEMA ours")
        server.take_back()
        assert server.new_database() == lent
        with psycopg.connect(server.url(lent)) as db:
            assert db.execute(PREPARED).fetchone() == (1,)
            assert db.execute("SELECT to_regnamespace('ours')").fetchone() == (None,)
        assert lent in databases(url) - before
    assert databases(url) == before


def test_one_whose_settings_a_test_changed_is_not_lent_again(postgres, tmp_path):
    script = tmp_path / "prepare.py"
    script.write_text(SET_ONE)
    url = postgres.url("postgres")
    with closing(ExistingServer(url, prepare=f"{sys.executable} {script}")) as server:
        lent = server.new_database()
        with psycopg.connect(server.url(lent)) as db:
            db.execute(f"ALTER DATABASE {lent} SET DateStyle = 'SQL, DMY'")
        server.take_back()
        assert server.new_database() != lent


def test_each_of_several_nodes_is_named(postgres):
    others = (
        "postgresql://o:p@127.0.0.1:7/postgres postgresql://127.0.0.1:8/postgres?sslmode=disable"
    )
    server = ExistingServer(postgres.url("postgres"), nodes=others)
    assert server.nodes("x") == [
        server.url("x"),
        "postgresql://o:p@127.0.0.1:7/x",
        "postgresql://127.0.0.1:8/x?sslmode=disable",
    ]
    assert postgres.nodes("x") == [postgres.url("x")]


def test_a_test_that_needs_a_server_of_its_own_is_skipped(postgres):
    with closing(ExistingServer(postgres.url("postgres"))) as server:
        assert server.port == postgres.port
        with pytest.raises(pytest.skip.Exception, match="needs `home`"):
            _ = server.home
