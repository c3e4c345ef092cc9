"""Two bridges of one store in PostgreSQL, between a collector and a panel that notes who wrote."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import uvicorn

from marzban_bridge.quota.account import GIB
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from tests.support import programs
from tests.support.collector.collector_process import ADMIN_KEY, KEY, CollectorProcess, poll
from tests.support.ending import ending_on_failure
from tests.support.engines.postgres_server import PASSWORD, PostgresServer
from tests.support.ports import free_port
from tests.support.programs import Program
from tests.support.tcp_proxy import TcpProxy

PANEL_PASSWORD = "a-panel-password"
WEBHOOK_SECRET = "a-webhook-secret"
QUOTA = 1000 * GIB
REPORT = 55 * GIB
USERS = [f"user{number:02}" for number in range(40)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A write that a panel was asked for."""

    begun_at: float
    ended_at: float
    pid: int
    epoch: int
    path: str


class Panel:
    """A simulated panel on loopback that takes its time to write, and notes who asked for it."""

    def __init__(self, *, write_seconds: float = 0.05, kind: str = "marzban") -> None:
        self.simulated = SimulatedPanel(
            clock=lambda: datetime.now(UTC), kind=kind, admins={"root": (PANEL_PASSWORD, True)}
        )
        for name in USERS:
            self.simulated.create_user(name, data_limit=QUOTA)
        self.writes: list[Write] = []
        self.write_seconds = write_seconds
        self._app = create_simulator_app(self.simulated)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._server = uvicorn.Server(
            uvicorn.Config(self._answer, log_config=None, ws="none", interface="asgi3")
        )
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[self._listener])), daemon=True
        )
        self._thread.start()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        is_write = scope["type"] == "http" and scope["method"] != "GET"
        if not is_write or scope["path"].endswith("/token"):
            await self._app(scope, receive, send)
            return
        begun_at = time.monotonic()
        agent = dict(scope["headers"])[b"user-agent"].decode()
        found = re.search(r":(\d+); epoch (\d+)", agent)
        assert found, agent
        await asyncio.sleep(self.write_seconds)
        await self._app(scope, receive, send)
        self.writes.append(
            Write(
                begun_at=begun_at,
                ended_at=time.monotonic(),
                pid=int(found[1]),
                epoch=int(found[2]),
                path=scope["path"],
            )
        )

    def limit(self, name: str) -> int:
        """Return a user's data limit as it is now."""
        found: int = self.simulated.get_user(name)["data_limit"]
        return found

    def assert_never_written_by_two(self) -> None:
        """Tell that each epoch's writes were over before the next one's began."""
        spans: dict[int, tuple[float, float, set[int]]] = {}
        for each in self.writes:
            begun, ended, pids = spans.get(each.epoch, (each.begun_at, each.ended_at, set()))
            spans[each.epoch] = (
                min(begun, each.begun_at),
                max(ended, each.ended_at),
                pids | {each.pid},
            )
        last_ended_at = 0.0
        for epoch, (begun, ended, pids) in sorted(spans.items()):
            assert len(pids) == 1, f"epoch {epoch} was of {pids}"
            assert begun > last_ended_at, f"epoch {epoch} began before the one before was over"
            last_ended_at = ended

    def close(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join(30)
        self._listener.close()


class BridgeProcess:
    """One bridge, with lines of its own to the database and to the panel."""

    def __init__(self, folder: Path, url: str, environment: dict[str, str]) -> None:
        self.port = free_port()
        self.log = folder / "bridge.log"
        self._environment = (
            os.environ
            | environment
            | {
                "BRIDGE_STORE": url,
                "BRIDGE_PORT": str(self.port),
                "PYTHONPATH": str(Path(__file__).parents[3]),
            }
        )
        self._folder = folder
        self._process: Program | subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it serves."""
        self.launch()
        with ending_on_failure(self.end):
            self.until_serving()

    def until_serving(self) -> None:
        """Wait until it serves."""
        poll("the bridge serves", lambda: self.ask("/healthz") is not None)

    def launch(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = programs.start(
                *("marzban_bridge", "run"),
                env=self._environment,
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """End it; return its exit code."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
        return process.wait(120)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `marzban-bridge` with its settings."""
        return programs.run("marzban_bridge", *arguments, env=self._environment, cwd=self._folder)

    def ask(self, path: str, method: str = "GET", **arguments: Any) -> httpx.Response | None:
        """Return its answer; None without one."""
        with contextlib.suppress(httpx.HTTPError):
            return httpx.request(
                method,
                f"http://127.0.0.1:{self.port}{path}",
                timeout=2,
                trust_env=False,
                **arguments,
            )
        return None

    @property
    def leads(self) -> bool:
        """Whether it says that it leads."""
        answer = self.ask("/metrics")
        return answer is not None and "\nbridge_leads 1.0\n" in answer.text


class Pair:
    """Everything; `close` ends it."""

    def __init__(self, folder: Path, bridges: int = 2) -> None:
        self.server = PostgresServer(is_durable=True)
        self.server.start()
        self.database = self.server.new_database()
        self.panel = Panel()
        self.collector = CollectorProcess(folder)
        self.lines = [TcpProxy(self.server.port) for _ in range(bridges)]
        self.panel_lines = [TcpProxy(self.panel.port) for _ in range(bridges)]
        self.bridges = []
        for number in range(bridges):
            home = folder / f"bridge-{number}"
            home.mkdir()
            url = self.server.url(self.database, port=self.lines[number].port)
            environment = {
                "MARZBAN_URL": f"http://127.0.0.1:{self.panel_lines[number].port}",
                "MARZBAN_USERNAME": "root",
                "MARZBAN_PASSWORD": PANEL_PASSWORD,
                "COLLECTOR_URL": f"http://127.0.0.1:{self.collector.port}",
                "COLLECTOR_ADMIN_KEY": ADMIN_KEY,
                "BRIDGE_WEBHOOK_SECRET": WEBHOOK_SECRET,
                "BRIDGE_PASS_SECONDS": "1",
            }
            self.bridges.append(BridgeProcess(home, url, environment))
        self.reported = dict.fromkeys(USERS, 0)
        self._numbers = iter(range(10**9))
        self._client = httpx.Client(timeout=10, trust_env=False)

    def start(self) -> None:
        """Start both at once, and wait until one leads and the other one serves."""
        with ending_on_failure(self.close):
            for each in self.bridges:
                each.launch()
            self.collector.start()
            for each in self.bridges:
                each.until_serving()
            self.until_led()

    def close(self) -> None:
        """End everything."""
        for each in self.bridges:
            each.end()
        self.collector.kill()
        self.panel.close()
        for line in (*self.lines, *self.panel_lines):
            line.close()
        self.server.close()
        self._client.close()

    def roles(self) -> tuple[int, int]:
        """Return which bridge says that it leads, and which that it follows."""
        found = [number for number, each in enumerate(self.bridges) if each.leads]
        assert len(found) == 1, f"{found} lead"
        return found[0], 1 - found[0]

    def until_led(self, *, by_another_than: int | None = None) -> float:
        """Wait until somebody leads; return how many seconds that took."""
        started_at = time.monotonic()
        with psycopg.connect(
            self.server.url(self.database), options="-c search_path=bridge", autocommit=True
        ) as db:
            pids = {each.pid: number for number, each in enumerate(self.bridges) if each._process}

            def is_so() -> bool:
                row = None
                with contextlib.suppress(psycopg.errors.UndefinedTable):
                    row = db.execute(
                        "SELECT holder, expires_at > clock_timestamp() FROM lease"
                    ).fetchone()
                number = pids.get(int(row[0].rpartition(":")[2] or 0)) if row and row[1] else None
                return (
                    number is not None and number != by_another_than and self.bridges[number].leads
                )

            poll("somebody leads", is_so)
        return time.monotonic() - started_at

    def report(self, name: str, amount_bytes: int = REPORT) -> None:
        """Report traffic of a user."""
        body = {
            "report_id": f"report-{next(self._numbers)}",
            "user_token": name,
            "server": "de-1",
            "port": 443,
            "protocol": "vless",
            "bytes_uploaded": 0,
            "bytes_downloaded": amount_bytes,
        }
        url = f"http://127.0.0.1:{self.collector.port}/v1/reports"
        answer = self._client.post(url, json=body, headers={"authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200, answer.text
        self.reported[name] += amount_bytes

    def until_right(self) -> None:
        """Wait until every user's limit is what its reports leave."""

        def wrong() -> list[str]:
            return [name for name in USERS if self.panel.limit(name) != QUOTA - self.reported[name]]

        poll("limits that are right", lambda: not wrong())

    @contextlib.contextmanager
    def reporting(self, *, every_seconds: float = 0.1) -> Any:
        """Report traffic of one user after the other meanwhile, so that there is much to write."""
        stop = threading.Event()
        dice = random.Random(7)
        failures: list[Exception] = []

        def go_on() -> None:
            try:
                while not stop.wait(every_seconds):
                    name = min(USERS, key=lambda each: (self.reported[each], dice.random()))
                    self.report(name)
            except Exception as error:  # noqa: BLE001 - told below
                failures.append(error)

        thread = threading.Thread(target=go_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(20)
        assert not failures, failures

    def assert_no_secrets_in_logs(self) -> None:
        """Tell that the database's and the panel's passwords are in no log."""
        for each in self.bridges:
            text = each.log.read_text()
            assert PASSWORD not in text
            assert PANEL_PASSWORD not in text
            assert "Traceback" not in text, text[-3000:]
