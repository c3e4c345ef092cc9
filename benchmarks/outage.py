"""An hour of traffic while InfluxDB is away: do reporters notice, does memory grow, how fast after?

    uv run --group bench python benchmarks/outage.py [--reports 300000] [--rounds 5]

Runs a collector process and a real InfluxDB (see tests/support/engines/influx_engine.py). Posts the
same load three times, alternating: InfluxDB there, away, there. Then everything is exported again,
as after an outage, and the same lines are written directly over two connections, in turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from collector.influx.client import Influx  # noqa: E402
from collector.influx.outcome import Stored  # noqa: E402
from collector.influx.points import raw_page  # noqa: E402
from collector.ledger.sqlite.reader import SqliteReader  # noqa: E402
from collector.schema import Policy  # noqa: E402
from tests.support.collector.collector_process import KEY, CollectorProcess, poll  # noqa: E402
from tests.support.engines.influx_engine import InfluxEngine  # noqa: E402

BATCH = 1000
USERS, SERVERS = 5000, 3
PAGE = 5000
CONNECTIONS = 2
BEGUN_CPU_SECONDS = 0.05
console = Console()


@dataclass(frozen=True, slots=True)
class Load:
    """How posting went, and the process's memory before and after."""

    name: str
    reports_per_second: float
    median_millis: float
    p99_millis: float
    rss_before_mib: float
    rss_after_mib: float


@dataclass(frozen=True, slots=True)
class Way:
    """One turn of bringing points to InfluxDB: the rate, and processor time for each point."""

    per_second: float
    own_micros: float
    influx_micros: float


def main() -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=300_000, help="in each of the loads")
    parser.add_argument("--rounds", type=int, default=5, help="of the turns")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, closing(engine(Path(folder))) as influx:
        console.print(f"InfluxDB: {influx.description}")
        collector = CollectorProcess(Path(folder), influx.environment())
        collector.start()
        try:
            loads = [
                post(collector, "InfluxDB there", arguments.reports),
                away(collector, influx, arguments.reports),
                post(collector, "InfluxDB there again, backlog draining", arguments.reports),
            ]
            poll("an empty backlog", lambda: not backlog(collector), seconds=600)
            drained, direct = [], []
            for _ in range(arguments.rounds):
                drained.append(drain(collector, influx))
                direct.append(write_directly(collector, influx))
        finally:
            collector.terminate()
        counted = influx.query('SELECT count("upload_bytes") AS n FROM "raw"."traffic"')[0]["n"]
    show(loads)
    show_ways({"by the collector": drained, f"directly, {CONNECTIONS} connections": direct})
    console.print(f"points in InfluxDB: {counted:,}, reports sent: {3 * arguments.reports:,}")
    return 0 if counted == 3 * arguments.reports else 1


def engine(folder: Path) -> InfluxEngine:
    """Return a running InfluxDB."""
    (folder / "influxd").mkdir()
    return InfluxEngine(folder / "influxd")


def away(collector: CollectorProcess, influx: InfluxEngine, reports: int) -> Load:
    """Post while InfluxDB is down, and bring it back."""
    influx.stop()
    load = post(collector, "InfluxDB away", reports)
    influx.start()
    return load


def post(collector: CollectorProcess, name: str, reports: int) -> Load:
    """Post a load in batches and time each."""
    before_mib = rss_mib(collector)
    millis: list[float] = []
    started_at = time.perf_counter()
    with httpx.Client(
        base_url=f"http://127.0.0.1:{collector.port}",
        headers={"authorization": f"Bearer {KEY}", "content-type": "application/json"},
        timeout=60,
    ) as client:
        for start in range(0, reports, BATCH):
            body = msgspec.json.encode([report(start + n) for n in range(BATCH)])
            sent_at = time.perf_counter()
            client.post("/v1/reports", content=body).raise_for_status()
            millis.append((time.perf_counter() - sent_at) * 1000)
    seconds = time.perf_counter() - started_at
    return Load(
        name,
        reports / seconds,
        statistics.median(millis),
        statistics.quantiles(millis, n=100)[98],
        before_mib,
        rss_mib(collector),
    )


def report(number: int) -> dict[str, object]:
    """Return a report of one of many users."""
    return {
        "user_token": f"user{number % USERS}",
        "server": f"server-{number % SERVERS}",
        "port": 443,
        "protocol": "vless",
        "bytes_uploaded": 1000,
        "bytes_downloaded": 9000,
    }


def rss_mib(collector: CollectorProcess) -> float:
    """Return how much memory the collector process holds."""
    assert collector.pid is not None
    pages = int(Path(f"/proc/{collector.pid}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def cpu_seconds(pid: int | None) -> float:
    """Return the processor time of a process; 0 without one that can be seen."""
    if pid is None:
        return 0.0
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def backlog(collector: CollectorProcess) -> int:
    """Return how many reports one of the streams has before it."""
    with closing(SqliteReader(collector.ledger)) as reader:
        return max(reader.backlog(policy).reports for policy in Policy)


def drain(collector: CollectorProcess, influx: InfluxEngine) -> Way:
    """Have all reports exported again; the time begins when the collector begins to work.

    Not with the first page that is stored: by then later ones are read already. The days, a few
    pages, have a pace of their own; they are waited for afterwards.
    """
    collector.run("export", "rebuild")
    with closing(SqliteReader(collector.ledger)) as reader:
        points = reader.last_seq()
        idle_seconds = cpu_seconds(collector.pid)
        turn = Turn(collector.pid, influx.pid)
        poll(
            "the export to begin",
            lambda: cpu_seconds(collector.pid) > idle_seconds + BEGUN_CPU_SECONDS,
            seconds=600,
        )
        turn.begin()
        poll("all reports", lambda: not reader.backlog(Policy.RAW).reports, seconds=600)
        way = turn.way(points)
        poll("all days", lambda: not reader.backlog(Policy.DAILY).reports, seconds=600)
    return way


def write_directly(collector: CollectorProcess, influx: InfluxEngine) -> Way:
    """Write the lines of all reports and their sums, without the collector."""
    with closing(SqliteReader(collector.ledger)) as reader:
        pages = [
            [*page.lines, *page.sums]
            for seq in range(0, reader.last_seq(), PAGE)
            for page in [raw_page(reader.reports_after(seq, limit=PAGE), oldest_millis=0)]
        ]
        points = reader.last_seq()
    turn = Turn(os.getpid(), influx.pid)
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        for each in [
            threads.submit(write_share, influx, pages[n::CONNECTIONS]) for n in range(CONNECTIONS)
        ]:
            each.result()
    return turn.way(points)


def write_share(influx: InfluxEngine, pages: Sequence[Sequence[str]]) -> None:
    """Write pages over one connection."""
    with closing(Influx(influx.access())) as writer:
        for lines in pages:
            outcome = writer.write(Policy.RAW.bucket, lines)
            assert isinstance(outcome, Stored), outcome


class Turn:
    """Measures a turn from its making on."""

    def __init__(self, own_pid: int | None, influx_pid: int | None) -> None:
        self._pids = own_pid, influx_pid
        self._cpu_seconds = [cpu_seconds(each) for each in self._pids]
        self._started_at = time.perf_counter()

    def begin(self) -> None:
        """Measure the rate from now on, and processor time from the making on."""
        self._started_at = time.perf_counter()

    def way(self, points: int) -> Way:
        """Return what it was for so many points."""
        seconds = time.perf_counter() - self._started_at
        own, influx = (
            (cpu_seconds(pid) - before) / points * 1e6
            for pid, before in zip(self._pids, self._cpu_seconds, strict=True)
        )
        return Way(points / seconds, own, influx)


def show_ways(ways: dict[str, list[Way]]) -> None:
    """Print medians of the ways, and each turn's ratio of the first to the second."""
    table = Table(title="Points brought to InfluxDB, medians", title_justify="left")
    for column in ("way", "points/s", "CPU of the sender", "CPU of InfluxDB"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, turns in ways.items():
        table.add_row(
            name,
            f"{statistics.median(each.per_second for each in turns):,.0f}",
            f"{statistics.median(each.own_micros for each in turns):.1f} µs",
            f"{statistics.median(each.influx_micros for each in turns):.1f} µs",
        )
    console.print(table)
    ratios = [one.per_second / other.per_second for one, other in zip(*ways.values(), strict=True)]
    console.print(
        f"ratio {statistics.median(ratios):.2f}; of each turn: "
        + ", ".join(f"{each:.2f}" for each in ratios)
    )


def show(loads: list[Load]) -> None:
    """Print how each load went."""
    table = Table(title=f"Posting in batches of {BATCH}", title_justify="left")
    for column in ("load", "reports/s", "median ms", "p99 ms", "RSS before", "RSS after"):
        table.add_column(column, justify="left" if column == "load" else "right")
    for each in loads:
        table.add_row(
            each.name,
            f"{each.reports_per_second:,.0f}",
            f"{each.median_millis:.1f}",
            f"{each.p99_millis:.1f}",
            f"{each.rss_before_mib:.0f} MiB",
            f"{each.rss_after_mib:.0f} MiB",
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
