"""Disk space reserved for settling, so that a spool can also be emptied on a full disk.

SQLite needs space for its journal to delete rows. If the disk is full, the reserve is released, the
items are deleted, and the reserve is taken again once there is space.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

DEFAULT_RESERVE_BYTES = 2**20
"""Far more than the journal of one settlement needs."""


class Reserve:
    """A file of zeros beside the spool; all processes of the spool share it."""

    def __init__(self, spool: Path, *, size_bytes: int = DEFAULT_RESERVE_BYTES) -> None:
        self._path = spool.with_name(spool.name + ".reserve")
        self._size_bytes = size_bytes

    def take(self) -> bool:
        """Create the reserve if there is none; return whether there is one now."""
        with contextlib.suppress(OSError):
            if self._path.stat().st_size >= self._size_bytes:
                return True
        try:
            self._fill()
        except OSError:
            self.give_back()
            return False
        return True

    def _fill(self) -> None:
        opened = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened, 0, self._size_bytes)
            else:  # written zeros occupy space on every file system
                os.write(opened, bytes(self._size_bytes))
        finally:
            os.close(opened)

    def give_back(self) -> bool:
        """Release the reserve; return whether there was one."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
