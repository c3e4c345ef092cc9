"""How long, how large and how many: bounds on connections, whatever is sent on them or not.

uvicorn waits for ever for the head of a request, takes heads of any length, and takes in whatever
requests are pipelined behind another. Here a head has a deadline and a length, few requests may
wait on one connection, and when all places are taken, the one that has been sending its request
for longest gives way. So strangers who hold connections open keep nobody else out.
"""

from __future__ import annotations

import asyncio
import sys
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
"""Of a head, and of what follows a body; what arrives in one read is let through."""
MAX_PIPELINED = 16
FILES_BESIDE_CONNECTIONS = 128
"""Ledger, logs, connections of our own, and what a restart needs for a moment."""


def bounded(*, connections: int, read_seconds: float) -> type[asyncio.Protocol]:
    """Return the protocol of one server, for `uvicorn.Config(http=...)`.

    `read_seconds` is how long a head may take, what is left of a body nobody reads, and the other
    side to take an answer. Fewer connections than asked for are kept where files are scarce.
    """

    class Bounded(_BoundedProtocol):
        most = room_for(connections)
        senders: ClassVar[dict[_BoundedProtocol, None]] = {}

    Bounded.read_seconds = read_seconds
    return Bounded


def room_for(connections: int) -> int:
    """Return how many connections the limit on open files allows, raised as far as we may."""
    if sys.platform == "win32":
        return connections
    import resource  # noqa: PLC0415 - there is none on Windows

    wanted = connections + FILES_BESIDE_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(connections, soft - FILES_BESIDE_CONNECTIONS))


class CoalescingTransport:
    """A transport that writes an answer's head together with what follows it.

    uvicorn writes them apart: two system calls for us, two packets for the other side.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.abort = transport.abort

    def write(self, data: bytes) -> None:
        """Write, or keep a head back until more comes."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 1"):
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        """Write a head that nothing follows."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        """Close once everything is written."""
        self.flush()
        self._transport.close()


class _TooManyPipelinedError(Exception):
    """Raised into the parser, which makes it a malformed request."""


class _BoundedProtocol(HttpToolsProtocol):
    """One connection; it is a sender until its request is there in full."""

    most: ClassVar[int]
    read_seconds: ClassVar[float]
    senders: ClassVar[dict[_BoundedProtocol, None]]
    """In the order in which they began."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._bytes_since_body = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        self._answers = CoalescingTransport(transport)
        super().connection_made(self._answers)  # type: ignore[arg-type]  # all that is used of one
        self.senders[self] = None
        self._set_deadline()
        if len(self.connections) > self.most:
            oldest = next(iter(self.senders))
            oldest.turn_away(HTTPStatus.SERVICE_UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_go()
        if self._stall is not None:
            self._stall.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._bytes_since_body += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            self._let_go()
            self._abort_later()
        elif self._bytes_since_body > MAX_HEAD_BYTES:  # a head, or trailers, without end
            self.turn_away(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._is_idle():
            self._set_deadline()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._bytes_since_body = 0
        self._clear_deadline()
        if len(self.pipeline) > MAX_PIPELINED:
            raise _TooManyPipelinedError

    def on_body(self, body: bytes) -> None:
        self._bytes_since_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._bytes_since_body = 0
        if not self._is_idle():
            self.senders.pop(self, None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._answers.flush()
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()
        elif self._is_idle():
            self.senders.pop(self, None)
            self.senders[self] = None

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._abort_later()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._abort_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None and not self.transport.is_closing():
            self._stall.cancel()
            self._stall = None

    def _is_idle(self) -> bool:
        """Tell whether nothing is being answered: the other side has to go on."""
        latest = self._latest()
        return latest is None or latest.response_complete

    def _latest(self) -> RequestResponseCycle | None:
        """Return the request that came last; uvicorn's types do not say that there may be none."""
        return self.cycle

    def _set_deadline(self) -> None:
        """Give the other side so long to send a head; more of what it sends does not extend it."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.read_seconds, self._be_late)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _be_late(self) -> None:
        self._deadline = None
        if self._is_idle():
            self.turn_away(HTTPStatus.REQUEST_TIMEOUT)

    def turn_away(self, status: HTTPStatus) -> None:
        """Close the connection, saying why where nothing else was said yet."""
        self._let_go()
        self.connections.discard(self)
        if self._latest() is None and not self.transport.is_closing():
            line = f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            self.transport.write(f"{line}connection: close\r\ncontent-length: 0\r\n\r\n".encode())
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        """End the connection even if the other side never takes what was written to it."""
        if self._stall is None:
            self._stall = self.loop.call_later(self.read_seconds, self.transport.abort)

    def _let_go(self) -> None:
        self._clear_deadline()
        self.senders.pop(self, None)
