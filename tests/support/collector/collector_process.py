"""A real collector process, and waiting for what it does."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.support import programs
from tests.support.ending import ending_on_failure
from tests.support.ports import free_port
from tests.support.programs import Program

KEY = "rk_the-key-of-the-process-tests"
ADMIN_KEY = "the-admin-key-of-the-process-tests"
DEADLINE_SECONDS = 120


def poll(what: str, is_so: Callable[[], bool], *, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until something is so; AssertionError with its name after a deadline."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.01)


class CollectorProcess:
    """A collector on one ledger and one port, which may be ended and started again."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.ledger = folder / "ledger.sqlite3"
        self.log = folder / "collector.log"
        self.port = free_port()
        self._environment = os.environ | {
            "LEDGER_URL": f"sqlite:///{self.ledger}",
            "COLLECTOR_PORT": str(self.port),
            "COLLECTOR_ADMIN_KEY": ADMIN_KEY,
            "COLLECTOR_REPORTER_KEYS": f"load:{KEY}",
            **(environment or {}),
        }
        self._process: Program | subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it and wait until it can store."""
        with self.log.open("ab") as log:
            self._process = programs.start("collector", "serve", env=self._environment, stderr=log)
        with ending_on_failure(self.kill):
            poll("a collector that is ready", self.is_ready)

    def is_ready(self) -> bool:
        """Tell whether it can store; AssertionError with its log when it has ended."""
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        return False

    def totals(self) -> dict[str, int]:
        """Return every user's bytes since for ever, as a reader of the feed sees them."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
            connection.request("GET", "/v1/usage/changes?after=0", headers=headers)
            changes = json.loads(connection.getresponse().read())["changes"]
        return {each["username"]: each["upload_bytes"] + each["download_bytes"] for each in changes}

    def terminate(self) -> None:
        """Ask it to end and wait until it has."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(DEADLINE_SECONDS)
        self._process = None

    def interrupt_until(self, said: str) -> int:
        """Interrupt it, once more when its log says something; return how it ended."""
        assert self._process is not None
        process, self._process = self._process, None
        with ending_on_failure(process.kill):
            process.send_signal(signal.SIGINT)
            poll(said, lambda: said in self.log.read_text())
            process.send_signal(signal.SIGINT)
            return process.wait(DEADLINE_SECONDS)

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the collector's on the same ledger."""
        return programs.run("collector", *arguments, env=self._environment | environment)
