"""What commands print on, and how a process of several loops ends after a fault in one."""

from __future__ import annotations

import logging
import os
import signal

from rich.console import Console

log = logging.getLogger(__name__)
console = Console()


def say(line: str) -> None:
    """Print a line as it is; names in it are data, and stay whole for whoever reads the output."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def stop_process(error: BaseException) -> None:
    """End the process after a fault the loop cannot work around; a supervisor starts it anew."""
    log.critical("the loop stopped: %r", error, exc_info=error)
    os.kill(os.getpid(), signal.SIGTERM)
