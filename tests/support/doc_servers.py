"""Servers the documented snippets meet: a collector that is hard to reach, and a panel."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from tests.support.whole_bodies import whole_body


@dataclass
class Record:
    """What came by."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a port of its own until the context ends; yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def flaky_proxy(collector_url: str) -> Iterator[Record]:
    """Answer the first request 503, take the second and hang up, hand on the others."""
    record = Record()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = whole_body(self)
            record.bodies.append(body)
            if len(record.bodies) == 1:
                self._answer(503, b"{}", {"retry-after": "1"})
                return
            headers = {
                name: self.headers[name]
                for name in ("authorization", "content-type")
                if name in self.headers
            }
            answer = httpx.post(collector_url + self.path, content=body, headers=headers)
            if len(record.bodies) == 2:
                self.close_connection = True
                return
            self._answer(answer.status_code, answer.content, {})

        def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with serving(Handler) as record.url:
        yield record


@contextmanager
def panel() -> Iterator[Record]:
    """Serve a panel that takes what nodes push."""
    record = Record()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            record.paths.append(self.path)
            record.bodies.append(whole_body(self))
            self.send_response(200)
            self.send_header("content-length", "14")
            self.end_headers()
            self.wfile.write(b'{"data": true}')

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with serving(Handler) as record.url:
        yield record
