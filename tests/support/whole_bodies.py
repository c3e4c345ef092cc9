"""Bodies of requests to servers of tests, whose senders may be killed in the middle of one."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler


def whole_body(handler: BaseHTTPRequestHandler) -> bytes:
    """Return the body of a request; ConnectionAbortedError if its sender hung up before the end.

    `rfile` returns what came until then, which a server must not take for a body.
    """
    length = int(handler.headers.get("content-length", 0))
    body = handler.rfile.read(length)
    if len(body) < length:
        raise ConnectionAbortedError
    return body
