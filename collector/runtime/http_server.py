"""Serves a collector over HTTP: bounds on connections, and a quiet heap."""

from __future__ import annotations

import gc
import socket

import uvicorn
from fastapi import FastAPI

from collector.runtime.http_limits import bounded
from collector.settings import Settings

GRACEFUL_SECONDS = 10


class Server(uvicorn.Server):
    """The server of one collector in a process of its own."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=bounded(connections=settings.max_connections, read_seconds=settings.read_seconds),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(settings.forwarded_allow_ips),
            forwarded_allow_ips=list(settings.forwarded_allow_ips),
            timeout_graceful_shutdown=GRACEFUL_SECONDS,
        )
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; what is there by then stays, so the collector of garbage never looks at it."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let open requests end, then store what is queued.

        The feed's waiting readers are sent home first, or they would be waited for.
        """
        self._app.state.collector.ingest.commits.close()
        await super().shutdown(sockets)
