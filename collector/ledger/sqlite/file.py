"""The file of an SQLite ledger: its schema, pragmas and lock."""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

from collector.errors import DiskFullError, LedgerError, LedgerInUseError, NotStoredError
from collector.runtime import file_lock
from collector.runtime.file_lock import FileLock
from collector.runtime.sqlite.file import SqliteKind, open_to_read, open_to_write

APPLICATION_ID = 0x54524C47
MAX_JOURNAL_BYTES = 96 * 2**20
PAGES_PER_CHECKPOINT = 24_000
"""About as many pages as MAX_JOURNAL_BYTES hold. A fold of hundreds of thousands of series, whose
last part writes 12,000 pages, so leaves them to `Checkpoints`, and no commit copies them."""
CACHE_KIB = 8 * 1024
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
    """
    CREATE TABLE export (
        stream TEXT PRIMARY KEY,
        seq INTEGER NOT NULL DEFAULT 0,
        points INTEGER NOT NULL DEFAULT 0,
        advanced_at INTEGER,
        problem TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE dead_letter (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        stream TEXT NOT NULL,
        line TEXT NOT NULL,
        reason TEXT NOT NULL,
        at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX usage_day_change ON usage_day (change_seq);
    """,
    """
    ALTER TABLE report RENAME TO report_2;
    CREATE TABLE report (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        report_key BLOB,
        series_id INTEGER NOT NULL REFERENCES series (id),
        upload_bytes INTEGER NOT NULL,
        download_bytes INTEGER NOT NULL,
        connections INTEGER NOT NULL,
        reported_at INTEGER NOT NULL,
        received_at INTEGER NOT NULL,
        reporter TEXT NOT NULL
    ) STRICT;
    INSERT INTO report SELECT * FROM report_2 ORDER BY seq;
    DELETE FROM sqlite_sequence WHERE name = 'report';
    INSERT INTO sqlite_sequence (name, seq)
        SELECT 'report', seq FROM sqlite_sequence WHERE name = 'report_2';
    DROP TABLE report_2;
    CREATE TABLE report_key_0 (key BLOB PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE report_key_1 (key BLOB PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO report_key_0
        SELECT report_key, seq FROM report WHERE report_key IS NOT NULL ORDER BY report_key;
    INSERT INTO meta (key, value) VALUES
        ('key_table', '0'),
        ('key_table_since', '0'),
        ('folded_seq', CAST(coalesce(
            (SELECT seq FROM sqlite_sequence WHERE name = 'report'), 0) AS TEXT));
    """,
    """
    CREATE TABLE run (after_seq INTEGER PRIMARY KEY, token TEXT NOT NULL) STRICT;
    """,
    """
    CREATE TABLE report_key_recent (
        key BLOB PRIMARY KEY,
        seq INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    INSERT INTO meta (key, value) VALUES ('key_hand', '0');
    """,
    """
    CREATE TABLE imported (
        identity BLOB NOT NULL,
        protocol TEXT NOT NULL,
        upload_bytes INTEGER NOT NULL,
        download_bytes INTEGER NOT NULL,
        PRIMARY KEY (identity, protocol)
    ) STRICT, WITHOUT ROWID;
    """,
    # Earlier reports were billed as reported. Days are exported again, with their billed bytes.
    """
    ALTER TABLE report ADD COLUMN billed_bytes INTEGER;
    ALTER TABLE series ADD COLUMN billed_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE usage_day ADD COLUMN billed_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE user_total ADD COLUMN billed_bytes INTEGER NOT NULL DEFAULT 0;
    UPDATE series SET billed_bytes = upload_bytes + download_bytes;
    UPDATE usage_day SET billed_bytes = upload_bytes + download_bytes;
    UPDATE user_total SET billed_bytes = upload_bytes + download_bytes;
    UPDATE export SET seq = 0 WHERE stream = 'daily';
    ALTER TABLE reporter ADD COLUMN counts_toward_quota INTEGER NOT NULL DEFAULT 1;
    CREATE TABLE ratio (
        server TEXT PRIMARY KEY,
        ratio_millis INTEGER NOT NULL,
        set_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    # A user's totals never decrease; corrections are stored in columns of their own.
    """
    CREATE TABLE correction (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        wanted TEXT NOT NULL,
        asked_at INTEGER NOT NULL,
        done_at INTEGER,
        problem TEXT,
        position_seq INTEGER,
        through_seq INTEGER,
        reports INTEGER NOT NULL DEFAULT 0,
        upload_bytes TEXT NOT NULL DEFAULT '0',
        download_bytes TEXT NOT NULL DEFAULT '0',
        billed_bytes TEXT NOT NULL DEFAULT '0'
    ) STRICT;
    CREATE INDEX correction_open ON correction (id) WHERE done_at IS NULL;
    CREATE TABLE correction_line (
        seq INTEGER PRIMARY KEY,
        correction_id INTEGER NOT NULL REFERENCES correction (id),
        series_id INTEGER NOT NULL REFERENCES series (id),
        voids_seq INTEGER UNIQUE,
        position_seq INTEGER,
        received_at INTEGER NOT NULL,
        upload_bytes INTEGER NOT NULL,
        download_bytes INTEGER NOT NULL,
        billed_bytes INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX correction_line_series ON correction_line (series_id, seq);
    ALTER TABLE user_total ADD COLUMN corrected_upload_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE user_total ADD COLUMN corrected_download_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE user_total ADD COLUMN corrected_billed_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE user_total ADD COLUMN corrected_seq INTEGER NOT NULL DEFAULT 0;
    """,
    """
    CREATE TABLE sender_day (
        day INTEGER NOT NULL,
        sender TEXT NOT NULL,
        raw_bytes INTEGER NOT NULL,
        hour INTEGER NOT NULL,
        hour_bytes INTEGER NOT NULL,
        earlier_hour_bytes INTEGER NOT NULL,
        PRIMARY KEY (day, sender)
    ) STRICT, WITHOUT ROWID;
    WITH hours AS MATERIALIZED (
        SELECT reporter, received_at / 3600000 AS hour, sum(upload_bytes + download_bytes) AS bytes
        FROM report
        WHERE seq <= (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'folded_seq')
        GROUP BY 1, 2
    ), days AS MATERIALIZED (
        SELECT reporter, hour / 24 AS day, max(hour) AS last FROM hours GROUP BY 1, 2
    )
    INSERT INTO sender_day
        SELECT d.day, d.reporter, sum(h.bytes), d.last,
            sum(CASE WHEN h.hour = d.last THEN h.bytes ELSE 0 END),
            max(CASE WHEN h.hour < d.last THEN h.bytes ELSE 0 END)
        FROM days AS d JOIN hours AS h ON h.reporter = d.reporter AND h.hour / 24 = d.day
        GROUP BY d.day, d.reporter;
    """,
    """
    CREATE TABLE heard (scope TEXT PRIMARY KEY, received_at INTEGER NOT NULL)
        STRICT, WITHOUT ROWID;
    INSERT INTO heard SELECT reporter, max(received_at) FROM report
        WHERE seq <= (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'folded_seq')
            AND reporter NOT LIKE 'correction:%'
        GROUP BY reporter;
    """,
    """
    CREATE TABLE report_key_middle (
        key BLOB PRIMARY KEY,
        seq INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    # From now on ids are indexed apart from sums, and sums are added up in parts.
    """
    INSERT INTO meta (key, value)
        SELECT 'indexed_seq', value FROM meta WHERE key = 'folded_seq';
    """,
)
LEDGER = SqliteKind(
    name="ledger",
    program="collector",
    setting="LEDGER_URL",
    application_id=APPLICATION_ID,
    migrations=MIGRATIONS,
    error=LedgerError,
)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open and verify a ledger file; create or migrate it unless reading only.

    Raises LedgerError if the file is missing and `read_only`, is damaged, is not a ledger, or was
    written by a newer version. An existing file is never replaced by an empty ledger.
    """
    if read_only:
        return open_to_read(LEDGER, path)
    return open_to_write(LEDGER, path, configure=_configure, complete=_name)


def lock(path: Path) -> FileLock:
    """Lock the ledger for writing; LedgerInUseError names the process that has the lock."""
    taken = file_lock.take(
        path,
        name=LEDGER.name,
        program=LEDGER.program,
        reason="only one process may write a ledger",
        error=LedgerError,
        in_use_error=LedgerInUseError,
    )
    taken.write_pid()
    return taken


def identity_of(path: Path) -> tuple[int, int] | None:
    """Return a file's device and inode, which change if it is replaced; None if it is missing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _configure(db: sqlite3.Connection) -> None:
    db.execute(f"PRAGMA journal_size_limit = {MAX_JOURNAL_BYTES}")
    db.execute(f"PRAGMA wal_autocheckpoint = {PAGES_PER_CHECKPOINT}")
    db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    db.execute("PRAGMA temp_store = MEMORY")
    # Some builds overwrite deleted content with zeros. Dropping an old generation of ids would then
    # block storing for as long as writing it took.
    db.execute("PRAGMA secure_delete = FAST")


def _name(db: sqlite3.Connection) -> None:
    insert = "INSERT INTO meta (key, value) VALUES ('ledger_id', ?)"
    db.execute(insert, (secrets.token_hex(16),))


def not_stored(path: Path, error: Exception) -> NotStoredError:
    """Return what an error of SQLite means for who stores: DiskFullError, or its parent."""
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return DiskFullError(f"the disk under the ledger {path} is full")
    return NotStoredError(f"the ledger {path} did not store: {error}")
