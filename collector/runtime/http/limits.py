"""Bounds on the connections of an HTTP server: number, time, length of a head, pipelined requests.

uvicorn waits for ever for the head of a request, accepts heads of any length, and reads any number
of pipelined requests. Here a head has a deadline and a maximum length, the number of requests that
wait on one connection is limited, and so is the number of open connections: when it is reached, the
connection that has been sending its request longest is closed. So clients that hold connections
open do not keep other clients out.
"""

from __future__ import annotations

import asyncio
import sys
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
"""Of a head, and of what follows a body; what arrives in one read is not counted apart."""
MAX_PIPELINED = 16
FILES_BESIDE_CONNECTIONS = 128
"""Ledger, logs, outgoing connections, and what a restart needs for a moment."""


def room_for(connections: int) -> int:
    """Return how many connections the limit on open files allows, raised as far as permitted."""
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

    uvicorn writes them apart: two system calls, and two packets on the network.
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
        """Write; a head is held back until more is written."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 1"):
            self._head = data
            return
        self._transport.write(data)

    def write_whole(self, data: bytes) -> None:
        """Write a head with all that belongs to it; before it nothing is held back."""
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


class BoundedProtocol(HttpToolsProtocol):
    """One connection; it is among the senders until its request is complete."""

    most: ClassVar[int]
    read_seconds: ClassVar[float]
    senders: ClassVar[dict[BoundedProtocol, None]]
    """In the order in which they began."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._bytes_since_body = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin the deadline of the first head; close the oldest sender if there are too many."""
        self._answers = CoalescingTransport(transport)
        super().connection_made(self._answers)  # type: ignore[arg-type]  # all that is used of one
        self.senders[self] = None
        self._set_deadline()
        if len(self.connections) > self.most:
            oldest = next(iter(self.senders))
            oldest.turn_away(HTTPStatus.SERVICE_UNAVAILABLE)

    def connection_lost(self, exc: Exception | None) -> None:
        """End all timers."""
        self._let_go()
        if self._stall is not None:
            self._stall.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, within the bounds."""
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
        """End the deadline of the head; refuse a request that is pipelined too far."""
        super().on_headers_complete()
        self._end_head()
        if len(self.pipeline) > MAX_PIPELINED:
            raise _TooManyPipelinedError

    def _end_head(self) -> None:
        self._bytes_since_body = 0
        self._clear_deadline()

    def on_body(self, body: bytes) -> None:
        """Note that the body goes on."""
        self._bytes_since_body = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the connection from the senders."""
        self._bytes_since_body = 0
        if not self._is_idle():
            self.senders.pop(self, None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Send the answer, and wait for the next request."""
        self._answers.flush()
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()
        elif self._is_idle():
            self._await_next()

    def _await_next(self) -> None:
        """Put the connection at the end of the senders: it has to send its next request."""
        self.senders.pop(self, None)
        self.senders[self] = None

    def timeout_keep_alive_handler(self) -> None:
        """Close the idle connection."""
        super().timeout_keep_alive_handler()
        self._abort_later()

    def pause_writing(self) -> None:
        """Start the time within which the client has to receive what was sent."""
        super().pause_writing()
        self._abort_later()

    def resume_writing(self) -> None:
        """End that time: the client has received it."""
        super().resume_writing()
        if self._stall is not None and not self.transport.is_closing():
            self._stall.cancel()
            self._stall = None

    def _is_idle(self) -> bool:
        """Tell whether no request is being answered: the client has to send the next one."""
        latest = self._latest()
        return latest is None or latest.response_complete

    def _latest(self) -> RequestResponseCycle | None:
        """Return the request that came last; uvicorn's types do not say that there may be none."""
        return self.cycle

    def _set_deadline(self) -> None:
        """Start the deadline of a head, where none runs; more bytes of it do not extend it."""
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
        """Close the connection, with `status` as the answer where none was begun."""
        self._let_go()
        self.connections.discard(self)
        if self._latest() is None and not self.transport.is_closing():
            line = f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            self.transport.write(f"{line}connection: close\r\ncontent-length: 0\r\n\r\n".encode())
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        """Abort the connection after `read_seconds`, also where the client takes no more data."""
        if self._stall is None:
            self._stall = self.loop.call_later(self.read_seconds, self.transport.abort)

    def _let_go(self) -> None:
        self._clear_deadline()
        self.senders.pop(self, None)


def bounded(
    *,
    connections: int,
    read_seconds: float,
    protocol: type[BoundedProtocol] = BoundedProtocol,
) -> type[asyncio.Protocol]:
    """Return the protocol of one server, for `uvicorn.Config(http=...)`.

    `read_seconds` is how long each of these may take: a head, the rest of a body that is not read,
    and the client to receive an answer. The limit on open files may lower `connections`.
    """

    class Bounded(protocol):  # type: ignore[misc, valid-type]  # a class given as a value
        most = room_for(connections)
        senders: ClassVar[dict[BoundedProtocol, None]] = {}

    Bounded.read_seconds = read_seconds
    return Bounded
