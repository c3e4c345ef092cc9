"""Copies an SQLite file that is in use into another one, whole and of one moment.

By SQLite's backup interface inside one read transaction: the copy is of the moment it began,
commits go on meanwhile, and it takes as long as the disk needs to read and write the file. Without
that transaction every commit would restart the copy; `VACUUM INTO` would rebuild every index,
and cannot say how far it is. While it runs, the write-ahead log cannot be emptied and grows by what
is written.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from collector.runtime.private_files import put_in_place
from collector.runtime.sqlite.file import SqliteKind, draft_of, open_in_place, open_to_read

PAGES_PER_STEP = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy that was read again and found whole."""

    path: Path
    size_bytes: int
    users: int
    seconds: float


def back_up(
    kind: SqliteKind,
    path: Path,
    target: Path,
    *,
    finish: Callable[[sqlite3.Connection], int],
    on_progress: Callable[[int, int], None],
) -> Copy:
    """Copy a file to one that is not there yet, and verify the copy.

    `finish` is given the copy once it is known to be whole, and returns how many users are in it.
    `on_progress` is told the bytes copied and the bytes in all. Raises the kind's error; then there
    is no such file, as after a crash.
    """
    started_at = time.monotonic()
    if target.exists():
        raise kind.error(f"{target} is there already, and a backup overwrites nothing")
    try:
        with draft_of(target, "draft") as draft:
            with closing(open_to_read(kind, path)) as source:
                _copy(source, draft, on_progress)
            with closing(open_in_place(draft)) as copy:
                _verify(kind, copy)
                users = finish(copy)
            put_in_place(draft, target)
    except (sqlite3.Error, OSError) as error:
        raise kind.error(f"the {kind.name} was not copied to {target}: {error}") from error
    return Copy(
        path=target,
        size_bytes=target.stat().st_size,
        users=users,
        seconds=time.monotonic() - started_at,
    )


def _copy(source: sqlite3.Connection, draft: Path, on_progress: Callable[[int, int], None]) -> None:
    page_bytes = source.execute("PRAGMA page_size").fetchone()[0]
    source.execute("BEGIN")
    source.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # from here on of this moment
    with closing(open_in_place(draft)) as copy:
        source.backup(
            copy,
            pages=PAGES_PER_STEP,
            progress=lambda _, left, total: on_progress(
                (total - left) * page_bytes, total * page_bytes
            ),
            sleep=0,
        )
    source.execute("COMMIT")


def _verify(kind: SqliteKind, copy: sqlite3.Connection) -> None:
    verdict = copy.execute("PRAGMA quick_check(3)").fetchone()[0]
    application_id = copy.execute("PRAGMA application_id").fetchone()[0]
    if verdict != "ok" or application_id != kind.application_id:
        raise kind.error(f"the copy is not whole ({verdict}) and was dropped: see to the disk")
