"""Opening the address to serve on, so that a taken one is an error before anything is begun."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit


class ListenError(Exception):
    """An address cannot be listened on; the message says which, and why."""


class NotStartedError(Exception):
    """An application did not start; the lines of the log before say why."""


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; ListenError when the address is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, reuse_port=False)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ListenError(f"cannot listen on {host}:{port}: {reason}") from error


def loopback_url(listener: socket.socket) -> str:
    """Return the URL under which this machine reaches a listening socket."""
    host, port = listener.getsockname()[:2]
    return local_url(host, port)


def local_url(host: str, port: int) -> str:
    """Return the URL under which this machine reaches what listens on a host and port."""
    if host in {"0.0.0.0", "::", ""}:  # noqa: S104 - compared with, not bound to
        host = "127.0.0.1" if host != "::" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(url: str) -> bool:
    """Tell whether a URL is one that its own machine alone reaches."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host.startswith("127.") or host == "::1"
