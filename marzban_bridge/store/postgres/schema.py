"""The tables of a store in PostgreSQL: those of the file store, and the lease.

They have the same columns, so that both stores share one code. Each statement that creates them is
idempotent and a transaction of its own: bridges that start at the same time need no lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import psycopg
from psycopg import errors as pg

from collector.runtime.postgres.tables import create_beside_others, create_schema
from marzban_bridge.errors import StoreError
from marzban_bridge.store.postgres.link import SCHEMA, Db, name_of, open_connection, translate

VERSION = 7
"""The file's schema that these tables have the columns of."""


class Table(NamedTuple):
    """A table, its key, and its columns with types; a type with `!` at the end is not null."""

    name: str
    keys: tuple[str, ...]
    columns: Mapping[str, str]

    @property
    def creation(self) -> str:
        """Return the SQL that creates the table."""
        columns = ", ".join(
            f"{name} {kind.replace('!', ' NOT NULL')}" for name, kind in self.columns.items()
        )
        key = ", ".join(self.keys)
        return f"CREATE TABLE IF NOT EXISTS {self.name} ({columns}, PRIMARY KEY ({key}))"

    def kind(self, column: str) -> str:
        """Return a column's type."""
        return self.columns[column].removesuffix("!")


_NAME = {"account_key": "text!", "panel": "text!"}
EVENTS = Table(
    "event",
    ("seq",),
    {
        "seq": "bigint!",
        "at": "bigint!",
        "username": "text!",
        "kind": "text!",
        "actor": "text!",
        "text": "text!",
        "value_before": "text",
        "value_after": "text",
        "panel": "text!",
    },
)
TABLES = (
    Table("meta", ("key",), {"key": "text!", "value": "text!"}),
    Table(
        "external_usage",
        ("username",),
        {
            "username": "text!",
            "account_key": "text!",
            "total_bytes": "bigint!",
            "change_seq": "bigint!",
            "raw_bytes": "bigint!",
            "panel": "text!",
        },
    ),
    Table(
        "account",
        ("account_key", "panel"),
        {
            **_NAME,
            "admin": "text",
            "is_held": "bigint!",
            "reset_requested_at": "bigint",
            "lifetime_panel_bytes": "bigint!",
            "state": "bytea!",
        },
    ),
    Table(
        "orphan",
        ("account_key", "panel"),
        {
            **_NAME,
            "username": "text!",
            "first_seen_at": "bigint!",
            "folded": "text!",
            "candidates": "text!",
        },
    ),
    Table(
        "alias",
        ("username",),
        {
            "username": "text!",
            "account_key": "text!",
            "folded": "text!",
            "offset_bytes": "bigint!",
            "raw_offset_bytes": "bigint!",
        },
    ),
    Table(
        "kept_usage",
        ("account_key", "panel"),
        {**_NAME, "total_bytes": "bigint!", "raw_bytes": "bigint!"},
    ),
    EVENTS,
    Table("webhook_seen", ("digest",), {"digest": "bytea!", "seen_at": "bigint!"}),
    Table("announcement", ("account_key", "panel"), {**_NAME, "seen_at": "bigint!"}),
    Table(
        "reset_all", ("admin", "panel"), {"admin": "text!", "panel": "text!", "seen_at": "bigint!"}
    ),
    Table("placement", ("account_key",), {**_NAME, "is_released": "bigint!"}),
    Table("namesake", ("account_key", "panel"), {**_NAME, "is_told": "bigint!"}),
    Table(
        "shared_quota",
        ("account_key",),
        {"account_key": "text!", "departed_bytes": "bigint!", "state": "bytea!"},
    ),
    Table(
        "gone_account", ("account_key", "panel"), {**_NAME, "gone_at": "bigint!", "state": "bytea!"}
    ),
    Table("reseller", ("admin", "panel"), {"admin": "text!", "panel": "text!", "state": "bytea!"}),
    Table(
        "reseller_user",
        ("account_key", "panel"),
        {**_NAME, "admin": "text!", "state": "bytea!"},
    ),
)
_LEASE_ADDED = {
    "commits": "bigint NOT NULL DEFAULT 0",
    "former": "text NOT NULL DEFAULT ''",
    "loss": "text NOT NULL DEFAULT ''",
    "mark": "text NOT NULL DEFAULT ''",
}
"""Columns that earlier versions of the lease lack; bridges of those versions ignore them."""
_OWN = (
    "CREATE TABLE IF NOT EXISTS lease (name text PRIMARY KEY, holder text NOT NULL, "
    "token text NOT NULL, epoch bigint NOT NULL, expires_at timestamptz NOT NULL, "
    f"{', '.join(f'{name} {kind}' for name, kind in _LEASE_ADDED.items())})",
    "INSERT INTO lease (name, holder, token, epoch, expires_at) "
    "VALUES ('leader', '', '', 0, statement_timestamp()) ON CONFLICT (name) DO NOTHING",
    # Last: a version number means that all tables exist.
    "CREATE TABLE IF NOT EXISTS version (number bigint PRIMARY KEY)",
    f"INSERT INTO version (number) VALUES ({VERSION}) ON CONFLICT (number) DO NOTHING",
)


def prepare(url: str) -> None:
    """Create the tables if there are none; the leader upgrades those of an earlier version.

    Raises StoreAwayError when the server cannot be reached, and another StoreError for a store of
    another version, or a user who may not.
    """
    name = name_of(url)
    db = open_connection(url)
    try:
        create_beside_others(
            lambda: _prepare(db, name), what=f"the store {name}", schema=SCHEMA, error=StoreError
        )
    except psycopg.Error as error:
        raise translate(error, name) from error
    finally:
        db.close()


def _prepare(db: Db, name: str) -> None:
    version = version_of(db)
    if version > VERSION:
        raise StoreError(
            f"{name} was written by another version (schema {version}, this version knows "
            f"{VERSION}): upgrade the bridge or restore a backup"
        )
    if version:
        _add_to_lease(db)
        return
    create_schema(db, SCHEMA)
    for statement in (*(table.creation for table in TABLES), *_OWN):
        db.execute(statement)


def _add_to_lease(db: Db) -> None:
    query = (
        "SELECT column_name FROM information_schema.columns "
        "WHERE table_schema = %s AND table_name = 'lease'"
    )
    found = {row[0] for row in db.execute(query, (SCHEMA,)).fetchall()}
    for name, kind in _LEASE_ADDED.items():
        if name not in found:
            db.execute(f"ALTER TABLE lease ADD COLUMN IF NOT EXISTS {name} {kind}")


def version_of(db: Db) -> int:
    """Return the version of the tables; 0 if there are none."""
    try:
        row = db.execute("SELECT max(number) FROM version").fetchone()
    except (pg.UndefinedTable, pg.InvalidSchemaName):
        return 0
    return int(row[0] or 0) if row else 0
