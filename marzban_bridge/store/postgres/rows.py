"""Reads a whole store from PostgreSQL into memory, and builds SQL that writes and deletes rows.

A store of an earlier version is migrated in memory, by the migrations of the file store.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import psycopg

from marzban_bridge.errors import StoreError
from marzban_bridge.store.postgres.link import (
    FAULTS,
    PATIENT_ANSWER_SECONDS,
    name_of,
    open_connection,
    translate,
)
from marzban_bridge.store.postgres.schema import EVENTS, VERSION, Table, version_of
from marzban_bridge.store.sqlite import memory_of_version, migrate


def load(url: str) -> sqlite3.Connection:
    """Read a snapshot of the store into a copy with the newest schema.

    Without the events, except those that a migration adds. Raises StoreError where there is no
    store, or one of a newer version, and StoreAwayError.
    """
    name = name_of(url)
    source = open_connection(url, answer_seconds=PATIENT_ANSWER_SECONDS)
    copy: sqlite3.Connection | None = None
    try:
        with source.transaction():
            source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            version = version_of(source)
            _demand_version(version, name)
            copy = memory_of_version(version)
            copy.execute("BEGIN")
            for table, columns in _tables_of(copy):
                places = ", ".join("?" * len(columns))
                copy.executemany(
                    f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})",
                    source.execute(f"SELECT {', '.join(columns)} FROM {table}"),
                )
            newest = source.execute("SELECT coalesce(max(seq), 0) FROM event").fetchall()
            copy.executemany("INSERT INTO sqlite_sequence (name, seq) VALUES ('event', ?)", newest)
            copy.execute("COMMIT")
        migrate(copy)
    except FAULTS as error:
        if copy:
            copy.close()
        raise translate(error, name) from error
    except BaseException:
        if copy:
            copy.close()
        raise
    finally:
        with suppress(psycopg.Error):
            source.close()
    return copy


def _tables_of(copy: sqlite3.Connection) -> list[tuple[str, list[str]]]:
    """Return the tables of a copy, except events, with their columns."""
    tables = copy.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' "
        "AND name <> ?",
        (EVENTS.name,),
    ).fetchall()
    return [
        (table, [row[1] for row in copy.execute(f"PRAGMA table_info({table})")])
        for (table,) in tables
    ]


def _demand_version(found: int, name: str) -> None:
    if not found:
        raise StoreError(f"there is no bridge store at {name}: has the bridge run yet?")
    if found > VERSION:
        raise StoreError(
            f"{name} was written by another version (schema {found}, this version knows {VERSION})"
        )


def columns_of(
    table: Table, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> list[list[Any]]:
    """Turn rows into a list for each column; U+0000 is replaced, since PostgreSQL refuses it."""
    return [
        [value.replace("\0", "\ufffd") if isinstance(value, str) else value for value in values]
        if table.kind(column) == "text"
        else list(values)
        for column, values in zip(columns, zip(*rows, strict=True), strict=True)
    ]


def upsert(table: Table, *, where: str = "true") -> str:
    """Return the SQL that inserts or updates rows."""
    columns = ", ".join(table.columns)
    given = ", ".join(f"%s::{table.kind(column)}[]" for column in table.columns)
    news = ", ".join(
        f"{column} = excluded.{column}" for column in table.columns if column not in table.keys
    )
    return (
        f"INSERT INTO {table.name} ({columns}) SELECT * FROM unnest({given}) WHERE {where} "
        f"ON CONFLICT ({', '.join(table.keys)}) DO UPDATE SET {news}"
    )


def deletion(table: Table, *, where: str = "true") -> str:
    """Return the SQL that deletes rows by key."""
    keys = ", ".join(table.keys)
    given = ", ".join(f"%s::{table.kind(key)}[]" for key in table.keys)
    return f"DELETE FROM {table.name} WHERE ({keys}) IN (SELECT * FROM unnest({given})) AND {where}"
