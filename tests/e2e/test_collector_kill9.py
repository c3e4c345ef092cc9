"""A collector killed at any moment, again and again: what it acknowledged is there, once."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector.ledger.sqlite_reader import SqliteReader

ROUNDS = 20
CLIENTS = 3
KEY = "a-key-of-the-kill-test"
DEADLINE_SECONDS = 30

CLIENT = """
import http.client, json, pathlib, random, sys, time

name, port, acknowledged, stop = sys.argv[1], int(sys.argv[2]), sys.argv[3], pathlib.Path(sys.argv[4])
rng, number, connection = random.Random(name), 0, None
with open(acknowledged, "a", buffering=1) as log:
    while not stop.exists():
        batch = []
        for _ in range(rng.choice((1, 1, 5, 40))):
            number += 1
            batch.append({
                "report_id": f"{name}-{number}", "user_token": rng.choice(("shared", name)),
                "server": f"s{rng.randrange(5)}", "port": 443, "protocol": "vless",
                "bytes_uploaded": rng.randrange(1, 10**9), "bytes_downloaded": rng.randrange(10**9),
            })
        body = json.dumps(batch)
        while True:
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                connection.request("POST", "/v1/reports", body, {"Authorization": "Bearer %s"})
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status == 200:
                    break
                assert response.status == 503, answer
            except (OSError, http.client.HTTPException, ValueError):
                connection = None
            time.sleep(0.02)
        assert answer["accepted"] + answer["duplicates"] == len(batch), answer
        for each in batch:
            log.write(f"{each['user_token']} {each['bytes_uploaded'] + each['bytes_downloaded']}\\n")
""".replace("%s", KEY)


def poll(what: str, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.01)


class Killable:
    """A collector process on one ledger and one port, which may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.ledger = folder / "ledger.sqlite3"
        self.log = folder / "collector.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._environment = os.environ | {
            "LEDGER_URL": f"sqlite:///{self.ledger}",
            "COLLECTOR_PORT": str(self.port),
            "COLLECTOR_REPORTER_KEYS": f"load:{KEY}",
            "PYTHONPYCACHEPREFIX": str(folder / "pycache"),
        }
        # compiled once for all rounds, wherever the packages are and whatever the caller prefers
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "collector", "serve"], env=self._environment, stderr=log
            )
        poll("a collector that is ready", self.is_ready)

    def is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        return False

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def check(self) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "collector", "check"]
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def killable(tmp_path: Path) -> Iterator[Killable]:
    collector = Killable(tmp_path)
    yield collector
    collector.kill()


@pytest.fixture
def clients(
    killable: Killable, tmp_path: Path
) -> Iterator[tuple[list[subprocess.Popen[bytes]], list[Path], Path]]:
    """Senders that repeat each request, under the same ids, until it is acknowledged."""
    stop = tmp_path / "stop"
    logs = [tmp_path / f"acknowledged-{number}" for number in range(CLIENTS)]
    senders = []
    for number, log in enumerate(logs):
        log.touch()
        arguments = (f"client{number}", str(killable.port), str(log), str(stop))
        senders.append(subprocess.Popen([sys.executable, "-c", CLIENT, *arguments]))
    yield senders, logs, stop
    for sender in senders:
        sender.kill()
        sender.wait()


def test_every_acknowledged_report_is_counted_once_through_twenty_kills(
    killable: Killable, clients: tuple[list[subprocess.Popen[bytes]], list[Path], Path]
) -> None:
    senders, logs, stop = clients
    rng = random.Random(9)

    def acknowledged_bytes() -> int:
        return sum(log.stat().st_size for log in logs)

    for _ in range(ROUNDS):
        killable.start()
        enough = acknowledged_bytes() + rng.randrange(1, 40_000)
        poll("more acknowledged reports", lambda enough=enough: acknowledged_bytes() >= enough)
        killable.kill()

    killable.start()
    stop.touch()
    assert [sender.wait(DEADLINE_SECONDS) for sender in senders] == [0] * CLIENTS
    killable.kill()

    expected: Counter[str] = Counter()
    reports = 0
    for log in logs:
        for line in log.read_text().splitlines():
            user, amount = line.split()
            expected[user] += int(amount)
            reports += 1
    reader = SqliteReader(killable.ledger)
    found = reader.changes(after=0, limit=100).changes
    audit = reader.audit()
    reader.close()
    assert {each.username: each.upload_bytes + each.download_bytes for each in found} == expected
    assert sum(each.reports for each in found) == reports
    assert audit.problems == []
    assert audit.day_bytes == audit.series_bytes == audit.user_bytes == sum(expected.values())
    verdict = killable.check()
    assert verdict.returncode == 0, verdict.stdout
