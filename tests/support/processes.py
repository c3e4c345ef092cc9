"""The three programs as real processes: started, killed and started again by a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.support import programs
from tests.support.ending import ending_on_failure
from tests.support.ports import free_port
from tests.support.programs import Program

DEADLINE_SECONDS = 120
REPORTER_KEY = "rk_the-key-of-the-process-tests"
ADMIN_KEY = "an-admin-key-of-process-tests"
PANEL_PASSWORD = "a-panel-password"
COLLECTOR, BRIDGE, PANEL = "collector", "bridge", "panel"


def until(what: str, holds: Callable[[], Any], *, seconds: float = DEADLINE_SECONDS) -> Any:
    """Wait until something holds and return it; AssertionError with its name after a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        if value := holds():
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def feed_totals(client: httpx.Client, url: str) -> dict[str, int]:
    """Return each reported name's total as the feed of a collector tells it."""
    totals: dict[str, int] = {}
    after = 0
    while True:
        answer = client.get(
            f"{url}/v1/usage/changes",
            params={"after": after, "limit": 1000},
            headers={"authorization": f"Bearer {ADMIN_KEY}"},
        ).json()
        for each in answer["changes"]:
            totals[each["username"]] = each["upload_bytes"] + each["download_bytes"]
        if not answer["changes"]:
            return totals
        after = answer["next"]


class Stack:
    """A simulated panel, a collector and a bridge, each in a process of its own."""

    def __init__(
        self,
        folder: Path,
        users: list[dict[str, Any]],
        environment: Mapping[str, str] | None = None,
        *,
        panel_arguments: Sequence[str] = (),
        fresh: bool = False,
    ) -> None:
        self.folder = folder
        self._panel_arguments = panel_arguments
        self._fresh = fresh
        self._environment = environment or {}
        self.urls = {name: f"http://127.0.0.1:{free_port()}" for name in (COLLECTOR, BRIDGE, PANEL)}
        self._processes: dict[str, Program | subprocess.Popen[bytes]] = {}
        self._users = folder / "users.json"
        self._users.write_text(json.dumps({"users": users}))
        self.client = httpx.Client(timeout=10)
        self._panel_token: str | None = None

    def _port(self, name: str) -> str:
        return self.urls[name].rsplit(":", 1)[1]

    def _command(self, name: str) -> list[str]:
        if name == COLLECTOR:
            return ["collector", "serve"]
        if name == BRIDGE:
            return ["marzban_bridge", "run"]
        return [
            *(
                "marzban_bridge",
                "simulator",
                "--port",
                self._port(PANEL),
                "--password",
                PANEL_PASSWORD,
            ),
            *("--users", str(self._users), "--state", str(self.folder / "panel.json")),
            *("--review-seconds", "0.3", "--webhook-seconds", "0.3"),
            *("--webhook-address", f"{self.urls[BRIDGE]}/webhooks/marzban"),
            *("--webhook-secret", "a-webhook-secret"),
            *self._panel_arguments,
        ]

    def _full_environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "LEDGER_URL": f"sqlite:///{self.folder}/ledger.sqlite3",
            "COLLECTOR_PORT": self._port(COLLECTOR),
            "COLLECTOR_ADMIN_KEY": ADMIN_KEY,
            "COLLECTOR_REPORTER_KEYS": f"test:{REPORTER_KEY}",
            "COLLECTOR_URL": self.urls[COLLECTOR],
            "MARZBAN_URL": self.urls[PANEL],
            "MARZBAN_USERNAME": "admin",
            "MARZBAN_PASSWORD": PANEL_PASSWORD,
            "BRIDGE_STORE": str(self.folder / "bridge.sqlite3"),
            "BRIDGE_PORT": self._port(BRIDGE),
            "BRIDGE_WEBHOOK_SECRET": "a-webhook-secret",
            "BRIDGE_PASS_SECONDS": "1",
            **self._environment,
        }

    def start(self, *names: str) -> None:
        """Start programs without waiting for them."""
        environment = self._full_environment()
        for name in names:
            with (self.folder / f"{name}.log").open("ab") as log:
                self._processes[name] = programs.start(
                    *self._command(name),
                    env=environment,
                    stdout=log,
                    stderr=log,
                    cwd=self.folder,
                    fresh=self._fresh,
                )

    def stop(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a program and wait until it is gone."""
        process = self._processes.pop(name)
        process.send_signal(number)
        process.wait(DEADLINE_SECONDS)

    def close(self) -> None:
        """End everything."""
        for name in list(self._processes):
            self.stop(name)
        self.client.close()

    def pid(self, name: str) -> int | None:
        """Return a program's process id while it runs."""
        process = self._processes.get(name)
        return process.pid if process and process.poll() is None else None

    def exit_code(self, name: str) -> int | None:
        """Return how a program ended by itself; None while it runs or was stopped."""
        process = self._processes.get(name)
        return process.poll() if process else None

    def run(self, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `collector` or `marzban_bridge` on the same files and settings."""
        return programs.run(module, *arguments, env=self._full_environment(), cwd=self.folder)

    def is_up(self, name: str) -> bool:
        """Tell whether a program serves requests."""
        path = "/" if name == PANEL else "/healthz"
        try:
            return self.client.get(self.urls[name] + path).status_code < 500
        except httpx.HTTPError:
            return False

    def until_up(self, *names: str) -> None:
        """Wait until programs serve requests."""
        with ending_on_failure(self.close):
            for name in names:
                until(f"{name} is up", lambda name=name: self._is_up_or_dead(name))

    def _is_up_or_dead(self, name: str) -> bool:
        code = self._processes[name].poll()
        assert code is None, f"{name} ended with {code}:\n{self.log_of(name)[-3000:]}"
        return self.is_up(name)

    def log_of(self, name: str) -> str:
        """Return what a program has printed so far."""
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def user(self, username: str) -> dict[str, Any]:
        """Return a user as the panel shows it."""
        return self._ask_panel("GET", f"/api/user/{username}")

    def modify(self, username: str, **fields: Any) -> None:
        """Change a user in the panel."""
        self._ask_panel("PUT", f"/api/user/{username}", json=fields)

    def reset_in_panel(self, username: str) -> None:
        """Press "Reset usage"."""
        self._ask_panel("POST", f"/api/user/{username}/reset")

    def _ask_panel(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        if self._panel_token is None:
            form = {"username": "admin", "password": PANEL_PASSWORD}
            answer = self.client.post(f"{self.urls[PANEL]}/api/admin/token", data=form)
            self._panel_token = answer.json()["access_token"]
        headers = {"authorization": f"Bearer {self._panel_token}"}
        answer = self.client.request(method, self.urls[PANEL] + path, headers=headers, **arguments)
        if answer.status_code == 401:
            self._panel_token = None
            return self._ask_panel(method, path, **arguments)
        assert answer.is_success, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def ask_collector(self, path: str) -> Any:
        """Return what the collector answers its admin."""
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        return self.client.get(self.urls[COLLECTOR] + path, headers=headers).json()

    def report(self, username: str, amount_bytes: int, report_id: str) -> dict[str, Any]:
        """Post one report and return the answer, which must be a good one."""
        answer = self.client.post(
            f"{self.urls[COLLECTOR]}/v1/reports",
            headers={"authorization": f"Bearer {REPORTER_KEY}"},
            json={
                "report_id": report_id,
                "user_token": username,
                "server": "de-1",
                "port": 443,
                "protocol": "vless",
                "bytes_uploaded": 0,
                "bytes_downloaded": amount_bytes,
            },
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found
