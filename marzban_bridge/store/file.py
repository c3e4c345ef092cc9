"""A store in one SQLite file, written by a single process."""

from __future__ import annotations

from pathlib import Path

from marzban_bridge.store.handle import StoreHandle
from marzban_bridge.store.sqlite import connect, lock


class FileHandle(StoreHandle):
    """A store in one SQLite file.

    Raises StoreError when another process has it open for writing, when it is damaged or not a
    bridge's store, or when a newer version wrote it.
    """

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self._lock = None if read_only else lock(path)
        try:
            super().__init__(connect(path, read_only=read_only))
        except BaseException:
            if self._lock:
                self._lock.close()
            raise

    def close(self) -> None:
        """Close the file and release its lock."""
        super().close()
        if self._lock:
            self._lock.close()
