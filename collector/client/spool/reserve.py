"""Room on the disk that is kept for settling: what was delivered must leave a spool on a full disk.

Taking items out of a SQLite file writes to its journal first, which needs room of its own. Where
there is none, the reserve is given back to the disk, the items are settled in its place, and the
reserve is taken anew once there is room.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

DEFAULT_RESERVE_BYTES = 2**20
"""Far more than the journal of one settlement."""


class Reserve:
    """A file beside the spool that holds nothing but room; the spool's processes share it."""

    def __init__(self, spool: Path, *, size_bytes: int = DEFAULT_RESERVE_BYTES) -> None:
        self._path = spool.with_name(spool.name + ".reserve")
        self._size_bytes = size_bytes

    def take(self) -> bool:
        """Take the room if it is not taken; return whether it is, which a full disk prevents."""
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
            else:  # a file of zeros that are written takes room everywhere
                os.write(opened, bytes(self._size_bytes))
        finally:
            os.close(opened)

    def give_back(self) -> bool:
        """Give the room back to the disk; return whether any was taken."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
