"""Copies committed pages from the write-ahead log into a ledger file, beside its writer.

SQLite does so within a commit, once the log is long, and then copies and syncs all of it: reports
wait for that. Here it is done earlier, in a thread and on a connection of its own, while commits go
on. What is left for a commit, if the log becomes long all the same, is little.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from pathlib import Path

from collector.runtime.sqlite.file import open_in_place

log = logging.getLogger(__name__)

PAGES = 8_000
"""After about so many pages the log is copied."""
STOP_SECONDS = 10.0


class Checkpoints:
    """The checkpoints of one ledger file; for the thread that writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pages = 0
        self._is_due = threading.Event()
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._db: sqlite3.Connection | None = None

    def note_commit(self, *, pages: int) -> None:
        """Note a commit, and about how many pages it wrote; a checkpoint may begin."""
        self._pages += pages
        if self._pages < PAGES:
            return
        self._pages = 0
        self._is_due.set()
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="ledger pages", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # there are too many; it is tried again
            log.warning("no checkpoints beside the commits of %s: %s", self._path, error)
        else:
            self._thread = thread

    def close(self) -> None:
        """End a checkpoint under way; the next one does what is left."""
        self._is_closed = True
        self._is_due.set()
        if self._thread is not None:
            if (db := self._db) is not None:
                with contextlib.suppress(sqlite3.Error):  # closed by the thread meanwhile
                    db.interrupt()
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        try:
            with contextlib.closing(open_in_place(self._path)) as db:
                self._db = db
                while self._is_due.wait():
                    self._is_due.clear()
                    if self._is_closed:  # set before `_is_due`, so it is seen after `clear`
                        return
                    self._checkpoint(db)
        except sqlite3.Error as error:
            log.warning("no checkpoints beside the commits of %s: %s", self._path, error)
        finally:
            self._db = None

    def _checkpoint(self, db: sqlite3.Connection) -> None:
        try:
            db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error as error:  # a commit does it then, or says what is wrong
            if not self._is_closed:
                log.warning("no checkpoint of the ledger %s: %s", self._path, error)
