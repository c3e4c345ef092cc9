"""Copies a ledger that is in use into one file, from one snapshot."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from collector.ledger.sqlite.file import LEDGER
from collector.runtime.sqlite import backup
from collector.runtime.sqlite.backup import Copy


def back_up(ledger: Path, target: Path, *, on_progress: Callable[[int, int], None]) -> Copy:
    """Copy a ledger to a file that must not exist yet, and verify the copy.

    `on_progress` is called with the copied bytes and the total. Raises LedgerError; then, and after
    a crash, there is no such file.
    """
    return backup.back_up(LEDGER, ledger, target, finish=_count_users, on_progress=on_progress)


def _count_users(copy: sqlite3.Connection) -> int:
    return int(copy.execute("SELECT count(DISTINCT username) FROM series").fetchone()[0])
