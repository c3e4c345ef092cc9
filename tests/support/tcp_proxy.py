"""A proxy between a program and its server that a test may freeze, cut, or trip on some bytes."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Any


class TcpProxy:
    """Forwards connections from a port of its own to another one on loopback.

    While frozen it takes what is sent and passes nothing on, as a network does that was cut: the
    kernel acknowledges, nobody answers.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self._flows = threading.Event()
        self._flows.set()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._is_closed = False
        self.cut_after: bytes | None = None
        """Once the client has sent this it is passed on, and the answer is not: the line breaks."""
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        """Pass nothing on any more; what is sent meanwhile waits."""
        self._flows.clear()

    def thaw(self) -> None:
        """Pass on what waits, and what comes."""
        self._flows.set()

    def cut(self) -> None:
        """Break all connections there are."""
        for pair in list(self._pairs):
            self._drop(pair)

    def close(self) -> None:
        """Break all connections and take no more."""
        self._is_closed = True
        self._flows.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._flows.wait()
        try:
            server = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        pair = (client, server)
        self._pairs.add(pair)
        with contextlib.suppress(OSError, ValueError):
            self._pump(client, server)
        self._drop(pair)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in selector.select(timeout=1):
                    source: Any = key.fileobj
                    data = source.recv(65536)
                    self._flows.wait()
                    if not data:
                        return
                    key.data.sendall(data)
                    if source is client and self.cut_after and self.cut_after in data:
                        self.cut_after = None
                        self.cuts += 1
                        server.recv(1)  # it is done
                        return

    def _drop(self, pair: tuple[socket.socket, socket.socket]) -> None:
        self._pairs.discard(pair)
        for each in pair:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
