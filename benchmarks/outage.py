"""An hour of traffic while InfluxDB is away: do reporters notice, does memory grow, how fast after?

    uv run --group bench python benchmarks/outage.py [--reports 300000]

Runs a collector process and a real InfluxDB (see tests/support/engines/influx_engine.py). Posts the
same load three times, alternating: InfluxDB there, away, there. Then InfluxDB comes back and the
backlog is timed to its end, beside the same lines written to it directly.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
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
from collector.influx.points import raw_page  # noqa: E402
from collector.ledger.sqlite.reader import SqliteReader  # noqa: E402
from collector.schema import Policy  # noqa: E402
from tests.support.collector.collector_process import KEY, CollectorProcess, poll  # noqa: E402
from tests.support.engines.influx_engine import InfluxEngine  # noqa: E402

BATCH = 1000
USERS, SERVERS = 5000, 3
PAGE = 5000
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


def main() -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=int, default=300_000, help="in each of the loads")
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
            points, seconds = drain(collector)
            direct_per_second = write_directly(collector, influx, points)
        finally:
            collector.terminate()
        counted = influx.query('SELECT count("upload_bytes") AS n FROM "raw"."traffic"')[0]["n"]
    show(loads)
    rate = points / seconds
    console.print(
        f"backlog of {points:,} points drained in {seconds:.1f} s: {rate:,.0f} points/s; "
        f"the same lines written directly: {direct_per_second:,.0f}/s "
        f"(ratio {rate / direct_per_second:.2f})"
    )
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


def drain(collector: CollectorProcess) -> tuple[int, float]:
    """Wait until everything is exported; return how many points that was, and the seconds."""
    with closing(SqliteReader(collector.ledger)) as reader:
        points = reader.backlog(Policy.RAW).reports
        started_at = time.perf_counter()
        poll(
            "an empty backlog",
            lambda: not any(reader.backlog(policy).reports for policy in Policy),
            seconds=600,
        )
    return points, time.perf_counter() - started_at


def write_directly(collector: CollectorProcess, influx: InfluxEngine, points: int) -> float:
    """Write the same lines again without the collector and return the rate."""
    with (
        closing(SqliteReader(collector.ledger)) as reader,
        closing(Influx(influx.access())) as writer,
    ):
        pages = [
            raw_page(reader.reports_after(seq, limit=PAGE), oldest_millis=0).lines
            for seq in range(0, points, PAGE)
        ]
        started_at = time.perf_counter()
        for lines in pages:
            writer.write(Policy.RAW.bucket, lines)
        return sum(map(len, pages)) / (time.perf_counter() - started_at)


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
