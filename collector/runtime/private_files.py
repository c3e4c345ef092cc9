"""Files of mode 600 that are created whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

MODE = 0o600
BESIDE_SQLITE = ("", "-wal", "-shm", "-journal")
"""What SQLite makes beside a file; it gives new ones the mode of the file."""
_SYNCS_NO_FOLDERS = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}


def make_private(path: Path) -> None:
    """Make an empty file of mode 600, whatever the umask; FileExistsError where there is one."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE))
    path.chmod(MODE)  # the umask may have taken more than it should


def keep_private(path: Path, *, suffixes: Iterable[str] = ("",)) -> None:
    """Set a file, and those beside it, to mode 600; what is missing is skipped.

    A file of another user stays as it is, with a warning.
    """
    if os.name != "posix":
        return
    for suffix in suffixes:
        each = path.with_name(path.name + suffix)
        with contextlib.suppress(FileNotFoundError):
            mode = each.stat().st_mode & 0o777
            if not mode & ~MODE:
                continue
            try:
                each.chmod(MODE)
            except PermissionError:
                log.warning(
                    "file_is_readable_by_others file=%s mode=%o: it belongs to another user; have "
                    "that user run `chmod 600` on it",
                    each,
                    mode,
                )
            else:
                log.warning(
                    "file_was_readable_by_others file=%s mode=%o: now it is 600", each, mode
                )


def put_in_place(draft: Path, target: Path) -> None:
    """Rename a complete draft to its target, with fsync of the file and of the folder.

    No file is overwritten: FileExistsError if the target exists by then, and the draft stays.
    """
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(draft, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without links: create the target, then replace it
        make_private(target)
        draft.replace(target)
    else:
        draft.unlink()
    _sync_folder(target.parent)


def _sync_folder(path: Path) -> None:
    if os.name != "posix":
        return
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _SYNCS_NO_FOLDERS:
            raise
    finally:
        os.close(folder)
