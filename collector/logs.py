"""One line per event on standard error: time, level, where, what."""

from __future__ import annotations

import logging
import sys
import time


def configure_logging(*, level: int = logging.INFO) -> None:
    """Send the process's logs to standard error in one readable form, UTC throughout.

    The HTTP client's own lines are silenced: they repeat every request.
    """
    formatter = logging.Formatter(
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
