"""A name for a process that no later process with the same pid has.

It is read from `/proc`; on a system without it, the name is the pid alone.
"""

from __future__ import annotations

import functools
import os
import uuid
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_UNKNOWN = "-"
_IN_THIS_PROCESS = uuid.uuid4().hex


@functools.cache
def this_boot() -> str:
    """Return the boot id of the machine; without one, a random id of this process."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return _IN_THIS_PROCESS


def this_process() -> str:
    """Return the name of this process, as `has_ended` reads it."""
    return _identity(os.getpid())


@functools.lru_cache(maxsize=4)
def _identity(pid: int) -> str:
    return f"{this_boot()} {_namespace()} {pid} {_started(pid) or _UNKNOWN}"


def has_ended(process: str) -> bool:
    """Tell whether a process, named by `this_process`, has certainly ended."""
    boot, namespace, pid, started = process.split(" ")
    if _BOOT.exists() and boot != this_boot():
        return True
    if namespace != _namespace():
        return False  # another container's: its pid says nothing here
    if started != _UNKNOWN:
        return _started(int(pid)) != started
    return _is_free(int(pid))


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return _UNKNOWN


def _started(pid: int) -> str | None:
    """Return the start time of a process, in ticks since boot; None if it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in {b"Z", b"X"}:  # a zombie: it ended, and its parent has not waited yet
        return None
    return fields[19].decode()


def _is_free(pid: int) -> bool:
    if os.name != "posix":
        return False  # on Windows, os.kill would end the process
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
