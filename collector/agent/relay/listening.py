"""The agent's HTTP listeners: ASGI apps without a framework, with the collector's limits."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from collector.runtime.http.server import Server, Signals

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_CONNECTIONS = 64
READ_SECONDS = 15.0


async def serve_on(app: App, listener: socket.socket) -> None:
    """Serve on an open socket until cancelled."""
    server = Server(
        app,
        connections=MAX_CONNECTIONS,
        read_seconds=READ_SECONDS,
        proxies=(),  # senders are identified by a secret, never by an address
        lifespan="off",
        graceful_seconds=2,
        signals=Signals.LEFT_ALONE,
    )
    try:
        await server.serve(sockets=[listener])
    except asyncio.CancelledError:
        if server.started:
            await server.shutdown(sockets=[listener])  # answers in progress are completed
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
    """Send a complete response."""
    headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
