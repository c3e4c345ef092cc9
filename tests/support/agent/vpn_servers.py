"""Stand-ins for VPN servers: they count, tell their counters as the real ones do, and restart."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class VpnServer:
    """Counts per user and answers on loopback, in the forms of Xray, Hysteria, sing-box, Outline."""

    def __init__(self, *, secret: str = "") -> None:
        self.secret = secret
        self.up: Counter[str] = Counter()
        self.down: Counter[str] = Counter()
        self.used: Counter[str] = Counter()
        self.ticks = 1000
        self.started = 1_700_000_000.5
        self.asked: list[str] = []
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, body = server.answer(self.path, self.headers.get("authorization", ""))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """An agent that is killed hangs up; that is no news."""

        self._http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def use(self, user: str, up: int, down: int) -> None:
        """Let a user use something."""
        with self.lock:
            self.up[user] += up
            self.down[user] += down
            self.used[user] += up + down

    def restart(self) -> None:
        """Begin anew, as a restarted process does."""
        with self.lock:
            self.up.clear()
            self.down.clear()
            self.ticks = 10
            self.started += 100

    def answer(self, path: str, authorization: str) -> tuple[int, bytes]:
        """Return status and body of a request."""
        with self.lock:
            self.asked.append(path)
            self.ticks += 1
            if self.secret and authorization != self.secret:
                return 401, b"unauthorized\n"
            form = {
                "/debug/vars": self._xray,
                "/traffic": self._hysteria,
                "/server/v1/stats": self._singbox,
                "/metrics": self._outline,
            }.get(path)
            return (404, b"404 page not found\n") if form is None else (200, form())

    def _users(self) -> list[str]:
        return sorted({*self.up, *self.down})

    def _xray(self) -> bytes:
        users = {u: {"uplink": self.up[u], "downlink": self.down[u]} for u in self._users()}
        page = {"memstats": {"TotalAlloc": self.ticks}, "stats": {"inbound": {}, "user": users}}
        return json.dumps(page).encode()

    def _hysteria(self) -> bytes:
        users = {u: {"tx": self.up[u], "rx": self.down[u]} for u in self._users()}
        return json.dumps(users).encode()

    def _singbox(self) -> bytes:
        users = [
            {
                "username": u,
                "uplinkBytes": self.up[u],
                "downlinkBytes": self.down[u],
                "uplinkPackets": 1,
                "downlinkPackets": 1,
                "tcpSessions": 1,
                "udpSessions": 0,
            }
            for u in self._users()
        ]
        return json.dumps({"uplinkBytes": 0, "downlinkBytes": 0, "users": users}).encode()

    def _outline(self) -> bytes:
        lines = [f"process_start_time_seconds {self.started}", "shadowsocks_ports 1"]
        for user in self._users():
            for direction, amount in (("c>p", self.up[user]), ("c<p", self.down[user])):
                labels = f'access_key="{user}",dir="{direction}",proto="tcp"'
                lines.append(f"shadowsocks_data_bytes{{{labels}}} {amount:.15e}")
        return "\n".join(lines).encode()

    def close(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def fake_wg(folder: Path, counters: dict[str, tuple[int, int]]) -> Path:
    """Return a `wg` that prints what is in a file beside it, which this writes."""
    lines = [f"wg0\t{key}\t{received}\t{sent}" for key, (received, sent) in counters.items()]
    (folder / "transfer").write_text("".join(f"{line}\n" for line in lines))
    script = folder / "wg"
    script.write_text(
        '#!/bin/sh\n[ "$*" = "show all transfer" ] || { echo "Usage: wg" >&2; exit 1; }\n'
        f'cat "{folder}/transfer"\n'
    )
    script.chmod(0o755)
    return script
