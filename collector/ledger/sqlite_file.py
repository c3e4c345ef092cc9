"""Opening an SQLite ledger: one writing process, migrations, and refusing what is not ours."""

from __future__ import annotations

import fcntl
import os
import secrets
import sqlite3
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from collector.errors import LedgerError, SettingsError

APPLICATION_ID = 0x54524C47
BUSY_SECONDS = 10
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE series (
        id INTEGER PRIMARY KEY,
        username TEXT NOT NULL,
        server TEXT NOT NULL,
        port INTEGER NOT NULL,
        protocol TEXT NOT NULL,
        upload_bytes INTEGER NOT NULL DEFAULT 0,
        download_bytes INTEGER NOT NULL DEFAULT 0,
        connections INTEGER NOT NULL DEFAULT 0,
        reports INTEGER NOT NULL DEFAULT 0,
        last_used_at INTEGER NOT NULL DEFAULT 0,
        UNIQUE (username, server, port, protocol)
    ) STRICT;
    CREATE TABLE report (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        report_key BLOB UNIQUE,
        series_id INTEGER NOT NULL REFERENCES series (id),
        upload_bytes INTEGER NOT NULL,
        download_bytes INTEGER NOT NULL,
        connections INTEGER NOT NULL,
        reported_at INTEGER NOT NULL,
        received_at INTEGER NOT NULL,
        reporter TEXT NOT NULL
    ) STRICT;
    CREATE TABLE usage_day (
        day INTEGER NOT NULL,
        series_id INTEGER NOT NULL REFERENCES series (id),
        upload_bytes INTEGER NOT NULL,
        download_bytes INTEGER NOT NULL,
        connections INTEGER NOT NULL,
        reports INTEGER NOT NULL,
        last_used_at INTEGER NOT NULL,
        change_seq INTEGER NOT NULL,
        PRIMARY KEY (day, series_id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE user_total (
        username TEXT PRIMARY KEY,
        upload_bytes INTEGER NOT NULL,
        download_bytes INTEGER NOT NULL,
        reports INTEGER NOT NULL,
        last_used_at INTEGER NOT NULL,
        change_seq INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX user_total_change ON user_total (change_seq);
    CREATE TABLE reporter (
        name TEXT PRIMARY KEY,
        key_hash BLOB NOT NULL UNIQUE,
        created_at INTEGER NOT NULL,
        revoked_at INTEGER
    ) STRICT, WITHOUT ROWID;
    """,
)


def ledger_path(url: str) -> Path:
    """Return the file of a `sqlite:///` URL; SettingsError for any other."""
    parts = urlsplit(url)
    if parts.scheme != "sqlite" or parts.netloc or len(parts.path) < 2:
        raise SettingsError(
            f"LEDGER_URL: {parts.scheme or url!r} is not supported; expected a file such as "
            "sqlite:///./data/ledger.sqlite3 (four slashes for an absolute path)"
        )
    return Path(parts.path[1:])


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open and verify a ledger file; create or migrate it unless reading only.

    Raises LedgerError when the file is missing for a reader, is damaged, is not a ledger, or was
    written by a newer version.
    """
    if read_only and not path.exists():
        raise LedgerError(f"there is no ledger at {path}: has the collector run yet?")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(
            path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False
        )
    except (sqlite3.Error, OSError) as error:
        raise LedgerError(f"cannot open the ledger {path}: {error}") from error
    try:
        _prepare(db, path, read_only=read_only)
    except sqlite3.DatabaseError as error:
        db.close()
        raise LedgerError(
            f"the ledger {path} cannot be read ({error}): restore a backup; "
            "to begin with an empty ledger, move the file away yourself"
        ) from error
    except LedgerError:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path, *, read_only: bool) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    is_empty = not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if not is_empty and db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise LedgerError(f"{path} is an SQLite file, but not a traffic ledger")
    if version > len(MIGRATIONS):
        raise LedgerError(
            f"{path} was written by a newer version (schema {version}, this version knows "
            f"{len(MIGRATIONS)}): upgrade the collector or restore a backup"
        )
    if read_only:
        db.execute("PRAGMA query_only = ON")
        return
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        db.executescript(
            f"BEGIN IMMEDIATE; {script} PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {number}; COMMIT;"
        )
    db.execute(
        "INSERT OR IGNORE INTO meta (key, value) VALUES ('ledger_id', ?)", (secrets.token_hex(16),)
    )


def lock(path: Path) -> IO[str]:
    """Take the right to write reports; LedgerError names the process that has it.

    The right ends with the process, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(path.name + ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise LedgerError(
            f"the ledger {path} is in use by another collector"
            f"{f' (pid {holder})' if holder else ''}: one process writes a ledger"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
