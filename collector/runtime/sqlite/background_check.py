"""Reads an SQLite file through beside its writer, so that a start does not wait for it.

Found damage is noted in a file beside it, named like it with `.damaged` at the end. While there is
such a note, a start reads the file through first, as `check_whole` does: a supervisor that starts
the program again and again does not have it write to a damaged file meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from collector.runtime.private_files import make_private
from collector.runtime.sqlite.file import (
    SqliteKind,
    check_whole,
    damage_of,
    fault,
    is_damaged,
    is_disk_at_fault,
    open_in_place,
)

log = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
STOP_SECONDS = 2.0
"""How long `stop` waits. A check that an older SQLite does not interrupt ends with the process."""
_STEPS_BETWEEN_POLLS = 10_000


class BackgroundCheck:
    """Reads a file through once, in a thread and on a connection of its own.

    `on_fault` is called in that thread with the kind's error if the file is damaged or its disk
    fails; the error is the one that `check_whole` raises. What is transient is tried again.
    """

    def __init__(
        self, kind: SqliteKind, path: Path, *, on_fault: Callable[[Exception], None]
    ) -> None:
        self._kind = kind
        self._path = path
        self._on_fault = on_fault
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{kind.name} check", daemon=True)

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def stop(self) -> None:
        """End, whole or not; `on_fault` is not called any more."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the check; return whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        is_due = True
        while is_due:
            is_due = not self._has_ended() and not self._stopped.wait(RETRY_SECONDS)

    def _has_ended(self) -> bool:
        """Read the file through; return False if that is to be tried again."""
        started_at = time.monotonic()
        try:
            problem = self._read()
        except sqlite3.Error as error:
            if self._stopped.is_set():
                return True
            if not is_damaged(error) and not is_disk_at_fault(error):
                log.warning("the %s %s is not checked yet: %s", self._kind.name, self._path, error)
                return False
            found = fault(self._kind, self._path, error)
            self._tell(found, is_damage=is_damaged(error))
            return True
        if problem is None:
            seconds = time.monotonic() - started_at
            log.info("the %s %s is whole: read in %.1f s", self._kind.name, self._path, seconds)
        else:
            self._tell(self._kind.damaged(self._path, problem), is_damage=True)
        return True

    def _read(self) -> str | None:
        with contextlib.closing(open_in_place(self._path)) as db:
            db.set_progress_handler(self._stopped.is_set, _STEPS_BETWEEN_POLLS)
            return damage_of(db)

    def _tell(self, error: Exception, *, is_damage: bool) -> None:
        if self._stopped.is_set():
            return
        if is_damage:
            with contextlib.suppress(OSError):  # without a note the next start finds it again
                _note(self._path, str(error))
        log.critical("%s", error)
        self._on_fault(error)


def check_noted(kind: SqliteKind, db: sqlite3.Connection, path: Path) -> None:
    """Read a file through if damage of it is noted; forget the note if it is whole now.

    Raises as `check_whole`, and closes the connection then.
    """
    note = note_of(path)
    if note.exists():
        check_whole(kind, db, path)
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)


def note_of(path: Path) -> Path:
    """Return where damage of a file is noted."""
    return path.with_name(path.name + ".damaged")


def _note(path: Path, text: str) -> None:
    note = note_of(path)
    with contextlib.suppress(FileExistsError):
        make_private(note)
    note.write_text(text + "\n")
