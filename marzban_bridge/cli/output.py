"""The console that commands print to, and the exit of the process after a loop has failed."""

from __future__ import annotations

import logging
import os
import signal

from rich.console import Console

log = logging.getLogger(__name__)
console = Console()


def say(line: str) -> None:
    """Print a line without wrapping and without markup, so that scripts can parse it."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


class LoopFailure:
    """Ends the process after a fault that stopped a loop; a supervisor is to restart it."""

    def __init__(self) -> None:
        self.exit_code = 0

    def __call__(self, error: BaseException) -> None:
        """End the process as SIGTERM does, with exit code 1."""
        self.exit_code = 1
        log.critical("the loop stopped: %r", error, exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)
