"""Ports for servers that a test starts by number, and may start again on the same one."""

from __future__ import annotations

import itertools
import os
import random
import socket

FIRST, LAST = 10_000, 32_000
"""Below what Linux gives to outgoing connections: none of these takes a port before its server."""
_numbers = itertools.count(random.Random(os.getpid()).randrange(LAST - FIRST))


def free_port() -> int:
    """Return a port on which no server listens, another one each time."""
    for number in _numbers:
        port = FIRST + number % (LAST - FIRST)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise AssertionError
