"""The HTTP server of all programs: uvicorn on open sockets, with bounds on its connections."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import gc
import json
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import uvicorn

from collector.runtime.http.direct import DirectRoute, serving_directly
from collector.runtime.http.limits import BoundedProtocol, bounded
from collector.runtime.http.problem_fields import MEDIA_TYPE, details_of
from collector.runtime.listening import NotStartedError

START_POLL_SECONDS = 0.01
_STOPPING = json.dumps(
    details_of(503) | {"detail": "this program is stopping; retry when it runs again"}
).encode()
_STOPPING_HEADERS = (
    (b"content-type", MEDIA_TYPE.encode()),
    (b"content-length", str(len(_STOPPING)).encode()),
    (b"retry-after", b"5"),
)
RARE_COLLECTIONS = (20_000, 50, 100)
"""When the garbage collector runs in a process that does nothing but serve: by default it does so
after 700 objects, which is for each few requests, and takes a fifth of the time of storing them."""


class Signals(enum.Enum):
    """What a server does about SIGINT and SIGTERM."""

    RAISED_AGAIN = "ends at one, and raises it again then: the process ends by it"
    RETURNED_AFTER = "ends at one, and returns: the program chooses the exit code"
    LEFT_ALONE = "does nothing: it is one of several in its process, and is told to end"


class Server(uvicorn.Server):
    """Serves one application.

    When it ends, requests may take `graceful_seconds`, or until a second SIGINT; those that are
    cut off then are answered 503. The application is told of the end in any case.

    `proxies` are those whose `X-Forwarded-For` is trusted. `on_stop` is called when listening
    ends, before open requests are waited for, at most `graceful_seconds`: what waits for something
    to happen is to be answered. `freezes_heap`: what is there once it has started stays, so that
    the garbage collector never scans it, and it runs rarely; for a process that does nothing else.
    `direct_routes` are offered requests before the application, by their paths.
    """

    def __init__(
        self,
        app: Any,
        *,
        connections: int,
        read_seconds: float,
        signals: Signals,
        proxies: Sequence[str] = (),
        graceful_seconds: int = 5,
        lifespan: Literal["auto", "off"] = "auto",
        on_stop: Callable[[], None] = lambda: None,
        freezes_heap: bool = False,
        direct_routes: Mapping[bytes, DirectRoute] | None = None,
    ) -> None:
        protocol = serving_directly(direct_routes) if direct_routes else BoundedProtocol
        self._title = getattr(app, "title", "an application")
        super().__init__(
            uvicorn.Config(
                _answering_what_is_cut_off(app),
                http=bounded(connections=connections, read_seconds=read_seconds, protocol=protocol),
                ws="none",
                lifespan=lifespan,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=bool(proxies),
                forwarded_allow_ips=list(proxies),
                timeout_graceful_shutdown=graceful_seconds,
                loop="collector.runtime.daemon_executor:new_loop",
            )
        )
        self._signals = signals
        self._on_stop = on_stop
        self._freezes_heap = freezes_heap

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; as one of several, NotStartedError where uvicorn would end the whole process."""
        try:
            await super().startup(sockets)
        except SystemExit as error:
            if self._signals is not Signals.LEFT_ALONE:
                raise
            raise NotStartedError(
                f"{self._title} did not start; the lines above say why"
            ) from error
        if self._freezes_heap:
            gc.collect()
            gc.freeze()
            gc.set_threshold(*RARE_COLLECTIONS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let open requests end, and then the application."""
        self._on_stop()
        await super().shutdown(sockets)
        if self.force_exit:  # a second SIGINT, at which uvicorn tells neither of them
            for each in self.server_state.tasks:
                each.cancel()
            await self.lifespan.shutdown()

    def end(self) -> None:
        """End as at a signal, but not before it has started; called in its event loop."""
        if self.started:
            self.should_exit = True
        else:  # uvicorn would not tell the application that it ends
            asyncio.get_running_loop().call_later(START_POLL_SECONDS, self.end)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while it serves, as `signals` says."""
        if self._signals is Signals.RAISED_AGAIN:
            with super().capture_signals():
                yield
            return
        if self._signals is Signals.RETURNED_AFTER:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.handle_exit, number, None)
        yield


def _answering_what_is_cut_off(app: Any) -> Any:
    """Return the application with an answer to each request that the server cancels at its end.

    uvicorn would log each with a traceback, and answer 500, which not every client tries again.
    """

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            with contextlib.suppress(RuntimeError):  # an answer that has begun breaks off
                start = {"type": "http.response.start", "status": 503, "headers": _STOPPING_HEADERS}
                await send(start)
                await send({"type": "http.response.body", "body": _STOPPING})

    return answering


@contextlib.asynccontextmanager
async def serving(server: Server, listener: socket.socket) -> AsyncIterator[None]:
    """Serve on an open socket for as long as the context lasts.

    Raises NotStartedError when the application does not start.
    """
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                await task
                raise NotStartedError("the server ended before it had started")
            await asyncio.sleep(START_POLL_SECONDS)
        yield
    finally:
        server.should_exit = True
        await asyncio.wait([task])
