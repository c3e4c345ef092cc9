"""Copies the bridge's store, while it is in use, into one consistent file."""

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
    """Copy a store to a new file, verify the copy, and mark it as a copy.

    `on_progress` is called with the bytes copied and the total. Raises StoreError; then, and after
    a crash, the target does not exist.
    """
    return backup.back_up(STORE, store, target, finish=_mark_and_count, on_progress=on_progress)


def _mark_and_count(copy: sqlite3.Connection) -> int:
    mark_as_copy(copy, at=datetime.now(UTC))
    return int(copy.execute("SELECT count(*) FROM account").fetchone()[0])
