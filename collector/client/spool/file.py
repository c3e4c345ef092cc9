"""The spool's file: its tables, bringing an older one forward, and what its faults mean."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from collector.client.errors import SpoolError, SpoolFullError
from collector.runtime.private_files import BESIDE_SQLITE, keep_private, make_private

APPLICATION_ID = 0x54524650
MAX_JOURNAL_BYTES = 16 * 2**20
SCHEMA = """
CREATE TABLE item (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    lane TEXT NOT NULL,
    item_id TEXT NOT NULL,
    body BLOB NOT NULL,
    queued_at INTEGER NOT NULL,
    is_undated INTEGER NOT NULL DEFAULT 0,
    boot TEXT,
    queued_boot_millis INTEGER
);
CREATE INDEX item_lane ON item (lane, seq);
CREATE TABLE backlog (
    lane TEXT PRIMARY KEY,
    items INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL DEFAULT 0,
    set_aside INTEGER NOT NULL DEFAULT 0,
    set_aside_bytes INTEGER NOT NULL DEFAULT 0,
    tried_seq INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE claim (
    lane TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    token TEXT NOT NULL,
    process TEXT NOT NULL,
    until_millis INTEGER NOT NULL,
    tried_before_seq INTEGER NOT NULL
);
CREATE TABLE dead_letter (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lane TEXT NOT NULL,
    item_id TEXT NOT NULL,
    body BLOB NOT NULL,
    reason TEXT NOT NULL,
    set_aside_at INTEGER NOT NULL
);
"""
VERSION = 3
_CORRUPT, _FULL, _NOT_A_DATABASE = 11, 13, 26
_STEPS = {
    1: """
ALTER TABLE backlog ADD COLUMN set_aside_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE backlog SET set_aside_bytes = (
    SELECT coalesce(sum(length(body) + 96), 0) FROM dead_letter
    WHERE dead_letter.lane = backlog.lane
);
""",
    # Whether what waits was ever sent is not known: it counts as sent.
    2: """
ALTER TABLE item ADD COLUMN boot TEXT;
ALTER TABLE item ADD COLUMN queued_boot_millis INTEGER;
ALTER TABLE backlog ADD COLUMN tried_seq INTEGER NOT NULL DEFAULT 0;
UPDATE backlog SET tried_seq = (SELECT coalesce(max(seq), 0) FROM item);
CREATE TABLE claim (
    lane TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    token TEXT NOT NULL,
    process TEXT NOT NULL,
    until_millis INTEGER NOT NULL,
    tried_before_seq INTEGER NOT NULL
);
""",
}
"""What brings a file from the version before it to the next one."""


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make a new file's tables, or bring an older file forward.

    Raises SpoolError for a file that is no spool, or of a newer version.
    """
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA journal_size_limit = {MAX_JOURNAL_BYTES}")
    db.execute("BEGIN IMMEDIATE")
    try:
        _bring_forward(db, path)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    keep_private(path, suffixes=BESIDE_SQLITE)


def _bring_forward(db: sqlite3.Connection, path: Path) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        _run(db, SCHEMA)
    elif db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise SpoolError(f"{path} is an SQLite file, but not a spool")
    elif version > VERSION:
        raise SpoolError(f"the spool {path} was written by a newer version: upgrade")
    else:
        for each in range(max(version, 1), VERSION):
            _run(db, _STEPS[each])
    db.execute(f"PRAGMA user_version = {VERSION}")


def _run(db: sqlite3.Connection, script: str) -> None:
    """Run statements within the transaction that is open; `executescript` would end it."""
    for statement in filter(str.strip, script.split(";")):
        db.execute(statement)


def touch(path: Path) -> None:
    """Make the file before SQLite does, readable by its owner alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        make_private(path)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Make of each fault of the file or the disk a SpoolError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        if _is(error, _FULL, "disk is full"):
            raise SpoolFullError(f"the disk under the spool {path} is full") from error
        if _is(error, _CORRUPT, "malformed") or _is(error, _NOT_A_DATABASE, "not a database"):
            raise SpoolError(
                f"the spool {path} is damaged ({error}): move it away to begin anew; what waited "
                "in it is lost"
            ) from error
        raise SpoolError(f"the spool {path} cannot be used: {error}") from error
    except OSError as error:
        raise SpoolError(f"cannot open the spool {path}: {error}") from error


def _is(error: sqlite3.Error, code: int, words: str) -> bool:
    """Tell which error of SQLite's it is; Python 3.10 shows no code."""
    shown: int | None = getattr(error, "sqlite_errorcode", None)
    return words in str(error) if shown is None else shown & 0xFF == code
