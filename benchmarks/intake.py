"""How many reports a second are on disk, beside a bare ledger, an idle server and a naive one.

    uv run --group bench python benchmarks/intake.py [--rounds 3] [--no-peers]

Where they are installed, Redis, VictoriaMetrics and InfluxDB 1.x take the same reports in turns.
Every server runs on core 0 alone, the sender on core 1. The contestants take turns in each round;
medians over the rounds are compared. A report is counted when the answer after its commit is read.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from fastapi import FastAPI
from intake_peers import PEERS, Peer
from naive_server import naive_app
from rich.console import Console
from rich.table import Table
from starlette.types import Lifespan

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from collector.app import create_app, server_of  # noqa: E402
from collector.intake.ingest import OnStored  # noqa: E402
from collector.ledger import Batch, Receipt  # noqa: E402
from collector.ledger.sqlite.writer import SqliteLedger  # noqa: E402
from collector.reports.report import Report, report_key  # noqa: E402
from collector.settings import Settings  # noqa: E402

KEY = "rk_the-key-of-the-benchmark"
USERS, SERVERS, BATCH = 5000, 3, 1000
BATCHES = 600
"""So many that adding up, which is deferred under load, happens several times."""
SERVER_CORE, SENDER_CORE = {0}, {1}
KINDS = ("ours", "stores nothing", "naive")
console = Console(width=110)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What one contestant did in one round."""

    reports_per_second: float
    p99_millis: float
    cpu_micros: float
    """Processor time of the server for one report."""


def main() -> int:
    """Run the rounds and print the tables; or serve as one of the contestants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true", help="leave out other programs")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.folder, arguments.port)
        return 0
    os.sched_setaffinity(0, SENDER_CORE)
    peers = []
    for peer in () if arguments.no_peers else PEERS:
        if reason := peer.why_not():
            console.print(f"left out: {peer.name}: {reason}")
        else:
            peers.append(peer)
    names = (*KINDS, *(peer.name for peer in peers))
    batches: dict[str, list[Run]] = {name: [] for name in names}
    singles: dict[str, list[Run]] = {name: [] for name in names}
    ledgers: list[float] = []
    for number in range(arguments.rounds):
        console.print(f"round {number + 1} of {arguments.rounds}")
        ledgers.append(bare_ledger(groups=200))
        for kind in KINDS:
            count = 3 if kind == "naive" else BATCHES
            batches[kind].append(measure(kind, size=BATCH, requests=count, connections=4))
            count = 1500 if kind == "naive" else 10_000
            singles[kind].append(measure(kind, size=1, requests=count, connections=64))
        for peer in peers:
            batches[peer.name].append(measure(peer, size=BATCH, requests=BATCHES, connections=4))
            singles[peer.name].append(measure(peer, size=1, requests=10_000, connections=64))
    show(f"Batches of {BATCH:,} reports over 4 connections", batches)
    ours = statistics.median(each.reports_per_second for each in batches["ours"])
    bare = statistics.median(ledgers)
    console.print(
        f"bare ledger in groups of {BATCH:,}, sums included: {bare:,.0f} reports/s; "
        f"the server reaches {ours / bare:.2f} of it\n"
    )
    show("Single reports over 64 connections", singles)
    return 0


def serve(kind: str, folder: Path, port: int) -> None:
    """Serve as a contestant until killed."""
    os.sched_setaffinity(0, SERVER_CORE)
    if kind == "naive":
        naive = naive_app(folder / "naive.sqlite3")
        uvicorn.Server(uvicorn.Config(naive, port=port, log_config=None, access_log=False)).run()
        return
    settings = Settings.from_env(
        {
            "LEDGER_URL": f"sqlite:///{folder}/ledger.sqlite3",
            "COLLECTOR_REPORTER_KEYS": f"bench:{KEY}",
            "COLLECTOR_KEY_REQUESTS_PER_SECOND": "0",
            "COLLECTOR_PORT": str(port),
        }
    )
    app = create_app(settings)
    if kind != "ours":
        app.router.lifespan_context = _acknowledging(app.router.lifespan_context)
    with socket.create_server(("127.0.0.1", port)) as listener:
        server_of(app, settings, freezes_heap=True).run(sockets=[listener])


def _acknowledging(lifespan: Lifespan[FastAPI]) -> Lifespan[FastAPI]:
    """Have a collector answer as if it had stored."""

    def acknowledge(batch: Batch, on_stored: OnStored) -> None:
        on_stored(Receipt(len(batch.reports), 0))

    @contextlib.asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            app.state.collector.ingest._writer.enqueue = acknowledge  # noqa: SLF001
            yield state

    return opened


@contextlib.contextmanager
def running(kind: str | Peer) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run a contestant; yield its port and process."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = _start(kind, Path(folder), port)
        try:
            _wait_for(port)
            if isinstance(kind, Peer):
                kind.prepare(port)
            yield port, process
        finally:
            process.kill()
            process.wait()


def _start(kind: str | Peer, folder: Path, port: int) -> subprocess.Popen[bytes]:
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, SERVER_CORE)  # a process begins on the core of the one that starts it
    try:
        if isinstance(kind, Peer):
            return kind.start(folder, port)
        command = [sys.executable, __file__, "--serve", kind, "--folder", str(folder)]
        return subprocess.Popen(  # noqa: S603 - this very file
            [*command, "--port", str(port)], stderr=subprocess.DEVNULL
        )
    finally:
        os.sched_setaffinity(0, mine)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise SystemExit("a contestant did not start")


def measure(kind: str | Peer, *, size: int, requests: int, connections: int) -> Run:
    """Send a load and time it; the first tenth warms up and is not counted."""
    encode, is_answered = (_request, _is_accepted)
    if isinstance(kind, Peer):
        encode, is_answered = kind.request, kind.is_answered
    encoded = [encode(_reports(size)) for _ in range(requests)]

    def is_whole(answer: bytes) -> bool:
        return is_answered(answer, size)

    with running(kind) as (port, process):
        warm = requests // 10 or 1
        _send(port, encoded[:warm], connections, is_whole)
        cpu_before, started_at = _cpu_seconds(process.pid), time.perf_counter()
        millis = _send(port, encoded[warm:], connections, is_whole)
        seconds = time.perf_counter() - started_at
        cpu_seconds = _cpu_seconds(process.pid) - cpu_before
    reports = (requests - warm) * size
    return Run(
        reports_per_second=reports / seconds,
        p99_millis=sorted(millis)[int(len(millis) * 0.99)],
        cpu_micros=cpu_seconds / reports * 1e6,
    )


_dice = random.Random(7)  # noqa: S311 - made-up reports


def _body(size: int) -> bytes:
    reports = _reports(size)
    return msgspec.json.encode(reports if size > 1 else reports[0])


def _request(reports: Sequence[dict[str, str | int]]) -> bytes:
    body = msgspec.json.encode(reports if len(reports) > 1 else reports[0])
    return _head(body) + body


def _is_accepted(answer: bytes, _: int) -> bool:
    assert answer.startswith(b"HTTP/1.1 200"[: len(answer)]), answer[:200]
    return answer.endswith(b"}")


def _reports(size: int) -> list[dict[str, str | int]]:
    return [
        {
            "report_id": f"{_dice.getrandbits(64):x}",
            "user_token": f"user{_dice.randrange(USERS)}",
            "server": f"server-{_dice.randrange(SERVERS)}",
            "port": 443,
            "protocol": "vless",
            "bytes_uploaded": 1000,
            "bytes_downloaded": 9000,
        }
        for _ in range(size)
    ]


def _send(
    port: int, requests: list[bytes], connections: int, is_whole: Callable[[bytes], bool]
) -> list[float]:
    """Send requests over so many connections, each waiting for its answer; return milliseconds."""
    waiting = iter(requests)
    millis: list[float] = []
    with contextlib.ExitStack() as open_ones, selectors.DefaultSelector() as selector:

        def send(connection: socket.socket) -> None:
            if (request := next(waiting, None)) is not None:
                sent_at[connection], answers[connection] = time.perf_counter(), b""
                connection.sendall(request)
                selector.register(connection, selectors.EVENT_READ)

        sent_at: dict[socket.socket, float] = {}
        answers: dict[socket.socket, bytes] = {}
        for _ in range(connections):
            send(open_ones.enter_context(socket.create_connection(("127.0.0.1", port))))
        while selector.get_map():
            for key, _ in selector.select():
                connection: socket.socket = key.fileobj  # type: ignore[assignment]
                chunk = connection.recv(65536)
                assert chunk, "the connection was closed"
                answers[connection] += chunk
                if not is_whole(answers[connection]):
                    continue
                millis.append((time.perf_counter() - sent_at[connection]) * 1000)
                selector.unregister(connection)
                send(connection)
    assert len(millis) == len(requests), "a request was not answered"
    return millis


def _head(body: bytes) -> bytes:
    return (
        f"POST /v1/reports HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bare_ledger(*, groups: int) -> float:
    """Return how many reports a second a ledger takes without a server, on the sender's core."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = SqliteLedger(Path(folder) / "ledger.sqlite3")
        batches = [
            Batch("reporter:bench", [_report(f"{group}/{number}") for number in range(BATCH)])
            for group in range(groups)
        ]
        warm = groups // 10
        for batch in batches[:warm]:
            ledger.record([batch], received_at_millis=0, defers_sums=True)
        started_at = time.perf_counter()
        for number, batch in enumerate(batches[warm:]):
            ledger.record([batch], received_at_millis=0, defers_sums=True)
            if number % 20 == 19:
                ledger.fold()
        ledger.fold()
        seconds = time.perf_counter() - started_at
        ledger.close()
    return (groups - warm) * BATCH / seconds


def _report(report_id: str) -> Report:
    return Report(
        f"user{_dice.randrange(USERS)}",
        f"server-{_dice.randrange(SERVERS)}",
        443,
        "vless",
        1000,
        9000,
        1,
        1_700_000_000_000,
        report_key("reporter:bench", report_id),
    )


def show(title: str, runs: dict[str, list[Run]]) -> None:
    """Print the medians, and each beside ours."""
    table = Table(title=title, title_justify="left")
    for column in ("server", "reports/s", "ours beside it", "p99 ms", "CPU per report"):
        table.add_column(column, justify="left" if column == "server" else "right")
    ours = statistics.median(each.reports_per_second for each in runs["ours"])
    for kind, each in runs.items():
        rate = statistics.median(run.reports_per_second for run in each)
        table.add_row(
            kind,
            f"{rate:,.0f}",
            f"{ours / rate:.2f} x",
            f"{statistics.median(run.p99_millis for run in each):.1f}",
            f"{statistics.median(run.cpu_micros for run in each):.1f} µs",
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
