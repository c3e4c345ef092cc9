"""The agent's listeners: bare ASGI apps on uvicorn, bounded as the collector's own are."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, generate_latest

from collector.runtime.http_limits import bounded

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_CONNECTIONS = 64
READ_SECONDS = 15.0


class _Server(uvicorn.Server):
    """A server that leaves the process's signals alone."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let the agent hear signals itself."""
        yield


async def serve_on(app: App, listener: socket.socket) -> None:
    """Serve on an open socket until cancelled."""
    config = uvicorn.Config(
        app,
        http=bounded(connections=MAX_CONNECTIONS, read_seconds=READ_SECONDS),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # who posts is told by a secret, never by an address
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    try:
        await server.serve(sockets=[listener])
    except asyncio.CancelledError:
        if server.started:
            await server.shutdown(sockets=[listener])  # what is being answered is answered
        raise


def metrics_app(registry: CollectorRegistry) -> App:
    """Return an app that answers `/metrics` and `/healthz`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 - ASGI's
        path = scope.get("path")
        if path == "/metrics":
            await answer(send, 200, generate_latest(registry), "text/plain; version=0.0.4")
        elif path == "/healthz":
            await answer(send, 200, b"ok\n")
        else:
            await answer(send, 404, b"not here\n")

    return app


async def answer(
    send: Send, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8"
) -> None:
    """Send a whole response."""
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
