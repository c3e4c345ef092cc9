"""A real InfluxDB for tests: 2.9 in Docker, else the `influxd` on the PATH, 2.x or 1.x.

1.x is put behind `influx_gateway`, so that one suite runs on whichever is there.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from collector.influx.access import InfluxAccess
from collector.influx.buckets import Buckets, plan_buckets
from collector.schema import DATABASE, Policy
from tests.support.ending import ending_on_failure
from tests.support.engines.influx_gateway import Gateway
from tests.support.ports import free_port

ORG = "vpn"
OPERATOR_TOKEN = "the-operator-token-of-the-tests"
IMAGE = "influxdb:2.9.1"
FOR_EVER = {Policy.RAW: 0, Policy.DAILY: 0}
DEADLINE_SECONDS = 120

_CONFIG_1X = """
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
  dir = "{folder}/meta"
  logging-enabled = false
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
  query-log-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
  max-body-size = 0
[monitor]
  store-enabled = false
[logging]
  level = "warn"
"""


@cache
def docker_answers() -> bool:
    """Tell whether a Docker engine is there to run containers."""
    if shutil.which("docker") is None:
        return False
    asked = subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=20)
    return asked.returncode == 0


@cache
def describe() -> str | None:
    """Say which engine the tests will run on, None when there is none."""
    if docker_answers():
        return f"{IMAGE} in Docker"
    if shutil.which("influxd") is None:
        return None
    asked = subprocess.run(["influxd", "version"], capture_output=True, check=False, text=True)
    version = re.search(r"\bv?(\d+\.\d+\S*)", asked.stdout + asked.stderr)
    name = f"influxd {version[1]}" if version else "influxd of unknown version"
    return f"{name} behind the test gateway" if is_1x(name) else name


def is_1x(description: str) -> bool:
    """Tell whether the described engine needs the gateway."""
    return description.startswith("influxd 1.")


class InfluxEngine:
    """One running InfluxDB with empty buckets of ours; it may be stopped, killed and started."""

    def __init__(self, folder: Path) -> None:
        self.description = describe() or "none"
        self.org, self.token = ORG, OPERATOR_TOKEN
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._container: Any = None
        self._gateway: Gateway | None = None
        self.url = f"http://127.0.0.1:{self._port}"
        if is_1x(self.description):
            self._gateway = Gateway(self._port, ORG, OPERATOR_TOKEN)
            self.url = self._gateway.url
            config = _CONFIG_1X.format(folder=folder, port=self._port, rpc=free_port())
            (folder / "influxdb.conf").write_text(config)
        self._client = httpx.Client(timeout=120, trust_env=False)
        self.start()
        with ending_on_failure(self.close):
            self._set_up()
            self.reset()

    def access(self, **changes: Any) -> InfluxAccess:
        """Return how to reach it as its operator."""
        return InfluxAccess(**({"url": self.url, "org": ORG, "token": OPERATOR_TOKEN} | changes))

    def environment(self) -> dict[str, str]:
        """Return the settings of a collector or bridge that uses it."""
        return {"INFLUXDB_URL": self.url, "INFLUXDB_ORG": ORG, "INFLUXDB_TOKEN": OPERATOR_TOKEN}

    @property
    def pid(self) -> int | None:
        """Its process, where it is one of this machine."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it, if it does not run, and wait until it answers."""
        if docker_answers():
            self._start_container()
        elif self._process is None:
            with (self._folder / "influxd.log").open("ab") as log:
                self._process = subprocess.Popen(
                    self._command(), stdout=log, stderr=log, env={"HOME": str(self._folder)}
                )
        with ending_on_failure(self.close):
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not self._answers():
                assert time.monotonic() < deadline, "InfluxDB does not start"
                time.sleep(0.05)

    def _command(self) -> list[str]:
        binary = shutil.which("influxd") or ""
        if self._gateway:
            return [binary, "-config", str(self._folder / "influxdb.conf")]
        return [
            *(binary, "--http-bind-address", f"127.0.0.1:{self._port}", "--reporting-disabled"),
            *("--bolt-path", f"{self._folder}/bolt", "--engine-path", f"{self._folder}/engine"),
            *("--sqlite-path", f"{self._folder}/sqlite", "--log-level", "warn"),
        ]

    def _start_container(self) -> None:
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - needs Docker

        if self._container is None:
            self._container = DockerContainer(IMAGE).with_bind_ports(8086, self._port)
            self._container.start()
        else:
            self._container.get_wrapped_container().start()

    def _answers(self) -> bool:
        path = "/ping" if self._gateway is None else "/health"
        try:
            return self._client.get(self.url + path).status_code in {200, 204}
        except httpx.HTTPError:
            return False

    def _set_up(self) -> None:
        if self._gateway is None:
            body = {"username": "admin", "password": "a-password-of-tests", "org": ORG}
            body |= {"bucket": "unused", "token": OPERATOR_TOKEN}
            answer = self._client.post(f"{self.url}/api/v2/setup", json=body)
            assert answer.status_code in {201, 422}, answer.text

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it at once, as by a power cut, unless another signal is named."""
        if self._container is not None:
            self._container.get_wrapped_container().kill(number.name)
        elif self._process is not None:
            self._process.send_signal(number)
            self._process.wait(DEADLINE_SECONDS)
            self._process = None

    def close(self) -> None:
        """End it for good."""
        if self._container is not None:
            self._container.stop()
        self.stop()
        if self._gateway:
            self._gateway.close()
        self._client.close()

    def reset(self, retention_seconds: dict[Policy, int] | None = None) -> None:
        """Make our buckets anew and empty; they keep points for ever unless told otherwise."""
        for each in ("DROP DATABASE traffic",) if self._gateway else ():
            assert self._gateway is not None
            self._gateway.influxql(each)
        if self._gateway is None:
            headers = {"authorization": f"Token {OPERATOR_TOKEN}"}
            found = self._client.get(f"{self.url}/api/v2/buckets?limit=100", headers=headers).json()
            for each in found["buckets"]:
                if each["name"].startswith(f"{DATABASE}/"):
                    self._client.delete(f"{self.url}/api/v2/buckets/{each['id']}", headers=headers)
            mapped = self._client.get(f"{self.url}/api/v2/dbrps?org={ORG}", headers=headers).json()
            for each in mapped["content"]:
                if each["database"] == DATABASE and not each.get("virtual"):
                    path = f"/api/v2/dbrps/{each['id']}?org={ORG}"
                    self._client.delete(self.url + path, headers=headers)
        buckets = Buckets(self.access())
        buckets.apply(plan_buckets(retention_seconds or FOR_EVER, buckets.current_seconds()))
        buckets.map_default()

    def delete_bucket(self, name: str) -> None:
        """Delete a bucket, as somebody may while a collector runs."""
        headers = {"authorization": f"Token {OPERATOR_TOKEN}"}
        found = self._client.get(f"{self.url}/api/v2/buckets?limit=100", headers=headers).json()
        (bucket,) = (each for each in found["buckets"] if each["name"] == name)
        answer = self._client.delete(f"{self.url}/api/v2/buckets/{bucket['id']}", headers=headers)
        assert answer.status_code == 204, answer.text

    def write(self, bucket: str, lines: list[str]) -> None:
        """Write lines with timestamps in nanoseconds; they must be good ones."""
        answer = self._client.post(
            f"{self.url}/api/v2/write",
            params={"org": ORG, "bucket": bucket, "precision": "ns"},
            headers={"authorization": f"Token {OPERATOR_TOKEN}"},
            content="\n".join(lines).encode(),
        )
        assert answer.status_code == 204, answer.text

    def query(self, statement: str, *, epoch: str = "ns") -> list[dict[str, Any]]:
        """Run InfluxQL and return its rows, tags and columns by name; AssertionError on an error."""
        answer = self._client.post(
            f"{self.url}/query",
            params={"db": DATABASE, "epoch": epoch},
            data={"q": statement},
            headers={"authorization": f"Token {OPERATOR_TOKEN}"},
        )
        assert answer.status_code == 200, answer.text
        rows = []
        for result in answer.json().get("results", []):  # 2.x: none for a DROP
            assert "error" not in result, f"{statement}: {result['error']}"
            for series in result.get("series", []):
                rows += [
                    series.get("tags", {}) | dict(zip(series["columns"], values, strict=True))
                    for values in series.get("values", [])
                ]
        return rows
