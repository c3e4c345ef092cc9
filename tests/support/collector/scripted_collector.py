"""A collector that answers as a test tells it, and counts each report it took once."""

from __future__ import annotations

import contextlib
import gzip
import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from collector.runtime.http.answer_mark import HEADER, VALUE
from tests.support.whole_bodies import whole_body

Script = Callable[[list[dict[str, Any]]], httpx.Response | Exception | None]


def refusal(status: int, detail: str = "is refused") -> httpx.Response:
    """Return a collector's refusal of a whole request."""
    return httpx.Response(status, json={"detail": detail, "errors": []}, headers={HEADER: VALUE})


class ScriptedCollector:
    """Remembers what it was sent; `script` may answer, or raise, in its place.

    `answers` are used up first, one a request: a response, an exception, or "lost": the reports
    are taken and the answer never arrives.
    """

    def __init__(self, script: Script = lambda _: None) -> None:
        self.script = script
        self.answers: list[httpx.Response | Exception | str] = []
        self.requests: list[httpx.Request] = []
        self.batches: list[list[dict[str, Any]]] = []
        self.taken: dict[str, dict[str, Any]] = {}
        self.sent: Counter[str] = Counter()
        """How often each report was in a request, by its id."""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        content = request.read()
        if request.headers.get("content-encoding") == "gzip":
            content = gzip.decompress(content)
        reports = json.loads(content)
        self.batches.append(reports)
        self.sent.update(each["report_id"] for each in reports)
        answer = self.answers.pop(0) if self.answers else self.script(reports)
        if answer == "lost":
            self._take(reports)
            raise httpx.ReadTimeout("lost", request=request)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else self._take(reports)

    async def asynchronously(self, request: httpx.Request) -> httpx.Response:
        """Answer as for the other kind of client."""
        await request.aread()
        return self(request)

    def _take(self, reports: list[dict[str, Any]]) -> httpx.Response:
        accepted, rejected = 0, []
        for index, each in enumerate(reports):
            if each["server"] == "refused":
                rejected.append({"index": index, "field": "server", "reason": "is refused"})
            elif each["report_id"] not in self.taken:
                self.taken[each["report_id"]] = each
                accepted += 1
        duplicates = len(reports) - accepted - len(rejected)
        body = {"accepted": accepted, "duplicates": duplicates, "rejected": rejected}
        return httpx.Response(200, json=body | {"ignored": 0}, headers={HEADER: VALUE})


@contextlib.contextmanager
def served(collector: ScriptedCollector, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Have it answer on a socket, one request at a time; yield the address."""
    turn = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = whole_body(self)
            request = httpx.Request(
                "POST", "http://x/v1/reports", headers=dict(self.headers), content=content
            )
            with turn:
                answer = collector(request)
            body = answer.read()
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if "content-length" not in answer.headers:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
