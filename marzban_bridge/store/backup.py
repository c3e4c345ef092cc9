"""Copies the bridge's store while it is in use into one file, whole and of one moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from collector.runtime.sqlite import backup
from collector.runtime.sqlite.backup import Copy
from marzban_bridge.store.identity import mark_as_copy
from marzban_bridge.store.sqlite import STORE


def back_up(store: Path, target: Path, *, on_progress: Callable[[int, int], None]) -> Copy:
    """Copy a store to a file that is not there yet, verify the copy and mark it as one.

    `on_progress` is told the bytes copied and the bytes in all. Raises StoreError; then there is
    no such file, as after a crash.
    """
    return backup.back_up(STORE, store, target, finish=_mark_and_count, on_progress=on_progress)


def _mark_and_count(copy: sqlite3.Connection) -> int:
    mark_as_copy(copy, at=datetime.now(UTC))
    return int(copy.execute("SELECT count(*) FROM account").fetchone()[0])
