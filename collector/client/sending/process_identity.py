"""Which process this is, among all that ever ran: told apart from one that has its number later.

Read from `/proc` where there is one; elsewhere a process is its number alone.
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
    """Return the id of this run of the machine; where it has none, one of this process alone."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return _IN_THIS_PROCESS


def this_process() -> str:
    """Return a text that no other process has had, as `has_ended` reads it."""
    return _identity(os.getpid())


@functools.lru_cache(maxsize=4)
def _identity(pid: int) -> str:
    return f"{this_boot()} {_namespace()} {pid} {_started(pid) or _UNKNOWN}"


def has_ended(process: str) -> bool:
    """Tell whether it is certain that a process, as `this_process` names it, no longer runs."""
    boot, namespace, pid, started = process.split(" ")
    if _BOOT.exists() and boot != this_boot():
        return True
    if namespace != _namespace():
        return False  # of another container: its number means nothing here
    if started != _UNKNOWN:
        return _started(int(pid)) != started
    return _is_free(int(pid))


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return _UNKNOWN


def _started(pid: int) -> str | None:
    """Return when a process began, in ticks since the machine did; None if it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in {b"Z", b"X"}:  # killed, and its parent has not asked yet
        return None
    return fields[19].decode()


def _is_free(pid: int) -> bool:
    if os.name != "posix":
        return False  # there, asking would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
