"""SQLite connections that threads have each for itself, and another thread closes.

To close a connection while a thread runs a statement on it frees that statement under the thread:
the process crashes. So a connection is closed once it is not used; what runs on it is interrupted.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""How long `close` waits for statements that do not end, as on a disk that does not answer."""
_INTERRUPT_SECONDS = 0.02


class _Connection:
    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.used = threading.RLock()

    def close(self, until_seconds: float) -> bool:
        """Close it once it is not used; return whether that came about in time."""
        while not self.used.acquire(timeout=_INTERRUPT_SECONDS):
            if time.monotonic() > until_seconds:
                return False
            self.db.interrupt()  # again, for a thread that was between two statements
        try:
            self.db.close()
        finally:
            self.used.release()
        return True


class ThreadConnections:
    """One connection for each thread, opened when it is first used."""

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._of_thread = threading.local()
        self._opened: list[_Connection] = []
        self._guard = threading.Lock()
        self._is_closed = False

    @contextlib.contextmanager
    def use(self) -> Iterator[sqlite3.Connection]:
        """Give the thread its connection; uses may be within one another.

        Raises sqlite3.ProgrammingError once the connections are closed, and what opening raises.
        A statement under way when they are closed raises sqlite3.OperationalError.
        """
        own: _Connection | None = getattr(self._of_thread, "own", None)
        if own is None:
            own = self._of_thread.own = self._open()
        with own.used:
            if self._is_closed:
                raise _closed()
            yield own.db

    def _open(self) -> _Connection:
        own = _Connection(self._connect())
        with self._guard:
            if not self._is_closed:
                self._opened.append(own)
                return own
        own.db.close()
        raise _closed()

    def close(self) -> None:
        """Close all connections, for good; returns when no thread uses one any more.

        One whose statement does not end in CLOSE_SECONDS stays open, and that is logged.
        """
        with self._guard:
            self._is_closed = True
            opened = self._opened[:]
            self._opened.clear()
        until_seconds = time.monotonic() + CLOSE_SECONDS
        left = [each for each in opened if not each.close(until_seconds)]
        if left:
            log.warning("an SQLite file stays open in %d threads: a query does not end", len(left))


def _closed() -> sqlite3.ProgrammingError:
    return sqlite3.ProgrammingError("these connections are closed")
