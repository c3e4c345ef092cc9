"""The agent's listeners: bare ASGI apps on uvicorn, bounded as the collector's own are."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import uvicorn
from prometheus_client import CollectorRegistry, generate_latest

from collector.agent.errors import AgentError
from collector.connections import bounded

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


async def listen(app: App, address: tuple[str, int]) -> None:
    """Serve until cancelled; AgentError when the address is taken."""
    host, port = address
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
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
        await server.serve()
    except asyncio.CancelledError:
        if server.started:
            await server.shutdown()  # requests that are being answered are answered
        raise
    except SystemExit:
        raise AgentError(f"cannot listen on {host}:{port}: the log says why") from None


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
