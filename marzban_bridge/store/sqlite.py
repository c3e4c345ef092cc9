"""The bridge's store in SQLite: schema, migrations, lock, and copies in memory."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

from collector.runtime import file_lock
from collector.runtime.file_lock import FileLock
from collector.runtime.sqlite import file as sqlite_file
from collector.runtime.sqlite.file import SqliteKind, check_whole, open_to_read, open_to_write
from marzban_bridge.errors import StoreError
from marzban_bridge.store.names.migration import spell_names_as_panels

APPLICATION_ID = 0x4D42524B
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE external_usage (
        username TEXT PRIMARY KEY,
        account_key TEXT NOT NULL,
        total_bytes INTEGER NOT NULL,
        change_seq INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX external_usage_account ON external_usage (account_key);
    CREATE TABLE account (
        account_key TEXT PRIMARY KEY,
        admin TEXT,
        is_held INTEGER NOT NULL,
        state BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX account_held ON account (account_key) WHERE is_held;
    CREATE INDEX account_admin ON account (admin);
    CREATE TABLE orphan (
        account_key TEXT PRIMARY KEY,
        username TEXT NOT NULL,
        first_seen_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE event (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        username TEXT NOT NULL,
        kind TEXT NOT NULL,
        actor TEXT NOT NULL,
        text TEXT NOT NULL,
        value_before TEXT,
        value_after TEXT
    ) STRICT;
    CREATE INDEX event_username ON event (username);
    CREATE TABLE webhook_seen (digest BLOB PRIMARY KEY, seen_at INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
    CREATE TABLE announcement (account_key TEXT PRIMARY KEY, seen_at INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
    CREATE TABLE reset_all (admin TEXT PRIMARY KEY, seen_at INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
    """,
    # Pending resets get a column, so that they are counted by SQL; julianday reads ISO 8601.
    """
    ALTER TABLE account ADD COLUMN reset_requested_at INTEGER;
    UPDATE account SET reset_requested_at = CAST(round(1000 * 86400 * (
        julianday(json_extract(CAST(state AS TEXT), '$.reset_request.requested_at')) - 2440587.5
    )) AS INTEGER);
    CREATE INDEX account_resetting ON account (reset_requested_at)
        WHERE reset_requested_at IS NOT NULL;
    """,
    # Before ratios, billed bytes were the raw bytes.
    """
    ALTER TABLE external_usage ADD COLUMN raw_bytes INTEGER NOT NULL DEFAULT 0;
    UPDATE external_usage SET raw_bytes = total_bytes;
    UPDATE account SET state = CAST(json_set(
        CAST(state AS TEXT),
        '$.raw_baseline_bytes', json_extract(CAST(state AS TEXT), '$.baseline_bytes'),
        '$.seen_raw_bytes', json_extract(CAST(state AS TEXT), '$.seen_total_bytes')
    ) AS BLOB);
    UPDATE account SET state = CAST(json_set(
        CAST(state AS TEXT),
        '$.reset_request.raw_total_bytes',
        json_extract(CAST(state AS TEXT), '$.reset_request.total_bytes')
    ) AS BLOB) WHERE reset_requested_at IS NOT NULL;
    """,
    # Several panels: existing rows belong to the first one, which is named `default`.
    """
    ALTER TABLE external_usage ADD COLUMN panel TEXT NOT NULL DEFAULT 'default';
    DROP INDEX external_usage_account;
    CREATE INDEX external_usage_account ON external_usage (account_key, panel);
    ALTER TABLE event ADD COLUMN panel TEXT NOT NULL DEFAULT 'default';
    CREATE TABLE placement (
        account_key TEXT PRIMARY KEY,
        panel TEXT NOT NULL,
        is_released INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE namesake (
        account_key TEXT NOT NULL,
        panel TEXT NOT NULL,
        is_told INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (account_key, panel)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE shared_quota (
        account_key TEXT PRIMARY KEY,
        departed_bytes INTEGER NOT NULL,
        state BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE account_of_panel (
        account_key TEXT NOT NULL,
        panel TEXT NOT NULL,
        admin TEXT,
        is_held INTEGER NOT NULL,
        reset_requested_at INTEGER,
        lifetime_panel_bytes INTEGER NOT NULL DEFAULT 0,
        state BLOB NOT NULL,
        PRIMARY KEY (account_key, panel)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO account_of_panel (account_key, panel, admin, is_held, reset_requested_at, state)
        SELECT account_key, 'default', admin, is_held, reset_requested_at, state FROM account;
    DROP TABLE account;
    ALTER TABLE account_of_panel RENAME TO account;
    CREATE INDEX account_held ON account (panel, account_key) WHERE is_held;
    CREATE INDEX account_admin ON account (panel, admin);
    CREATE INDEX account_resetting ON account (panel, reset_requested_at)
        WHERE reset_requested_at IS NOT NULL;

    CREATE TABLE orphan_of_panel (
        account_key TEXT NOT NULL,
        panel TEXT NOT NULL,
        username TEXT NOT NULL,
        first_seen_at INTEGER NOT NULL,
        PRIMARY KEY (account_key, panel)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO orphan_of_panel
        SELECT account_key, 'default', username, first_seen_at FROM orphan;
    DROP TABLE orphan;
    ALTER TABLE orphan_of_panel RENAME TO orphan;

    CREATE TABLE announcement_of_panel (
        account_key TEXT NOT NULL,
        panel TEXT NOT NULL,
        seen_at INTEGER NOT NULL,
        PRIMARY KEY (account_key, panel)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO announcement_of_panel SELECT account_key, 'default', seen_at FROM announcement;
    DROP TABLE announcement;
    ALTER TABLE announcement_of_panel RENAME TO announcement;

    CREATE TABLE reset_all_of_panel (
        admin TEXT NOT NULL,
        panel TEXT NOT NULL,
        seen_at INTEGER NOT NULL,
        PRIMARY KEY (admin, panel)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO reset_all_of_panel SELECT admin, 'default', seen_at FROM reset_all;
    DROP TABLE reset_all;
    ALTER TABLE reset_all_of_panel RENAME TO reset_all;
    """,
    # Accounts put aside for deleted users.
    """
    CREATE TABLE gone_account (
        account_key TEXT NOT NULL,
        panel TEXT NOT NULL,
        gone_at INTEGER NOT NULL,
        state BLOB NOT NULL,
        PRIMARY KEY (account_key, panel)
    ) STRICT, WITHOUT ROWID;
    """,
    # Names in the panel's own spelling; `names.migration` renames every row.
    """
    CREATE TABLE alias (
        username TEXT PRIMARY KEY,
        account_key TEXT NOT NULL,
        folded TEXT NOT NULL,
        offset_bytes INTEGER NOT NULL,
        raw_offset_bytes INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX alias_account ON alias (account_key);
    CREATE INDEX alias_folded ON alias (folded);
    CREATE TABLE kept_usage (
        account_key TEXT NOT NULL,
        panel TEXT NOT NULL,
        total_bytes INTEGER NOT NULL,
        raw_bytes INTEGER NOT NULL,
        PRIMARY KEY (account_key, panel)
    ) STRICT, WITHOUT ROWID;
    CREATE VIEW counted_usage AS
        SELECT u.account_key, u.panel, u.total_bytes - coalesce(a.offset_bytes, 0) AS total_bytes,
            u.raw_bytes - coalesce(a.raw_offset_bytes, 0) AS raw_bytes
        FROM external_usage AS u LEFT JOIN alias AS a ON a.username = u.username
        UNION ALL SELECT account_key, panel, total_bytes, raw_bytes FROM kept_usage;
    ALTER TABLE orphan ADD COLUMN folded TEXT NOT NULL DEFAULT '';
    ALTER TABLE orphan ADD COLUMN candidates TEXT NOT NULL DEFAULT '[]';
    CREATE INDEX orphan_folded ON orphan (folded, panel);
    """,
    # Quotas of resellers, and their users as last counted.
    """
    CREATE TABLE reseller (
        admin TEXT NOT NULL,
        panel TEXT NOT NULL,
        state BLOB NOT NULL,
        PRIMARY KEY (admin, panel)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE reseller_user (
        account_key TEXT NOT NULL,
        panel TEXT NOT NULL,
        admin TEXT NOT NULL,
        state BLOB NOT NULL,
        PRIMARY KEY (account_key, panel)
    ) STRICT, WITHOUT ROWID;
    """,
)
STORE = SqliteKind(
    name="bridge store",
    program="bridge",
    setting="BRIDGE_STORE",
    application_id=APPLICATION_ID,
    migrations=MIGRATIONS,
    steps={6: spell_names_as_panels},
    before_empty=(
        "first correct users' data limits in the panel, which shows only what was left of them, "
        "and then "
    ),
    error=StoreError,
)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open and verify a store; create or migrate it unless `read_only`.

    With `read_only`, a store with an earlier schema is copied into memory and migrated there.

    Raises StoreError when the file is damaged, is not a bridge's store, was written by a newer
    version, or is missing with `read_only`.
    """
    db = open_to_read(STORE, path) if read_only else open_to_write(STORE, path)
    check_whole(STORE, db, path)
    return _migrated_copy(db) if read_only else db


def lock(path: Path) -> FileLock:
    """Take the lock for writing the store; StoreError names the process that holds it."""
    taken = file_lock.take(
        path,
        name=STORE.name,
        program="process",
        reason="only one bridge may write to a panel",
        error=StoreError,
    )
    taken.write_pid()
    return taken


def _migrated_copy(db: sqlite3.Connection) -> sqlite3.Connection:
    """Return the store itself if it has the newest schema, else a migrated copy in memory."""
    if db.execute("PRAGMA user_version").fetchone()[0] == STORE.version:
        return db
    copy = sqlite3.connect(":memory:", isolation_level=None)
    db.backup(copy)
    db.close()
    migrate(copy)
    copy.execute("PRAGMA query_only = ON")
    return copy


def in_memory() -> sqlite3.Connection:
    """Return an empty store in memory with the newest schema; usable in any thread."""
    return memory_of_version(STORE.version)


def memory_of_version(version: int) -> sqlite3.Connection:
    """Return an empty store in memory with an earlier schema; usable in any thread."""
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    sqlite_file.migrate(replace(STORE, migrations=MIGRATIONS[:version], steps={}), db)
    return db


def migrate(db: sqlite3.Connection) -> None:
    """Migrate a store to the newest schema; each migration is one transaction."""
    sqlite_file.migrate(STORE, db)
