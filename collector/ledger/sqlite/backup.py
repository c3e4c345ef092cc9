"""Copies a ledger that is in use into one file, whole and of one moment.

By SQLite's backup interface inside one read transaction: the copy is of the moment it began,
commits go on meanwhile, and it takes as long as the disk needs to read and write the file. Without
that transaction every commit of the collector would begin the copy anew; `VACUUM INTO` would build
every index anew, and cannot say how far it is. While it runs, the write-ahead log cannot be emptied
and grows by what is reported.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from collector.errors import LedgerError
from collector.ledger.sqlite.file import APPLICATION_ID, connect
from collector.runtime.private_files import BESIDE_SQLITE, make_private, put_in_place

PAGES_PER_STEP = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy that was read again and found whole."""

    path: Path
    size_bytes: int
    users: int
    seconds: float


def back_up(ledger: Path, target: Path, *, on_progress: Callable[[int, int], None]) -> Copy:
    """Copy a ledger to a file that is not there yet, and verify the copy.

    `on_progress` is told the bytes copied and the bytes in all. Raises LedgerError; then there is
    no such file, as after a crash.
    """
    started_at = time.monotonic()
    if target.exists():
        raise LedgerError(f"{target} is there already, and a backup overwrites nothing")
    draft = target.with_name(f"{target.name}.{secrets.token_hex(4)}.draft")
    try:
        with closing(connect(ledger, read_only=True)) as source:
            _copy(source, draft, on_progress)
        users = _verify(draft)
        put_in_place(draft, target)
    except (sqlite3.Error, OSError) as error:
        raise LedgerError(f"the ledger was not copied to {target}: {error}") from error
    finally:
        for suffix in BESIDE_SQLITE:
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    return Copy(
        path=target,
        size_bytes=target.stat().st_size,
        users=users,
        seconds=time.monotonic() - started_at,
    )


def _copy(source: sqlite3.Connection, draft: Path, on_progress: Callable[[int, int], None]) -> None:
    make_private(draft)
    page_bytes = source.execute("PRAGMA page_size").fetchone()[0]
    source.execute("BEGIN")
    source.execute("SELECT count(*) FROM meta").fetchone()  # from here on it is of this moment
    with closing(sqlite3.connect(draft, isolation_level=None)) as copy:
        source.backup(
            copy,
            pages=PAGES_PER_STEP,
            progress=lambda _, left, total: on_progress(
                (total - left) * page_bytes, total * page_bytes
            ),
            sleep=0,
        )
    source.execute("COMMIT")


def _verify(draft: Path) -> int:
    """Read the copy through, as a collector at its start would; return how many users it has."""
    with closing(sqlite3.connect(draft, isolation_level=None)) as db:
        verdict = db.execute("PRAGMA quick_check(3)").fetchone()[0]
        application_id = db.execute("PRAGMA application_id").fetchone()[0]
        if verdict != "ok" or application_id != APPLICATION_ID:
            raise LedgerError(f"the copy is not whole ({verdict}) and was dropped: see to the disk")
        return int(db.execute("SELECT count(DISTINCT username) FROM series").fetchone()[0])
