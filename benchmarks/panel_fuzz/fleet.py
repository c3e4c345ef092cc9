"""One collector, one bridge and three simulated panels as processes, and the ways to each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from panel_fuzz.gateway import Gateway

from tests.support.ports import free_port
from tests.support.processes import ADMIN_KEY, PANEL_PASSWORD, REPORTER_KEY, feed_totals, until

ROOT = Path(__file__).parents[2]
PANELS = ("default", "two", "three")
COLLECTOR, BRIDGE = "collector", "bridge"
BRIDGE_TIMEOUT_SECONDS = 3
UP_SECONDS = 120
USERS_PAGE = 1000


class AwayError(Exception):
    """A program did not answer as it should; it may be killed, or starting."""


class Fleet:
    """The processes; the bridge reaches each panel through a gateway, everybody else directly."""

    def __init__(
        self,
        folder: Path,
        *,
        spans: bool,
        watch: Callable[[str, str, Mapping[str, Any]], None],
    ) -> None:
        self.folder = folder
        self.spans = spans
        self.ports = {name: free_port() for name in (COLLECTOR, BRIDGE, *PANELS)}
        self.gateways = {
            panel: Gateway(
                self.ports[panel],
                watch=lambda user, body, panel=panel: watch(panel, user, body),
            )
            for panel in PANELS
        }
        self.client = httpx.Client(timeout=10, trust_env=False)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._tokens: dict[str, str] = {}

    def url(self, name: str) -> str:
        """Return where a program listens."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def start(self, *names: str) -> None:
        """Start programs without waiting for them."""
        self._write_panels_file()
        for name in names:
            with (self.folder / f"{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(  # noqa: S603 - our own programs
                    self._command(name),
                    env=self._environment(),
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    cwd=self.folder,
                )

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a program and wait until it is gone."""
        process = self._processes.pop(name)
        process.send_signal(number)
        process.wait(UP_SECONDS)

    def runs(self, name: str) -> bool:
        """Tell whether a program was started and not stopped; AssertionError if it ended itself."""
        process = self._processes.get(name)
        if process is None:
            return False
        assert process.poll() is None, f"{name} ended by itself ({process.returncode}); see its log"
        return True

    def until_up(self, *names: str) -> None:
        """Wait until programs serve requests."""
        for name in names:
            path = "/" if name in PANELS else "/healthz"
            until(f"{name} is up", lambda: self._answers(name, path), seconds=UP_SECONDS)  # noqa: B023

    def _answers(self, name: str, path: str) -> bool:
        self.runs(name)
        try:
            return self.client.get(self.url(name) + path).status_code < 500
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        """End everything."""
        for name in list(self._processes):
            self.kill(name)
        for gateway in self.gateways.values():
            gateway.close()
        self.client.close()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of `marzban-bridge` as an operator does."""
        return subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "marzban_bridge", *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            timeout=UP_SECONDS,
        )

    def ask_panel(
        self,
        panel: str,
        method: str,
        path: str,
        body: object = None,
        *,
        expects: Sequence[int] = (200,),
    ) -> dict[str, Any]:
        """Do something in a panel as its admin, past the gateway."""
        for _ in range(2):
            token = self._tokens.get(panel) or self._sign_in(panel)
            answer = self.client.request(
                method,
                self.url(panel) + path,
                json=body,
                headers={"authorization": f"Bearer {token}"},
            )
            if answer.status_code != 401:
                break
            del self._tokens[panel]
        assert answer.status_code in expects, f"{panel} {method} {path}: {answer.text[:300]}"
        try:
            found: dict[str, Any] = answer.json() or {}
        except ValueError:
            return {}
        return found

    def _sign_in(self, panel: str) -> str:
        form = {"username": "admin", "password": PANEL_PASSWORD}
        answer = self.client.post(f"{self.url(panel)}/api/admin/token", data=form)
        token: str = answer.json()["access_token"]
        self._tokens[panel] = token
        return token

    def panel_users(self, panel: str) -> dict[str, dict[str, Any]]:
        """Return all users of a panel as it shows them."""
        found = self.ask_panel(panel, "GET", f"/api/users?limit={USERS_PAGE}")
        return {each["username"]: each for each in found["users"]}

    def ask_bridge(self, panel: str, method: str, path: str, body: object = None) -> Any:
        """Ask the bridge about one panel, as that panel's admin; AwayError if it cannot say."""
        try:
            token = self._tokens.get(panel) or self._sign_in(panel)
            answer = self.client.request(
                method,
                f"{self.url(BRIDGE)}/panels/{panel}{path}",
                json=body,
                headers={"authorization": f"Bearer {token}"},
            )
        except httpx.HTTPError as error:
            raise AwayError(repr(error)) from error
        if answer.status_code != 200:
            raise AwayError(f"{answer.status_code}: {answer.text[:300]}")
        return answer.json()

    def post_webhook(
        self, panel: str, events: list[dict[str, Any]], *, secret_of: str
    ) -> int | None:
        """Post events at a panel's path with a panel's secret; return the status, if any."""
        try:
            answer = self.client.post(
                f"{self.url(BRIDGE)}/panels/{panel}/webhooks/marzban",
                json=events,
                headers={"x-webhook-secret": _secret(secret_of)},
            )
        except httpx.HTTPError:
            return None
        return answer.status_code

    def bridge_users(self, panel: str) -> dict[str, dict[str, Any]]:
        """Return what the bridge has on file of a panel's users."""
        found = self.ask_bridge(panel, "GET", "/v1/users?limit=1000")
        return {each["username"]: each for each in found["users"]}

    def reasons(self) -> list[str]:
        """Return why the bridge is not ready; AwayError if it does not answer."""
        try:
            answer = self.client.get(f"{self.url(BRIDGE)}/readyz")
        except httpx.HTTPError as error:
            raise AwayError(repr(error)) from error
        reasons: list[str] = answer.json()["reasons"]
        return reasons

    def passes(self) -> dict[str, float]:
        """Return when each panel's last pass ended; AwayError if the bridge does not answer."""
        try:
            text = self.client.get(f"{self.url(BRIDGE)}/metrics").text
        except httpx.HTTPError as error:
            raise AwayError(repr(error)) from error
        found = {}
        for line in text.splitlines():
            if line.startswith("bridge_last_pass_timestamp_seconds{"):
                labels, _, value = line.rpartition(" ")
                found[labels.partition('panel="')[2].partition('"')[0]] = float(value)
        return found

    def ledger_totals(self) -> dict[str, int]:
        """Return each reported name's total as the collector's feed tells it."""
        return feed_totals(self.client, self.url(COLLECTOR))

    def read_totals(self) -> dict[str, int]:
        """Return each reported name's total as far as the bridge has read the collector's feed."""
        with self._bridge_store() as store:
            return dict(store.execute("SELECT username, total_bytes FROM external_usage"))

    def seen_lifetimes(self, panel: str) -> dict[str, int]:
        """Return what each user used on a panel, the log included, as the bridge last saw it."""
        with self._bridge_store() as store:
            rows = store.execute("SELECT state FROM account WHERE panel = ?", (panel,)).fetchall()
        accounts = [json.loads(state) for (state,) in rows]
        return {each["username"]: each["sighting"]["lifetime_bytes"] for each in accounts}

    @contextmanager
    def _bridge_store(self) -> Iterator[sqlite3.Connection]:
        """Open what the bridge has stored, whether it runs or not."""
        uri = f"file:{self.folder}/bridge.sqlite3?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as store:
            yield store

    def report(self, reports: list[dict[str, Any]]) -> None:
        """Post reports until they are acknowledged."""

        def is_taken() -> bool:
            self.runs(COLLECTOR)
            try:
                answer = self.client.post(
                    f"{self.url(COLLECTOR)}/v1/reports",
                    json=reports,
                    headers={"authorization": f"Bearer {REPORTER_KEY}"},
                )
            except httpx.HTTPError:
                return False
            if answer.status_code != 200:
                assert answer.status_code in {429, 503, 507}, answer.text[:300]
                return False
            taken = answer.json()
            assert taken["accepted"] + taken["duplicates"] == len(reports), taken
            return True

        until("reports are taken", is_taken, seconds=UP_SECONDS)

    def simulate(self, panel: str, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Ask a simulated panel for what no panel's API has."""
        return self.ask_panel(panel, method, f"/simulation{path}", body)

    @contextmanager
    def bridge_down(self) -> Iterator[None]:
        """Have the bridge killed inside the context and started again after it."""
        if self.runs(BRIDGE):
            self.kill(BRIDGE)
        yield
        self.start(BRIDGE)

    def _command(self, name: str) -> list[str]:
        if name == COLLECTOR:
            return [sys.executable, "-m", "collector", "serve"]
        program = [sys.executable, "-m", "marzban_bridge"]
        if name == BRIDGE:
            return [*program, "run"]
        hook = f"{self.url(BRIDGE)}/panels/{name}/webhooks/marzban"
        return [
            *(*program, "simulator", "--port", str(self.ports[name]), "--driven", "--durable"),
            *("--password", PANEL_PASSWORD, "--state", str(self.folder / f"{name}.json")),
            *("--review-seconds", "0.3", "--webhook-seconds", "0.3"),
            *("--periodic-reset-seconds", "100000"),
            *("--webhook-address", hook, "--webhook-secret", _secret(name)),
        ]

    def _write_panels_file(self) -> None:
        text = "\n".join(
            f'[{panel}]\nurl = "{self.gateways[panel].url}"\nusername = "admin"\n'
            f'password = "{PANEL_PASSWORD}"\nwebhook_secret = "{_secret(panel)}"\n'
            for panel in PANELS[1:]
        )
        path = self.folder / "panels.toml"
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "LEDGER_URL": f"sqlite:///{self.folder}/ledger.sqlite3",
            "COLLECTOR_PORT": str(self.ports[COLLECTOR]),
            "COLLECTOR_ADMIN_KEY": ADMIN_KEY,
            "COLLECTOR_REPORTER_KEYS": f"test:{REPORTER_KEY}",
            "COLLECTOR_MIN_FREE_DISK_BYTES": "1000000",
            "COLLECTOR_URL": self.url(COLLECTOR),
            "MARZBAN_URL": self.gateways[PANELS[0]].url,
            "MARZBAN_USERNAME": "admin",
            "MARZBAN_PASSWORD": PANEL_PASSWORD,
            "MARZBAN_TIMEOUT_SECONDS": str(BRIDGE_TIMEOUT_SECONDS),
            "BRIDGE_STORE": str(self.folder / "bridge.sqlite3"),
            "BRIDGE_PORT": str(self.ports[BRIDGE]),
            "BRIDGE_WEBHOOK_SECRET": _secret(PANELS[0]),
            "BRIDGE_PANELS_FILE": str(self.folder / "panels.toml"),
            "BRIDGE_QUOTAS_SPAN_PANELS": str(self.spans).lower(),
            "BRIDGE_PASS_SECONDS": "1",
        }

    def two_passes(self, *, seconds: float) -> None:
        """Wait until each panel has had two whole passes that began after now.

        The first pass that ends may have begun before; AssertionError after `seconds`.
        """
        ended: dict[str, list[float]] = {panel: [] for panel in PANELS}

        def are_done() -> bool:
            self.runs(BRIDGE)
            try:
                for panel, at in self.passes().items():
                    if at not in ended[panel]:
                        ended[panel].append(at)
            except AwayError:
                return False
            return all(len(each) >= 4 for each in ended.values())

        until(f"two passes over each panel; {self._why()}", are_done, seconds=seconds)

    def _why(self) -> str:
        try:
            return json.dumps(self.reasons())
        except AwayError as error:
            return str(error)

    @property
    def now(self) -> float:
        """The clock by which gateways note what was asked."""
        return time.monotonic()


def _secret(panel: str) -> str:
    return f"the-webhook-secret-of-{panel}"
