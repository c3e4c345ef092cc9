"""What is stored of a report is stored by both engines, and moves from one to the other."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import psycopg

from collector.ledger.migration.tables import Reports
from collector.ledger.postgres.writer import PostgresLedger
from collector.ledger.sqlite.writer import SqliteLedger

BY_GROUP = {"group_id", "position"}
"""What PostgreSQL has in place of SQLite's seq and received_at."""


def test_both_engines_store_the_same_of_a_report_and_all_of_it_moves(postgres, tmp_path):
    SqliteLedger(path := tmp_path / "ledger.sqlite3").close()
    with closing(sqlite3.connect(path)) as db:
        in_file = {row[1] for row in db.execute("PRAGMA table_info(report)")}
    PostgresLedger(url := postgres.url(postgres.new_database())).close()
    query = (
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_schema = 'traffic' AND table_name = 'report'"
    )
    with psycopg.connect(url) as db:
        in_database = {name for (name,) in db.execute(query)}
    assert in_database - BY_GROUP == in_file - {"seq", "received_at"}
    assert set(Reports()._columns) == in_file
