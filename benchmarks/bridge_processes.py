"""The processes the bridge is measured among, and what they cost."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from counting_panel import PASSWORD

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from tests.support.ports import free_port  # noqa: E402
from tests.support.processes import ADMIN_KEY, REPORTER_KEY, until  # noqa: E402

BRIDGE_CORE, OTHERS_CORE = {0}, {1}
LONG_SECONDS = 900.0
BATCH = 1000


class Stack:
    """A counting panel, a collector and a bridge; the bridge has a core for itself.

    The bridge's code is that of `tree`.
    """

    def __init__(self, folder: Path, *, panel_users: int, tree: Path = ROOT) -> None:
        self._tree = tree
        self._folder = folder
        self._panel_users = panel_users
        self._ports = {name: free_port() for name in ("panel", "collector", "bridge")}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._client = httpx.Client(timeout=60)

    def url(self, name: str) -> str:
        """Return where a program answers."""
        return f"http://127.0.0.1:{self._ports[name]}"

    def start(self, name: str) -> None:
        """Start a program and wait until it answers."""
        python = sys.executable
        command: Sequence[str] = {
            "panel": (
                *(python, str(ROOT / "benchmarks" / "bridge.py"), "--serve-panel"),
                *(str(self._panel_users), str(self._ports["panel"])),
            ),
            "collector": (python, "-m", "collector", "serve"),
            "bridge": (python, "-m", "marzban_bridge", "run"),
        }[name]
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - this project's programs
                command, env=self._environment(name), stdout=log, stderr=log, cwd=self._folder
            )
        os.sched_setaffinity(process.pid, BRIDGE_CORE if name == "bridge" else OTHERS_CORE)
        self._processes[name] = process
        path = "/counted" if name == "panel" else "/healthz"
        until(f"{name} is up", lambda: self._answers(name, path), seconds=LONG_SECONDS)

    def stop(self, name: str) -> float:
        """End a program by SIGTERM; return how many seconds that took."""
        process = self._processes.pop(name)
        told_at = time.monotonic()
        process.terminate()
        process.wait(60)
        return time.monotonic() - told_at

    def close(self) -> None:
        """End everything."""
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._client.close()

    def _environment(self, name: str) -> dict[str, str]:
        return os.environ | {
            "PYTHONPATH": str(self._tree if name == "bridge" else ROOT),
            "LEDGER_URL": f"sqlite:///{self._folder}/ledger.sqlite3",
            "COLLECTOR_PORT": str(self._ports["collector"]),
            "COLLECTOR_ADMIN_KEY": ADMIN_KEY,
            "COLLECTOR_REPORTER_KEYS": f"bench:{REPORTER_KEY}",
            "COLLECTOR_URL": self.url("collector"),
            "MARZBAN_URL": self.url("panel"),
            "MARZBAN_USERNAME": "admin",
            "MARZBAN_PASSWORD": PASSWORD,
            "BRIDGE_STORE": str(self._folder / "bridge.sqlite3"),
            "BRIDGE_PORT": str(self._ports["bridge"]),
        }

    def _answers(self, name: str, path: str) -> bool:
        code = self._processes[name].poll()
        assert code is None, f"{name} ended with {code}, see {self._folder}/{name}.log"
        with contextlib.suppress(httpx.HTTPError):
            return self._client.get(self.url(name) + path).is_success
        return False

    def report(self, usernames: Sequence[str], *, amount_bytes: int) -> None:
        """Have the collector store a report for each user."""
        headers = {"authorization": f"Bearer {REPORTER_KEY}"}
        for start in range(0, len(usernames), BATCH):
            reports = [
                {
                    "user_token": username,
                    "server": "de-1",
                    "port": 443,
                    "protocol": "vless",
                    "bytes_uploaded": 0,
                    "bytes_downloaded": amount_bytes,
                }
                for username in usernames[start : start + BATCH]
            ]
            url = self.url("collector") + "/v1/reports"
            self._client.post(url, headers=headers, json=reports).raise_for_status()

    def counted(self) -> dict[str, Any]:
        """Return what the panel has been asked so far."""
        answer: dict[str, Any] = self._client.get(self.url("panel") + "/counted").json()
        return answer

    def answer_after(self, seconds: float) -> None:
        """Have each of the panel's answers take so much longer from now on."""
        self._client.put(self.url("panel") + "/answers", params={"after": seconds})

    def signed_in(self) -> int:
        """Return how often somebody has signed in to the panel."""
        return int(self.counted()["requests"].get("POST /api/admin/token", 0))

    def metrics(self) -> dict[str, float]:
        """Return the bridge's numbers, those without labels."""
        lines = self._client.get(self.url("bridge") + "/metrics").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line[:1] != "#" and "{" not in line)
        return {name: float(value) for name, value in pairs}

    def cpu_seconds(self, name: str) -> float:
        """Return the processor time a program has used."""
        text = Path(f"/proc/{self._processes[name].pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self, *, is_peak: bool = False) -> float:
        """Return the bridge's memory, now or at its peak."""
        field = "VmHWM:" if is_peak else "VmRSS:"
        status = Path(f"/proc/{self._processes['bridge'].pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if field in line) / 1024

    def written_bytes(self) -> int:
        """Return how much the bridge has had written to its disk."""
        text = Path(f"/proc/{self._processes['bridge'].pid}/io").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if "write_bytes" in line)

    def wait_adopted(self, *, accounts: int) -> None:
        """Wait until the bridge's store holds so many accounts."""
        path = self._folder / "bridge.sqlite3"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
            query = "SELECT count(*) FROM account"
            self.until(
                f"{accounts} accounts", lambda: store.execute(query).fetchone()[0] >= accounts
            )

    def until(self, what: str, holds: Callable[[], Any]) -> None:
        """Wait until something holds."""
        until(what, holds, seconds=LONG_SECONDS)


@contextlib.contextmanager
def stack(folder: Path, *, panel_users: int, tree: Path = ROOT) -> Iterator[Stack]:
    """Have a panel and a collector running, and a bridge when it is started."""
    running = Stack(folder, panel_users=panel_users, tree=tree)
    try:
        running.start("panel")
        running.start("collector")
        yield running
    finally:
        running.close()
