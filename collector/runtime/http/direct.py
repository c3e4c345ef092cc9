"""Serves whole requests of some routes within the protocol, without a task and ASGI's messages.

A request whose head and body arrive together is offered to the route of its path. The route takes
it, and answers it at once or later; or it leaves it, with nothing done, to the application, which
serves every other request as well. All bounds on connections hold for both.

Most requests of a connection have a head that was sent before, byte for byte. Such a head is looked
up in place of being parsed again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from collector.runtime.http.limits import BoundedProtocol

log = logging.getLogger(__name__)

END_OF_HEAD = b"\r\n\r\n"
MAX_KNOWN_HEADS = 256
CLOSE = b"connection: close\r\n"
TIMER_SECONDS = 0.001
"""The precision of the event loop's timers."""

Headers = Sequence[tuple[bytes, bytes]]


class Head(NamedTuple):
    """What a route has read of the headers of a request."""

    claims: Any
    is_repeated: bool
    """Whether the sender may send the same head again: nothing in it is for one request alone."""


class DirectRoute(Protocol):
    """A route for `POST` that takes requests from the protocol; called in its event loop."""

    def read_head(self, headers: Headers) -> Head | None:
        """Return what `take` needs of the headers; None to leave the request to the application."""
        ...

    def take(self, claims: Any, body: bytes, exchange: Exchange) -> bool:
        """Take a request, to answer it by its exchange once; or return False with nothing done."""
        ...


class _NoEvent:
    """Stands for the event that wakes the task of a request; there is none."""

    def set(self) -> None:
        """Do nothing."""


class Exchange:
    """A request that a route has taken; to the protocol it is what a cycle of uvicorn is."""

    __slots__ = ("_protocol", "disconnected", "keep_alive", "response_complete")

    message_event: ClassVar[_NoEvent] = _NoEvent()

    def __init__(self, protocol: DirectProtocol) -> None:
        self._protocol = protocol
        self.response_complete = self.disconnected = False
        self.keep_alive = True
        """Set to False by the protocol while the server shuts down."""

    def answer(self, status: int, headers: bytes, body: bytes) -> None:
        """Send the answer, unless the client has disconnected.

        `headers` are the lines of all headers, of the body's length too, each with its line break.
        """
        self.response_complete = True
        if not self.disconnected:
            self._protocol.send(self, status, headers, body)


class _KnownHead(NamedTuple):
    route: DirectRoute
    claims: Any
    body_bytes: int


class DirectProtocol(BoundedProtocol):
    """One connection, some of whose requests are served by direct routes."""

    routes: ClassVar[Mapping[bytes, DirectRoute]]
    """By the path of their requests, as sent."""
    heads: ClassVar[dict[bytes, _KnownHead]]
    """Heads of requests that a route has taken."""
    default_lines: ClassVar[tuple[object, bytes]] = (None, b"")
    """The headers of all answers, and the lines of them; uvicorn replaces them every second."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_amid = False
        """Whether the parser is within a request."""
        self._offered: tuple[DirectRoute, Head] | None = None
        """Whose request is being read, if it will be offered to a route."""
        self._parts: list[bytes] = []
        self._is_left = False
        """Whether a route has left the request that is being read to the application."""
        self._taken: tuple[DirectRoute, Head, int] | None = None
        """The last request that was taken after its head was parsed, with the body's length."""
        self._idle_since_seconds = 0.0

    def data_received(self, data: bytes) -> None:
        """Serve a request whose head is known; parse any other."""
        end = 0
        if not self._is_amid and self._is_free():
            end = data.find(END_OF_HEAD) + len(END_OF_HEAD)
            known = self.heads.get(data[:end])
            if known is not None and len(data) == end + known.body_bytes:
                if self._offer(known.route, known.claims, data[end:]):
                    return
                self._is_left = True
        self._taken = None
        super().data_received(data)
        self._is_left = False
        if self._offered is not None:  # the rest of the body is still to come
            self._leave()
        elif end:
            self._remember_head(data, end)

    def on_message_begin(self) -> None:
        """Note that the parser is within a request."""
        self._is_amid = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Hold a request back that may be taken; begin any other."""
        route = self.routes.get(self.url)
        head = route.read_head(self.headers) if route is not None and self._is_plain() else None
        if route is None or head is None:
            super().on_headers_complete()
        else:
            self._end_head()
            self._offered = route, head

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body of a request that may be taken."""
        if self._offered is None:
            super().on_body(body)
        else:
            self._bytes_since_body = 0
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Offer the request to its route, or begin it."""
        self._is_amid = False
        if self._offered is not None:
            route, head = self._offered
            body = b"".join(self._parts)
            if self._offer(route, head.claims, body):
                self._offered = None
                self._parts.clear()
                self._bytes_since_body = 0
                self._taken = route, head, len(body)
                return
            self._leave()
        super().on_message_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it is idle for long enough: a request taken leaves the timer."""
        self.timeout_keep_alive_task = None
        if not self._is_idle():
            return  # the end of the answer starts the timer
        left_seconds = self._idle_since_seconds + self.timeout_keep_alive - self.loop.time()
        if left_seconds > TIMER_SECONDS:
            self.timeout_keep_alive_task = self.loop.call_later(
                left_seconds, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    def send(self, exchange: Exchange, status: int, headers: bytes, body: bytes) -> None:
        """Send the answer to the request that was taken last."""
        if self.transport.is_closing():
            return
        if self.default_lines[0] is not self.server_state.default_headers:
            given = self.server_state.default_headers
            lines = b"".join(b"%b: %b\r\n" % header for header in given)
            type(self).default_lines = given, lines
        close = b"" if exchange.keep_alive else CLOSE
        head = (STATUS_LINE[status], self.default_lines[1], headers, close, b"\r\n")
        self._answers.write_whole(b"".join((*head, body)))
        if not exchange.keep_alive:
            self.transport.close()
        if close or self.pipeline:
            self.on_response_complete()
            return
        self.server_state.total_requests += 1
        self._idle_since_seconds = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        self._await_next()

    def _remember_head(self, data: bytes, end: int) -> None:
        """Remember the head of what arrived, if it is that of one request that was taken."""
        if self._taken is None:
            return
        route, head, body_bytes = self._taken
        if head.is_repeated and len(data) == end + body_bytes:
            if len(self.heads) >= MAX_KNOWN_HEADS:
                self.heads.clear()
            self.heads[data[:end]] = _KnownHead(route, head.claims, body_bytes)

    def _is_free(self) -> bool:
        """Tell whether no request is being answered, and an answer can be sent at once."""
        return (
            self._is_idle()
            and not self.pipeline
            and not self.flow.write_paused
            and not self.transport.is_closing()
        )

    def _is_plain(self) -> bool:
        """Tell whether the request that is being read may be offered to a route."""
        return (
            self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self._is_left
            and not self.access_log
            and not self.root_path
            and self.limit_concurrency is None
            and self._is_free()
        )

    def _offer(self, route: DirectRoute, claims: Any, body: bytes) -> bool:
        """Offer a whole request to a route; return whether it was taken."""
        before: Any = self.cycle
        exchange = Exchange(self)
        self.cycle = exchange  # type: ignore[assignment]  # it has all that is used of a cycle
        try:
            is_taken = route.take(claims, body, exchange)
        except Exception:  # the application answers it, and says more
            log.exception("a request could not be taken from the protocol")
            is_taken = False
        if not is_taken:
            self.cycle = before
            return False
        if not exchange.response_complete:
            self._clear_deadline()
            self.senders.pop(self, None)
        return True

    def _leave(self) -> None:
        """Have the application serve the request that was to be offered to a route."""
        body = b"".join(self._parts)
        self._offered = None
        self._parts.clear()
        if self.transport.is_closing():
            return
        super().on_headers_complete()
        if body:
            super().on_body(body)


def serving_directly(routes: Mapping[bytes, DirectRoute]) -> type[BoundedProtocol]:
    """Return the protocol of a server with direct routes, by their paths."""

    class Direct(DirectProtocol):
        heads: ClassVar[dict[bytes, _KnownHead]] = {}

    Direct.routes = routes
    return Direct
