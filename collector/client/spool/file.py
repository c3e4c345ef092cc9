"""The spool's file: its schema, migrations, and the translation of SQLite's errors."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from collector.client.errors import SpoolError, SpoolFullError
from collector.runtime.private_files import BESIDE_SQLITE, keep_private, make_private
from collector.runtime.sqlite.file import (
    SqliteKind,
    is_damaged,
    is_disk_full,
    migrate,
    open_in_place,
    verify,
)

MAX_JOURNAL_BYTES = 16 * 2**20
SPOOL = SqliteKind(
    name="spool",
    program="client",
    setting="the client's `spool`",
    application_id=0x54524650,
    error=SpoolError,
    migrations=(
        """
CREATE TABLE item (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    lane TEXT NOT NULL,
    item_id TEXT NOT NULL,
    body BLOB NOT NULL,
    queued_at INTEGER NOT NULL,
    is_undated INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX item_lane ON item (lane, seq);
CREATE TABLE backlog (
    lane TEXT PRIMARY KEY,
    items INTEGER NOT NULL DEFAULT 0,
    size_bytes INTEGER NOT NULL DEFAULT 0,
    set_aside INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE dead_letter (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    lane TEXT NOT NULL,
    item_id TEXT NOT NULL,
    body BLOB NOT NULL,
    reason TEXT NOT NULL,
    set_aside_at INTEGER NOT NULL
);
""",
        """
ALTER TABLE backlog ADD COLUMN set_aside_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE backlog SET set_aside_bytes = (
    SELECT coalesce(sum(length(body) + 96), 0) FROM dead_letter
    WHERE dead_letter.lane = backlog.lane
);
""",
        # Whether queued items were ever sent is not known: they count as sent.
        """
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
    ),
)


def connect(path: Path) -> sqlite3.Connection:
    """Open a spool's file with mode 600; create an empty one if there is none.

    An empty file is a valid, empty spool. Call `prepare` before use.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        make_private(path)
    return open_in_place(path)


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Create the tables of a new file, or migrate an older one.

    Raises SpoolError for a file that is not a spool, or is of a newer version.
    """
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA journal_size_limit = {MAX_JOURNAL_BYTES}")
    if not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        db.execute(f"PRAGMA application_id = {SPOOL.application_id}")
    verify(SPOOL, db, path)
    migrate(SPOOL, db)
    keep_private(path, suffixes=BESIDE_SQLITE)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Translate errors of SQLite and of the disk into a SpoolError."""
    try:
        yield
    except sqlite3.Error as error:
        if is_disk_full(error):
            raise SpoolFullError(f"the disk under the spool {path} is full") from error
        if is_damaged(error):
            raise SpoolError(
                f"the spool {path} is damaged ({error}): move it away to begin an empty one; its "
                "reports are lost"
            ) from error
        raise SpoolError(f"the spool {path} cannot be used: {error}") from error
    except OSError as error:
        raise SpoolError(f"cannot open the spool {path}: {error}") from error
