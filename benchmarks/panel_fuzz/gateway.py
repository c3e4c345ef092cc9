"""A way from the bridge to one panel that can be cut, and that remembers what the bridge asked."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

PASSES, REFUSES, HANGS, DEAF, LATE = "passes", "refuses", "hangs", "deaf", "late"
FAULTS = (REFUSES, HANGS, DEAF, LATE)
"""502 at once; no answer and nothing done; no answer and all done; 504, and a PUT done later."""
LATE_SECONDS = 3.0
SURE_SECONDS = 1.0
"""An answer that took longer may have come too late for the bridge, on a busy machine."""
LONGEST_HANG_SECONDS = 8.0
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request of the bridge that reached the panel, or was lost after it was carried out."""

    at: float
    method: str
    username: str
    action: str
    """What follows the username in the path: `reset`, or nothing."""
    body: Mapping[str, Any] = field(default_factory=dict)
    status: int
    """0: the bridge was not told what came of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it came in: its handler is at the next one while this is carried out late."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Gateway:
    """Listens on as many addresses as the panel has had, and forwards what comes in on them.

    `watch` is called with each change that the bridge asks for, before the panel gets it.
    """

    def __init__(
        self, target_port: int, *, watch: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        self.target_port = target_port
        self.fault = PASSES
        self.watch = watch
        self.asked: list[Asked] = []
        self.unsure_resets: set[str] = set()
        """Users with a reset that the bridge may not know to be done: for ten minutes it takes one
        more reset for it (decision 0015)."""
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._servers = [self._serve()]

    @property
    def url(self) -> str:
        """The address that the panel has now."""
        return f"http://127.0.0.1:{self._servers[-1].server_address[1]}"

    def move(self) -> None:
        """Give the panel another address; at the old one nobody answers any more."""
        old = self._servers[-1]
        self._servers.append(self._serve())
        threading.Thread(target=_end, args=(old,), daemon=True).start()

    def break_(self, fault: str) -> None:
        """Have requests fail in this way until `mend`."""
        self._released.clear()
        self.fault = fault

    def mend(self) -> None:
        """Let everything through again; what hangs is told nothing."""
        self.fault = PASSES
        self._released.set()

    def close(self) -> None:
        """Listen no more."""
        self.mend()
        for each in self._servers:
            _end(each)

    def since(self, at: float) -> list[Asked]:
        """Return the changes that were asked for since a moment of `time.monotonic`."""
        with self._lock:
            return [each for each in self.asked if each.at >= at]

    def _serve(self) -> ThreadingHTTPServer:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def _pass_on(self) -> None:
                gateway._answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815 - http.server's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                """Print nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("content-length") or 0)
        request = Request(
            method=handler.command,
            path=handler.path,
            headers={k: v for k, v in handler.headers.items() if k.lower() not in HOP_BY_HOP},
            body=handler.rfile.read(length) if length else b"",
        )
        fault = self.fault
        if fault == HANGS:
            self._note_unsure(request)
            self._hang(handler)
            return
        if fault == REFUSES:
            self._note_unsure(request)
            _reply(handler, 502, {}, b"refused by the gateway")
            return
        if fault == LATE and request.method == "PUT":
            threading.Timer(LATE_SECONDS, self._forward_late, (request,)).start()
            _reply(handler, 504, {}, b"given up by the gateway")
            return
        began_at = time.monotonic()
        try:
            status, headers, content = self._forward(request, is_lost=fault == DEAF)
        except OSError:
            self._note_unsure(request)
            _reply(handler, 502, {}, b"the panel does not answer the gateway")
            return
        if fault == DEAF or time.monotonic() - began_at > SURE_SECONDS:
            self._note_unsure(request)
        if fault == DEAF:
            self._hang(handler)
            return
        _reply(handler, status, headers, content)

    def _note_unsure(self, request: Request) -> None:
        if request.method == "POST" and request.path.endswith("/reset"):
            self.unsure_resets.add(unquote(request.path).split("/")[-2])

    def _hang(self, handler: BaseHTTPRequestHandler) -> None:
        self._released.wait(LONGEST_HANG_SECONDS)
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    def _forward_late(self, request: Request) -> None:
        with contextlib.suppress(OSError):  # the panel may be gone by then, and the write with it
            self._forward(request, is_lost=True)

    def _forward(self, request: Request, *, is_lost: bool) -> tuple[int, dict[str, str], bytes]:
        parts = unquote(urlsplit(request.path).path).strip("/").split("/")
        is_change = request.method != "GET" and parts[:2] == ["api", "user"] and len(parts) > 2
        content: dict[str, Any] = json.loads(request.body) if is_change and request.body else {}
        at = time.monotonic()
        if is_change:
            self.watch(parts[2], content)
        connection = http.client.HTTPConnection("127.0.0.1", self.target_port, timeout=30)
        try:
            connection.request(
                request.method, request.path, body=request.body, headers=dict(request.headers)
            )
            answer = connection.getresponse()
            answered = answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()
        if is_change:
            with self._lock:
                self.asked.append(
                    Asked(
                        at=at,
                        method=request.method,
                        username=parts[2],
                        action="/".join(parts[3:]),
                        body=content,
                        status=0 if is_lost else answered[0],
                    )
                )
        return answered


def _reply(
    handler: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str], content: bytes
) -> None:
    handler.send_response_only(status)
    for name, value in headers.items():
        if name.lower() not in HOP_BY_HOP:
            handler.send_header(name, value)
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _end(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()
