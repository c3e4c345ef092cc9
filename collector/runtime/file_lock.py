"""A lock on the right to write a file, which one process holds at a time.

It is a lock on a file beside it, named like it with `.lock` at the end, whose first line is the
number of the process that has it. The lock ends with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from collector.runtime.private_files import keep_private, make_private

_PID_BYTES = 32


class FileLock:
    """A lock that this process has taken."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def write_pid(self) -> None:
        """Write the process id into the lock file, for error messages; skipped on a full disk."""
        with contextlib.suppress(OSError):
            os.pwrite(self.descriptor, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def path_of(path: Path) -> Path:
    """Return where the lock of a file is."""
    return path.with_name(path.name + ".lock")


def take(
    path: Path,
    *,
    name: str,
    program: str,
    reason: str,
    error: type[Exception],
    in_use_error: type[Exception] | None = None,
) -> FileLock:
    """Take the lock of a file that may not be there yet; its folder is made.

    Raises `in_use_error` (or `error`) naming the process that has it, and why one has it at a time;
    `error` where the lock cannot be made. Both call the file by its `name`.
    """
    beside = path_of(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            make_private(beside)
        keep_private(beside)
        descriptor = os.open(beside, os.O_RDWR | os.O_CLOEXEC)
    except OSError as refusal:
        raise error(
            f"cannot write beside the {name} {path}: {refusal}; the user that it runs as must own "
            "the folder"
        ) from refusal
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as refusal:
        said = os.pread(descriptor, _PID_BYTES, 0).partition(b"\n")[0]
        pid = said.decode("ascii", "replace").strip()
        os.close(descriptor)
        raise (in_use_error or error)(
            f"the {name} {path} is in use by another {program}"
            f"{f' (pid {pid})' if pid else ''}: {reason}"
        ) from refusal
    return FileLock(descriptor)
