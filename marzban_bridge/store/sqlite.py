"""Opening the bridge's store: one writing process, migrations, and refusing what is not ours."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from collector.runtime.private_files import BESIDE_SQLITE, keep_private, make_private, put_in_place
from marzban_bridge.errors import StoreError
from marzban_bridge.store.names.migration import spell_names_as_panels

APPLICATION_ID = 0x4D42524B
BUSY_SECONDS = 10
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
    # A reset that waits must be counted while nothing else works; julianday reads ISO 8601.
    """
    ALTER TABLE account ADD COLUMN reset_requested_at INTEGER;
    UPDATE account SET reset_requested_at = CAST(round(1000 * 86400 * (
        julianday(json_extract(CAST(state AS TEXT), '$.reset_request.requested_at')) - 2440587.5
    )) AS INTEGER);
    CREATE INDEX account_resetting ON account (reset_requested_at)
        WHERE reset_requested_at IS NOT NULL;
    """,
    # What was counted before ratios was counted as it was reported.
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
    # Several panels: whatever there was is the first one's, which is called `default`.
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
        odometer_bytes INTEGER NOT NULL DEFAULT 0,
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
    # Accounts of users whom their panel no longer shows.
    """
    CREATE TABLE gone_account (
        account_key TEXT NOT NULL,
        panel TEXT NOT NULL,
        gone_at INTEGER NOT NULL,
        state BLOB NOT NULL,
        PRIMARY KEY (account_key, panel)
    ) STRICT, WITHOUT ROWID;
    """,
    # Names are the panel's own spelling; `name_migration` gives every row its name.
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
)
STEPS: Mapping[int, Callable[[sqlite3.Connection], None]] = {6: spell_names_as_panels}
"""What has to be done after a migration's script and cannot be said in SQL, by its number."""


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open and verify a store; create or migrate it unless reading only.

    A reader of a store that is not migrated yet gets a copy in memory that is.

    Raises StoreError when the file is missing for a reader, is damaged, is not a bridge's store, or
    was written by a newer version.
    """
    if read_only and not path.exists():
        raise StoreError(f"there is no bridge store at {path}: has the bridge run yet?")
    if not path.exists():
        _create(path)
    elif not path.stat().st_size:
        raise StoreError(
            f"the bridge store {path} is an empty file: restore a backup. To begin with an empty "
            "store, first set users' data limits right in the panel, which shows only what was "
            "left of them, and then remove the file yourself"
        )
    db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS)
    try:
        _prepare(db, path, read_only=read_only)
        if not read_only:
            keep_private(path, suffixes=BESIDE_SQLITE)
    except sqlite3.DatabaseError as error:
        db.close()
        if is_disk_at_fault(error):
            raise StoreError(
                f"the bridge store {path} cannot be used now ({error}): the disk is full or "
                "failing; make room or mend it, and start again"
            ) from error
        raise StoreError(
            f"the bridge store {path} cannot be read ({error}): restore a backup. Without one, "
            "first set users' data limits right in the panel, which shows only what was left of "
            "them, and then move the file away"
        ) from error
    except StoreError:
        db.close()
        raise
    return _migrated_copy(db) if read_only else db


def _migrated_copy(db: sqlite3.Connection) -> sqlite3.Connection:
    """Return the store itself where it is of the newest schema."""
    if db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS):
        return db
    copy = sqlite3.connect(":memory:", isolation_level=None)
    db.backup(copy)
    db.close()
    migrate(copy)
    copy.execute("PRAGMA query_only = ON")
    return copy


def in_memory() -> sqlite3.Connection:
    """Return an empty store of the newest schema that is in no file; for any thread."""
    return memory_of_version(len(MIGRATIONS))


def memory_of_version(version: int) -> sqlite3.Connection:
    """Return an empty store of an earlier schema that is in no file; for any thread."""
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    for script in MIGRATIONS[:version]:
        db.executescript(f"BEGIN; {script} COMMIT;")
    db.execute(f"PRAGMA user_version = {version}")
    return db


def migrate(db: sqlite3.Connection) -> None:
    """Bring a store to the newest schema, each migration whole or not at all."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        try:
            db.executescript(f"BEGIN; {script}")
            if step := STEPS.get(number):
                step(db)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {number}")
            db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise


def is_disk_at_fault(error: sqlite3.Error) -> bool:
    """Tell whether the disk refused, rather than the file being damaged."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


def _create(path: Path) -> None:
    """Make an empty store beside its place, then put it there whole, unless one is there by then.

    So a crash at any moment leaves either no store or a whole one, and an empty file is damage.
    """
    remains = path.with_name(path.name + "-wal")
    if remains.exists():
        raise StoreError(
            f"{remains} is there, but its store {path} is not: restore both from a backup"
        )
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        make_private(draft)
        with closing(sqlite3.connect(draft, isolation_level=None, timeout=BUSY_SECONDS)) as db:
            _prepare(db, draft, read_only=False)
        with suppress(FileExistsError):
            put_in_place(draft, path)
    finally:
        for suffix in BESIDE_SQLITE:
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def _prepare(db: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    is_empty = not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if not is_empty and db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreError(f"{path} is an SQLite file, but not a bridge store")
    if read_only and is_empty:
        raise StoreError(f"the bridge store {path} is empty: restore a backup")
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{path} was written by a newer version (schema {version}, this version knows "
            f"{len(MIGRATIONS)}): upgrade the bridge or restore a backup"
        )
    if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("integrity check failed")
    if read_only:
        db.execute("PRAGMA query_only = ON")
        return
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    migrate(db)


def lock(path: Path) -> IO[str]:
    """Take the right to write the store; StoreError names the process that has it.

    The right ends with the process, however it ends.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".lock")
    with suppress(FileExistsError):
        make_private(beside)
    keep_private(beside)
    file = beside.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise StoreError(
            f"the bridge store {path} is in use by another process"
            f"{f' (pid {holder})' if holder else ''}: only one bridge may write to a panel"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def to_millis(at: datetime) -> int:
    """Return a moment as the store keeps it: milliseconds since 1970."""
    return int(at.timestamp() * 1000)


def from_millis(millis: int) -> datetime:
    """Return a moment the store keeps."""
    return datetime.fromtimestamp(millis / 1000, tz=UTC)
