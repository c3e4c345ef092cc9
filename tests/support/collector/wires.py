"""Connections to a collector in memory: its protocol with a transport that keeps what is written."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI
from uvicorn.server import ServerState

from collector.app import server_of
from collector.runtime.http.server import Server, Signals
from collector.settings import Settings

END_OF_HEAD = b"\r\n\r\n"


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.writes = 0
        self.is_closed = False
        self.news = asyncio.Event()

    def write(self, data: Any) -> None:
        self.written += bytes(data)
        self.writes += 1
        self.news.set()

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True
        self.news.set()

    abort = close

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        addresses = {"sockname": ("127.0.0.1", 8080), "peername": ("192.0.2.7", 1)}
        return addresses.get(name, default)

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Connection:
    """One connection, whose requests a server's protocol serves."""

    def __init__(self, server: Server) -> None:
        server.config.load()
        protocol_class: Any = server.config.http_protocol_class
        self.wire = Wire()
        self.protocol = protocol_class(
            config=server.config, server_state=ServerState(), app_state={}
        )
        self.protocol.connection_made(self.wire)

    def send(self, data: bytes) -> None:
        if not self.wire.is_closed:
            self.protocol.data_received(data)

    async def answers(self, count: int) -> list[bytes]:
        """Return the answers so far, once there are so many, or the connection is closed."""
        async with asyncio.timeout(120):
            while len(found := whole_answers(self.wire.written)) < count:
                if self.wire.is_closed:
                    break
                self.wire.news.clear()
                await self.wire.news.wait()
        return found

    async def ask(self, data: bytes) -> bytes:
        """Send a request, and return its answer."""
        before = len(whole_answers(self.wire.written))
        self.send(data)
        return (await self.answers(before + 1))[-1]


def whole_answers(data: bytes) -> list[bytes]:
    """Split what a server wrote into its whole answers; `100 Continue` belongs to the next one."""
    found, before = [], b""
    while END_OF_HEAD in data:
        head, _, rest = data.partition(END_OF_HEAD)
        if head.startswith(b"HTTP/1.1 100 "):
            before, data = before + head + END_OF_HEAD, rest
            continue
        lengths = [
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ]
        length = lengths[0] if lengths else 0
        if len(rest) < length:
            break
        found.append(before + head + END_OF_HEAD + rest[:length])
        before, data = b"", rest[length:]
    return found


def server_for(app: FastAPI, settings: Settings, *, is_direct: bool = True) -> Server:
    """Return the server of a collector; not `is_direct` is one whose application serves all."""
    if is_direct:
        return server_of(app, settings)
    return Server(app, connections=100, read_seconds=60, signals=Signals.LEFT_ALONE)
