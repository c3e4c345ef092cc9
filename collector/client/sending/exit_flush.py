"""At the program's exit, delivers queued reports for a short time; the spool keeps the rest."""

from __future__ import annotations

import atexit
import time
import weakref
from typing import Protocol

DEFAULT_EXIT_FLUSH_SECONDS = 2.0


class FlushesAtExit(Protocol):
    """A client with a spool."""

    exit_flush_seconds: float

    def flush_at_exit(self, *, timeout_seconds: float) -> None:
        """Deliver for at most `timeout_seconds`; raises nothing."""
        ...


_clients: weakref.WeakSet[FlushesAtExit] = weakref.WeakSet()


def register(client: FlushesAtExit) -> None:
    """Register a client to flush at exit."""
    _clients.add(client)


def forget(client: FlushesAtExit) -> None:
    """Unregister a client, since it was closed."""
    _clients.discard(client)


def _flush_all() -> None:
    """Flush all clients at the same time, so that the exit takes only the longest timeout."""
    clients = list(_clients)
    began_seconds = time.monotonic()
    for each in clients:
        left_seconds = each.exit_flush_seconds - (time.monotonic() - began_seconds)
        if left_seconds > 0:
            each.flush_at_exit(timeout_seconds=left_seconds)


atexit.register(_flush_all)
