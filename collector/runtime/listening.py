"""Opening the address to serve on, so that a taken one is an error before anything is begun."""

from __future__ import annotations

import socket


class ListenError(Exception):
    """An address cannot be listened on; the message says which, and why."""


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; ListenError when the address is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, reuse_port=False)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ListenError(f"cannot listen on {host}:{port}: {reason}") from error
