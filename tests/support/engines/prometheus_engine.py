"""A real Prometheus for tests, and the metrics of a collector and a bridge that have been at work.

The metrics come from the programs' own instruments, every label with values as they occur, so that
a query over a name or a label that does not exist finds nothing.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics import MetricWrapperBase

import collector.metrics
import marzban_bridge.metrics
from tests.support.ending import ending_on_failure
from tests.support.ports import free_port
from tests.support.processes import until

GIB = 1 << 30
LABEL_VALUES = {
    "action": ("reset", "cleanup"),
    "admin": ("shop",),
    "cause": ("webhook", "request", "calendar"),
    "direction": ("upload", "download"),
    "field": ("user_token", "bytes_uploaded"),
    "kind": ("publish", "disable"),
    "meant": ("bytes_uploaded", ""),
    "measurement": ("user_usage", "events"),
    "outcome": ("stored", "retry"),
    "policy": ("raw", "daily", "reports"),
    "reporter": ("de-1", "wg o'neil"),
    "result": ("applied", "refused"),
    "source": ("panel", "collector"),
    "panel": ("default", "two"),
    "span": ("request", "hour", "day"),
    "reason": ("users_gone", "went_back", "second_bridge"),
    "status": ("200", "422", "503"),
    "stream": ("raw", "daily"),
}
GAUGE_VALUES = {
    "bridge_accounts": 31,
    "bridge_online_users": 4,
    "bridge_collector_up": 1,
    "bridge_panel_up": 1,
    "bridge_pass_seconds": 0.8,
    "collector_export_lag_seconds": 4,
    "collector_influx_up": 1,
    "collector_ledger_day_rows": 4210,
    "collector_ledger_free_disk_bytes": 41 * GIB,
    "collector_ledger_reports": 128_400,
    "collector_ledger_servers": 7,
    "collector_ledger_size_bytes": 48_300_000,
    "collector_ledger_traffic_bytes": 612 * GIB,
    "collector_ledger_users": 34,
}
RETENTION_SECONDS = {"raw": 30 * 86_400, "daily": 0, "reports": 7 * 86_400}


class WorkedPrograms:
    """The instruments of both programs, as if they had been running for a while."""

    def __init__(self) -> None:
        self.collector = collector.metrics.Metrics()
        self.collector.expose_export()
        self.bridge = marzban_bridge.metrics.Metrics()
        self.bridge.introduce(public_url="https://bridge.example.com", enforcement="limit")
        self.bridge.panel.info({"kind": "pasarguard", "version": "5.2.1"})
        self.bridge.watch_resets(pending=lambda: 0.0, oldest_seconds=lambda: 0.0)
        self.bridge.influx_answered(is_up=True)
        self.work()

    def work(self) -> None:
        """Move every counter and histogram on, and set every gauge."""
        for metrics in (self.collector, self.bridge):
            for part in vars(metrics).values():
                for instrument in part if isinstance(part, tuple) else (part,):
                    if isinstance(instrument, MetricWrapperBase):
                        _use(instrument)
        for policy, seconds in RETENTION_SECONDS.items():
            self.collector.retention_seconds.labels(policy).set(seconds)
        self.bridge.last_pass_timestamp_seconds.set(time.time() - 20)
        for age_seconds, reporter in enumerate(LABEL_VALUES["reporter"], start=30):
            self.collector.note_heard(f"reporter:{reporter}", at_seconds=time.time() - age_seconds)

    def metric_names(self) -> set[str]:
        """Return every name a query may use."""
        return {
            name
            for metrics in (self.collector, self.bridge)
            for family in metrics.registry.collect()
            for name in _sample_names(family.name, family.type)
        }


def _sample_names(name: str, kind: str) -> list[str]:
    suffixes = {
        "counter": ["_total"],
        "info": ["_info"],
        "histogram": ["_bucket", "_sum", "_count"],
    }
    return [name + suffix for suffix in suffixes.get(kind, [""])]


def _use(instrument: MetricWrapperBase) -> None:
    names = instrument._labelnames
    children = [instrument]
    if names:
        values = itertools.product(*(LABEL_VALUES[name] for name in names))
        children = [instrument.labels(*each) for each in values]
    for child in children:
        if isinstance(child, Counter):
            child.inc(3)
        elif isinstance(child, Histogram):
            child.observe(0.02)
        elif isinstance(child, Gauge) and child._type == "gauge":
            child.set(GAUGE_VALUES.get(instrument._name, 0))


class MetricsServer:
    """Serves the metrics of both programs, each at an address of its own."""

    def __init__(self, programs: WorkedPrograms) -> None:
        self._servers = {}
        for job, metrics in (("collector", programs.collector), ("bridge", programs.bridge)):
            handler = type("Handler", (_Handler,), {"registry": metrics.registry})
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self._servers[job] = server

    @property
    def targets(self) -> dict[str, str]:
        """Where each job is scraped."""
        return {job: f"127.0.0.1:{each.server_address[1]}" for job, each in self._servers.items()}

    def close(self) -> None:
        for each in self._servers.values():
            each.shutdown()
            each.server_close()


class _Handler(BaseHTTPRequestHandler):
    registry: Any

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        body = generate_latest(self.registry)
        self.send_response(200)
        self.send_header("content-type", CONTENT_TYPE_LATEST)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class PrometheusEngine:
    """One running Prometheus that scrapes the given targets every second.

    `history` is written into it before it starts: OpenMetrics with timestamps. A series then ends a
    minute after its last sample.
    """

    def __init__(
        self,
        folder: Path,
        targets: dict[str, str],
        *,
        port: int | None = None,
        history: str | None = None,
    ) -> None:
        self.url = f"http://127.0.0.1:{port or free_port()}"
        self._client = httpx.Client(timeout=30, trust_env=False)
        jobs = [
            {"job_name": job, "static_configs": [{"targets": [at]}]} for job, at in targets.items()
        ]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": jobs,
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [
            *(shutil.which("prometheus") or "", f"--config.file={folder}/prometheus.yml"),
            *(f"--storage.tsdb.path={folder}/data", "--log.level=warn"),
            f"--web.listen-address={self.url.removeprefix('http://')}",
        ]
        if history is not None:
            (folder / "history.txt").write_text(history)
            fill = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--quiet"]
            subprocess.run([*fill, folder / "history.txt", folder / "data"], check=True)
            command.append("--query.lookback-delta=1m")
        with (folder / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        with ending_on_failure(self.close):
            until("Prometheus is ready", self._is_ready)

    def _is_ready(self) -> bool:
        try:
            return self._client.get(f"{self.url}/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Run PromQL at this moment and return its results; AssertionError on an error."""
        answer = self._client.get(f"{self.url}/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return answer.json()["data"]["result"]

    def query_range(
        self, expression: str, *, start: float, end: float, step_seconds: int
    ) -> list[dict[str, Any]]:
        """Run PromQL at each step of a range; AssertionError on an error."""
        asked = {"query": expression, "start": start, "end": end, "step": step_seconds}
        answer = self._client.get(f"{self.url}/api/v1/query_range", params=asked)
        assert answer.status_code == 200, f"{expression}: {answer.text}"
        return answer.json()["data"]["result"]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._client.close()
