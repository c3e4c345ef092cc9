"""Bytes sent on a connection as they are, for servers that may refuse them before they have all come.

A server that has read enough to refuse answers and closes. What is sent after that fails (EPIPE,
ECONNRESET), a connection that was reset cannot be half closed (ENOTCONN), and where bytes were left
unread the answer ends with a reset in place of an end. Which of these a client meets is a matter of
microseconds; none of them is an error here.
"""

from __future__ import annotations

import contextlib
import socket

SECONDS = 60
_ENDS = (BrokenPipeError, ConnectionResetError, ConnectionAbortedError)


def connect(address: tuple[str, int], *, seconds: float = SECONDS) -> socket.socket:
    """Return a connection on which each call may take so long, and small writes leave at once."""
    connection = socket.create_connection(address, timeout=seconds)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def send(connection: socket.socket, data: bytes) -> bool:
    """Send all of it; False when the other side has closed before. TimeoutError if it reads none."""
    try:
        connection.sendall(data)
    except _ENDS:
        return False
    return True


def read_first(connection: socket.socket) -> bytes:
    """Return what is answered first; nothing when the other side has closed without an answer."""
    with contextlib.suppress(*_ENDS):
        return connection.recv(65536)
    return b""


def read_all(connection: socket.socket) -> bytes:
    """Return what is answered until the other side closes, in order or with a reset."""
    return b"".join(iter(lambda: read_first(connection), b""))


def exchange(address: tuple[str, int], data: bytes, *, seconds: float = SECONDS) -> bytes:
    """Send data, say that no more comes, and return all that is answered."""
    with connect(address, seconds=seconds) as connection:
        if send(connection, data):
            with contextlib.suppress(OSError):  # ENOTCONN: closed meanwhile
                connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


def is_ended(connection: socket.socket) -> bool:
    """Tell without waiting whether the other side has closed; what it said before is read away."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
