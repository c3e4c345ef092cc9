"""What stands where the collector takes foreign payloads: counts each post once, by its id."""

from __future__ import annotations

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from collector.runtime.http.answer_mark import HEADER, VALUE
from tests.support.whole_bodies import whole_body


class RelayReceiver:
    """Remembers path and body by `webhook-id`; `status` may be set to fail.

    Without `is_collector` it answers as any other program.
    """

    def __init__(self, port: int = 0) -> None:
        self.status = 200
        self.is_collector = True
        self.posts: dict[str, tuple[str, bytes]] = {}
        self.requests = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = whole_body(self)
                if self.headers["content-encoding"] == "gzip":
                    body = gzip.decompress(body)
                receiver.requests += 1
                if receiver.status == 200:
                    receiver.posts.setdefault(self.headers["webhook-id"], (self.path, body))
                answer = b'{"detail": "as told"}'
                self.send_response(receiver.status)
                if receiver.is_collector:
                    self.send_header(HEADER, VALUE)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A relay that is killed hangs up."""

        self._http = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
