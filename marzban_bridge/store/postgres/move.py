"""Moves a store from its file into an empty one in PostgreSQL, in one compared transaction.

A crash at any moment leaves the database's store empty, and the file is not changed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from marzban_bridge.errors import StoreError
from marzban_bridge.store.postgres.lease import Lease
from marzban_bridge.store.postgres.link import PATIENT_ANSWER_SECONDS, Db, PostgresLink
from marzban_bridge.store.postgres.rows import columns_of, upsert
from marzban_bridge.store.postgres.schema import EVENTS, TABLES, Table
from marzban_bridge.store.sqlite import connect, lock

ROWS_PER_STATEMENT = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """The numbers of moved rows."""

    accounts: int
    events: int


def move(file: Path, url: str, lease: Lease) -> Moved:
    """Copy a store file into the database, whose lease this process holds.

    Raises StoreError when the file cannot be used or is in use, or when the database's store is not
    empty.
    """
    if not file.exists():
        raise StoreError(f"there is no bridge store at {file}")
    with closing(lock(file)), closing(connect(file)) as source:
        link = PostgresLink(url, answer_seconds=PATIENT_ANSWER_SECONDS)
        try:
            return link.run(lambda db: _copy(source, db, link.name, lease))
        finally:
            link.close()


def _copy(source: sqlite3.Connection, db: Db, name: str, lease: Lease) -> Moved:
    for table in TABLES:
        if db.execute(f"SELECT 1 FROM {table.name} LIMIT 1").fetchone():
            raise StoreError(
                f"there is a store in {name} already: nothing was moved. Only an empty one can be "
                "moved to"
            )
    counts = {table.name: _copy_table(source, db, table) for table in TABLES}
    # Last: the fence locks the row of the lease, so that it cannot be renewed until the commit.
    lease.extend(db)
    return Moved(accounts=counts["account"], events=counts[EVENTS.name])


def _copy_table(source: sqlite3.Connection, db: Db, table: Table) -> int:
    count, columns, rows = 0, tuple(table.columns), _rows(source, table)
    key_places = ", ".join(f"%s::{table.kind(key)}[]" for key in table.keys)
    written = (
        f"SELECT {', '.join(columns)} FROM {table.name} "
        f"WHERE ({', '.join(table.keys)}) IN (SELECT * FROM unnest({key_places}))"
    )
    while page := list(islice(rows, ROWS_PER_STATEMENT)):
        values = columns_of(table, columns, page)
        db.execute(upsert(table), values)
        keys = [values[columns.index(key)] for key in table.keys]
        found = db.execute(written, keys).fetchall()
        if set(found) != set(zip(*values, strict=True)) or len(found) != len(page):
            raise StoreError(f"{table.name} is not the same in the database: nothing was moved")
        count += len(page)
    return count


def _rows(source: sqlite3.Connection, table: Table) -> Iterator[tuple[Any, ...]]:
    return source.execute(f"SELECT {', '.join(table.columns)} FROM {table.name}")
