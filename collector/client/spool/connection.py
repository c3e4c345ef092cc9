"""The SQLite connection to a spool: opened on first use, closed before a fork.

SQLite forbids using a connection, or its file locks, in a child process.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable

from collector.client.sending import fork_hooks

FORK_WAIT_SECONDS = 10.0
"""How long a fork waits for another thread's transaction."""


class SpoolConnection:
    """One connection for all threads of a process, which take turns by `lock`."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._db: sqlite3.Connection | None = None
        self._is_closed = False
        self._is_held = False
        self._is_of_parent = False
        self.lock = threading.RLock()
        fork_hooks.register(self)

    def get(self) -> sqlite3.Connection:
        """Return the connection; sqlite3.ProgrammingError once it is closed for good."""
        if self._is_closed:
            raise sqlite3.ProgrammingError("the spool is closed")
        if self._is_of_parent:
            raise sqlite3.ProgrammingError(
                "the process forked within a transaction; create another client in the child"
            )
        if self._db is None:
            self._db = self._connect()
        return self._db

    def close(self) -> None:
        """Close the connection; it cannot be opened again."""
        with self.lock:
            self._is_closed = True
            self._let_go()

    def _let_go(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def before_fork(self) -> None:
        """Close the connection; the next use opens it again."""
        self._is_held = self.lock.acquire(timeout=FORK_WAIT_SECONDS)
        if self._is_held and self._db is not None and not self._db.in_transaction:
            self._let_go()

    def after_fork_in_parent(self) -> None:
        """Release the lock for other threads."""
        if self._is_held:
            self.lock.release()

    def after_fork_in_child(self) -> None:
        """Create a new lock; drop a connection that could not be closed before the fork."""
        self.lock = threading.RLock()
        self._is_of_parent = self._db is not None
