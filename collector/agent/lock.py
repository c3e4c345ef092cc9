"""One agent per state file."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

from collector.agent.errors import AgentError
from collector.private_files import keep_private, make_private


def lock(state: Path) -> IO[str]:
    """Take the right to read sources into a state file; AgentError names the process that has it.

    The right ends with the process, however it ends.
    """
    try:
        state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = state.with_name(state.name + ".lock")
        with contextlib.suppress(FileExistsError):
            make_private(beside)
        keep_private(beside)
        file = beside.open("a+")
    except OSError as error:
        raise AgentError(f"cannot write beside the state {state}: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        by = f" (pid {holder})" if holder else ""
        raise AgentError(f"the state {state} is in use by another agent{by}") from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
