"""The right to write an SQLite ledger, which one process has at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

from collector.errors import LedgerError, LedgerInUseError
from collector.runtime.private_files import keep_private, make_private


def lock(path: Path) -> IO[str]:
    """Take the right to write reports; LedgerError names the process that has it.

    The right ends with the process, however it ends.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".lock")
        with contextlib.suppress(FileExistsError):
            make_private(beside)
        keep_private(beside)
        file = beside.open("a+")
    except OSError as error:
        raise LedgerError(
            f"cannot write beside the ledger {path}: {error}; the collector's user must own the "
            "folder"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise LedgerInUseError(
            f"the ledger {path} is in use by another collector"
            f"{f' (pid {holder})' if holder else ''}: one process writes a ledger"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
