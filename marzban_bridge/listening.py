"""Opening the addresses to serve on, so that a taken one is an error before anything is begun."""

from __future__ import annotations

import socket

from collector.runtime import listening
from marzban_bridge.errors import SettingsError


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; SettingsError when the address is taken or not this machine's."""
    try:
        return listening.listen(host, port)
    except listening.ListenError as error:
        raise SettingsError(str(error)) from error


def loopback_url(listener: socket.socket) -> str:
    """Return the URL under which this machine reaches a listening socket."""
    host, port = listener.getsockname()[:2]
    return local_url(host, port)


def local_url(host: str, port: int) -> str:
    """Return the URL under which this machine reaches what listens on a host and port."""
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared with, not bound to
        host = "127.0.0.1" if host != "::" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
