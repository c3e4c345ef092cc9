"""One line per event on standard error: time, level, where, what."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any


class OneLineFormatter(logging.Formatter):
    """Writes an event on one line, whatever names are in it; lines of a traceback are indented.

    What cannot be printed is spelt out: a name can neither begin a line of its own nor steer the
    terminal that shows it.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the parent's name
        """Return the line of the event itself."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the parent's name
        """Return the traceback, in lines that no event begins like."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"    {printable(line)}" for line in lines)


def printable(text: str) -> str:
    """Spell out what is no printable character, as Python does."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def configure_logging(*, level: int = logging.INFO) -> None:
    """Send the process's logs to standard error in one readable form, UTC throughout.

    The HTTP client's own lines are silenced: they repeat every request.
    """
    formatter = OneLineFormatter(
        "%(asctime)sZ %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
