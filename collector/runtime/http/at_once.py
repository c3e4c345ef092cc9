"""Shortcuts past the messages of ASGI, where uvicorn has a whole body or is given a whole answer.

The messages take a quarter of the time of a small request: a deadline for a body that is there
already, and an answer's head that is put together header by header. Under another server, or where
an answer has to wait, callers use the messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

_OK = STATUS_LINE[200]


def is_body_there(receive: Callable[..., Any]) -> bool:
    """Tell whether the next message has all that is left of a body: it is not waited for."""
    cycle = getattr(receive, "__self__", None)
    return isinstance(cycle, RequestResponseCycle) and not cycle.more_body


def send_at_once(send: Callable[..., Any], headers: bytes, body: bytes) -> bool:
    """Send an answer of status 200; False if it has to be sent by messages, and nothing was sent.

    `headers` are the lines of all headers, of the body's length too, each with its line break.
    """
    cycle = getattr(send, "__self__", None)
    if (
        not isinstance(cycle, RequestResponseCycle)
        or not cycle.keep_alive
        or cycle.response_started
        or cycle.disconnected
        or cycle.flow.write_paused
        or cycle.access_log
    ):
        return False
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    head = [_OK]
    for name, value in cycle.default_headers:
        head += (name, b": ", value, b"\r\n")
    cycle.transport.write(b"".join((*head, headers, b"\r\n", body)))
    cycle.message_event.set()
    cycle.on_response()
    return True
