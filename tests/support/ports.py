"""Ports for servers that a test starts by number, and may start again on the same one."""

from __future__ import annotations

import itertools
import os
import random
import socket

FIRST, LAST = 10_000, 32_000
"""Below what Linux gives to outgoing connections: none of these takes a port before its server."""
WORKERS = 8
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_OWN = range(FIRST + _WORKER % WORKERS, LAST, WORKERS)
"""A port that a server gave up until it is started again is taken by no other worker meanwhile."""
_numbers = itertools.count(random.Random(os.getpid()).randrange(len(_OWN)))


def free_port() -> int:
    """Return a port on which no server listens, another one each time."""
    for number in _numbers:
        port = _OWN[number % len(_OWN)]
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise AssertionError
