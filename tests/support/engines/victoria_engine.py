"""A real VictoriaMetrics for tests, where `victoria-metrics` is on the PATH."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from collector.influx.access import InfluxAccess
from collector.influx.kinds import TargetKind
from tests.support.ending import ending_on_failure
from tests.support.ports import free_port

PROGRAM = "victoria-metrics"
RIGHT_FLAGS = ("-dedup.minScrapeInterval=1ms", "-retentionPeriod=100y")
DEADLINE_SECONDS = 120


def is_here() -> bool:
    """Tell whether there is one to start."""
    return shutil.which(PROGRAM) is not None


class VictoriaEngine:
    """One running VictoriaMetrics; it may be stopped and started."""

    def __init__(self, folder: Path, *, flags: tuple[str, ...] = RIGHT_FLAGS) -> None:
        self._folder, self._flags = folder, flags
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._client = httpx.Client(base_url=self.url, timeout=120, trust_env=False)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def access(self) -> InfluxAccess:
        """Return how to reach it."""
        return InfluxAccess(url=self.url, org="vpn", token="", kind=TargetKind.VICTORIAMETRICS)

    def environment(self) -> dict[str, str]:
        """Return the settings of a collector or bridge that uses it."""
        return {"INFLUXDB_URL": self.url, "INFLUXDB_KIND": "victoriametrics"}

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            *(
                PROGRAM,
                f"-storageDataPath={self._folder}",
                f"-httpListenAddr=127.0.0.1:{self._port}",
            ),
            *("-loggerLevel=ERROR", "-memory.allowedBytes=128MiB", *self._flags),
        ]
        with (self._folder.parent / "victoria.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        with ending_on_failure(self.stop):
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not self._answers():
                assert time.monotonic() < deadline, "VictoriaMetrics does not start"
                time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return self._client.get("/health").status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, in order unless another signal is named."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(DEADLINE_SECONDS)
            self._process = None

    def close(self) -> None:
        """End it for good."""
        self.stop(signal.SIGKILL)
        self._client.close()

    def samples(self, selector: str) -> Iterator[tuple[dict[str, str], list[tuple[int, float]]]]:
        """Return the labels and the samples of each series, as queries would see them."""
        self._client.get("/internal/force_flush").raise_for_status()
        answer = self._client.get(
            "/api/v1/export", params={"match[]": selector, "reduce_mem_usage": "0"}
        )
        assert answer.status_code == 200, answer.text
        for line in answer.text.splitlines():
            found: dict[str, Any] = json.loads(line)
            yield found["metric"], list(zip(found["timestamps"], found["values"], strict=True))

    def sums(self, selector: str) -> tuple[int, float]:
        """Return how many samples the series have together, and their sum."""
        values = [value for _, points in self.samples(selector) for _, value in points]
        return len(values), sum(values)

    def metric(self, name: str) -> float:
        """Return one of its own metrics."""
        text = self._client.get("/metrics").text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        assert found, name
        return float(found[1])
