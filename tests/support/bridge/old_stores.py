"""Stores as earlier versions of the bridge left them, in a file and in PostgreSQL."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg

from marzban_bridge.store.sqlite import APPLICATION_ID, MIGRATIONS

KINDS = {"TEXT": "text", "INTEGER": "bigint", "BLOB": "bytea"}


def old_file(path: Path, version: int) -> sqlite3.Connection:
    """Make a store of an earlier schema in a file; for the caller to fill, commit and close."""
    db = sqlite3.connect(path)
    for script in MIGRATIONS[:version]:
        db.executescript(script)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {version}")
    return db


def copy_to_postgres(path: Path, url: str) -> None:
    """Make the same store in PostgreSQL, as the version of its schema would have."""
    with closing(sqlite3.connect(path)) as source, psycopg.connect(url, autocommit=True) as target:
        target.execute("CREATE SCHEMA bridge")
        target.execute("SET search_path = bridge")
        version = source.execute("PRAGMA user_version").fetchone()[0]
        tables = source.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        for (table,) in tables:
            info = source.execute(f"PRAGMA table_info({table})").fetchall()
            columns = ", ".join(f"{row[1]} {KINDS[row[2]]}" for row in info)
            keys = ", ".join(row[1] for row in sorted(info, key=lambda row: row[5]) if row[5])
            target.execute(f"CREATE TABLE {table} ({columns}, PRIMARY KEY ({keys}))")
            places = ", ".join(["%s"] * len(info))
            with target.cursor() as cursor:
                rows = source.execute(f"SELECT * FROM {table}").fetchall()
                cursor.executemany(f"INSERT INTO {table} VALUES ({places})", rows)
        target.execute("CREATE TABLE version (number bigint PRIMARY KEY)")
        target.execute("INSERT INTO version VALUES (%s)", (version,))
        target.execute(
            "CREATE TABLE lease (name text PRIMARY KEY, holder text NOT NULL, token text NOT NULL, "
            "epoch bigint NOT NULL, expires_at timestamptz NOT NULL)"
        )
        target.execute("INSERT INTO lease VALUES ('leader', '', '', 3, clock_timestamp())")
