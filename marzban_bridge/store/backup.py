"""Copies the bridge's store while it is in use into one file, whole and of one moment.

By SQLite's backup interface inside one read transaction: the copy is of the moment it began, and
the bridge writes on meanwhile. Without that transaction every commit of the bridge would begin the
copy anew; `VACUUM INTO` would build every index anew, and cannot say how far it is.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from collector.runtime.private_files import BESIDE_SQLITE, make_private, put_in_place
from marzban_bridge.errors import StoreError
from marzban_bridge.store.identity import mark_as_copy
from marzban_bridge.store.sqlite import APPLICATION_ID, connect

PAGES_PER_STEP = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy that was read again and found whole."""

    path: Path
    size_bytes: int
    accounts: int
    seconds: float


def back_up(store: Path, target: Path, *, on_progress: Callable[[int, int], None]) -> Copy:
    """Copy a store to a file that is not there yet, and verify the copy.

    `on_progress` is told the bytes copied and the bytes in all. Raises StoreError; then there is
    no such file, as after a crash.
    """
    started_at = time.monotonic()
    if target.exists():
        raise StoreError(f"{target} is there already, and a backup overwrites nothing")
    draft = target.with_name(f"{target.name}.{secrets.token_hex(4)}.draft")
    try:
        with closing(connect(store, read_only=True)) as source:
            _copy(source, draft, on_progress)
        accounts = _verify(draft)
        put_in_place(draft, target)
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"the store was not copied to {target}: {error}") from error
    finally:
        for suffix in BESIDE_SQLITE:
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)
    return Copy(
        path=target,
        size_bytes=target.stat().st_size,
        accounts=accounts,
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
    """Read the copy through and mark it as one; return how many accounts are in it."""
    with closing(sqlite3.connect(draft, isolation_level=None)) as db:
        verdict = db.execute("PRAGMA quick_check(3)").fetchone()[0]
        application_id = db.execute("PRAGMA application_id").fetchone()[0]
        if verdict != "ok" or application_id != APPLICATION_ID:
            raise StoreError(f"the copy is not whole ({verdict}) and was dropped: see to the disk")
        mark_as_copy(db, at=datetime.now(UTC))
        return int(db.execute("SELECT count(*) FROM account").fetchone()[0])
