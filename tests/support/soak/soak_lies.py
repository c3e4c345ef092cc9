"""A world that lies, for a soak: a panel emptied or restored for a while, lists that are refused,
names that are no user's, and a user who reports for itself as much as the bounds allow.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx

from tests.support.processes import BRIDGE, COLLECTOR, PANEL, REPORTER_KEY, Stack, until
from tests.support.soak.soak_load import RETRIED, Books

LIST_STATUSES = (400, 413, 414, 429, 503)
STRANGE_NAMES = ("x" * 255, "é" * 120, "a b", "u", "../admin", "no\u200bbody", "😀" * 60)
REFUSED_NAMES = (" user0", "user0 ", "user0\t")
UP_SECONDS = 180
GREEDY_BYTES = 64 * 2**20
GREEDY_BOUNDS = {
    "COLLECTOR_USER_REQUEST_BYTES": str(2**30),
    "COLLECTOR_USER_HOUR_BYTES": str(2 * 2**30),
    "COLLECTOR_USER_DAY_BYTES": str(4 * 2**30),
    "COLLECTOR_USER_SERVERS_PER_DAY": "16",
}
"""What a user who reports for itself meets within a minute."""


class LyingPanel:
    """Exchanges the panel's database while it is stopped, as restores and wrong volumes do."""

    def __init__(
        self,
        stack: Stack,
        faults: Path,
        *,
        guard: AbstractContextManager[object],
        paused: Callable[[], AbstractContextManager[object]],
        dice: random.Random,
        seconds: float,
    ) -> None:
        self._stack = stack
        self._faults = faults
        self._guard = guard
        self._paused = paused
        self._dice = dice
        self._seconds = seconds
        self._database = stack.folder / "panel.json"
        self._backup = stack.folder / "panel.backup.json"

    def empty(self) -> str:
        """Start the panel without a user, and then with all of them."""
        with self._paused(), self._guard:
            newest = self._stopped()
            self._live_with(json.dumps({**json.loads(newest), "users": []}))
            self._live_with(newest, seconds=0)
        return f"a panel without a user for {self._seconds:.0f} s"

    def restore(self) -> str:
        """Start the panel from a backup, and then as it was; keep a backup for the next time."""
        with self._paused(), self._guard:
            newest = self._stopped()
            if self._backup.exists():
                self._live_with(self._backup.read_text(encoding="utf-8"))
            self._live_with(newest)
            shutil.copy(self._database, self._backup)
            self._accept()
        return f"a panel restored from a backup for {self._seconds:.0f} s"

    def _accept(self) -> None:
        """Accept the panel where its rows are older than what the bridge wrote to the backup.

        A backup of before the first write shows quotas, which the bridge follows.
        """
        ready = f"{self._stack.urls[BRIDGE]}/readyz"
        try:
            reasons = str(self._stack.client.get(ready).json()["reasons"])
        except (httpx.HTTPError, ValueError, KeyError):
            return
        if "rebase --panel" in reasons:
            self._stack.run("marzban_bridge", "rebase", "--panel", "default", "--yes")

    def refuse_lists(self) -> str:
        """Have each list of users refused, as by a web server before the panel."""
        status = self._dice.choice(LIST_STATUSES)
        self._faults.write_text(json.dumps({"list_status": status}))
        time.sleep(self._seconds)
        self._faults.unlink()
        return f"lists of users were answered {status}"

    def carry_out_late(self) -> str:
        """Have writes carried out after the bridge has given them up."""
        self._faults.write_text(json.dumps({"late_put_seconds": self._seconds}))
        time.sleep(2 * self._seconds)
        self._faults.unlink()
        return f"writes were carried out {self._seconds:.0f} s after they were given up"

    def _stopped(self) -> str:
        self._stack.stop(PANEL, signal.SIGTERM)
        return self._database.read_text(encoding="utf-8")

    def _live_with(self, database: str, *, seconds: float | None = None) -> None:
        if self._stack.pid(PANEL):
            self._stack.stop(PANEL, signal.SIGTERM)
        self._database.write_text(database, encoding="utf-8")
        self._stack.start(PANEL)
        until("the panel is back", lambda: self._stack.is_up(PANEL), seconds=UP_SECONDS)
        time.sleep(self._seconds if seconds is None else seconds)


class Stranger(threading.Thread):
    """Reports for names that no panel can have, with a key, and some with made-up bearers."""

    def __init__(
        self, stack: Stack, books: Books, stop: threading.Event, *, seed: int, pause_seconds: float
    ) -> None:
        super().__init__(name="stranger", daemon=True)
        self._stack = stack
        self._books = books
        self._stop_asked = stop
        self._dice = random.Random(f"{seed}-stranger")
        self._pause_seconds = pause_seconds
        self._client = httpx.Client(timeout=10, trust_env=False)
        self._sent = 0

    def run(self) -> None:
        try:
            while not self._stop_asked.wait(self._dice.expovariate(1 / self._pause_seconds)):
                self._dice.choice((self._report_strange, self._report_refused, self._make_up))()
        except Exception as error:  # noqa: BLE001 - the verdict says so
            self._books.note(f"the stranger ended: {error!r}")
        finally:
            self._client.close()

    def _report(self, name: str) -> dict[str, object]:
        self._sent += 1
        return {
            "report_id": f"stranger-{self._sent}",
            "user_token": name,
            "server": "server-0",
            "port": 443,
            "protocol": "vless",
            "bytes_uploaded": 1,
            "bytes_downloaded": 1,
        }

    def _report_strange(self) -> None:
        report = self._report(self._dice.choice(STRANGE_NAMES))
        while (answer := self._post(report)) is None or answer.status_code in RETRIED:
            time.sleep(0.2)
        if answer.status_code == 200:
            self._books.landed([report], were_chosen=False)
        elif answer.status_code != 422:
            self._books.note(f"a strange name was answered {answer.status_code}")

    def _report_refused(self) -> None:
        answer = self._post(self._report(self._dice.choice(REFUSED_NAMES)))
        if answer is not None and answer.status_code not in {422, *RETRIED}:
            self._books.note(f"a name with outer blanks was answered {answer.status_code}")

    def _make_up(self) -> None:
        url, path = self._dice.choice(
            (
                (self._stack.urls[COLLECTOR], "/v1/reports"),
                (self._stack.urls[BRIDGE], "/v1/users"),
            )
        )
        method = "POST" if path.endswith("reports") else "GET"
        headers = {"authorization": f"Bearer made-up-{self._dice.random()}"}
        try:
            answer = self._client.request(method, url + path, content=b"[]", headers=headers)
        except httpx.HTTPError:
            return
        if answer.status_code not in {401, *RETRIED}:
            self._books.note(f"a made-up bearer was answered {answer.status_code} by {path}")

    def _post(self, report: dict[str, object]) -> httpx.Response | None:
        try:
            return self._client.post(
                f"{self._stack.urls[COLLECTOR]}/v1/reports",
                json=[report],
                headers={"authorization": f"Bearer {REPORTER_KEY}"},
            )
        except httpx.HTTPError:
            return None


class Greedy(threading.Thread):
    """A user who reports for itself all that it may, and is told when it is too much."""

    def __init__(
        self,
        stack: Stack,
        books: Books,
        stop: threading.Event,
        *,
        username: str,
        pause_seconds: float,
    ) -> None:
        super().__init__(name="greedy", daemon=True)
        self._stack = stack
        self._books = books
        self._stop_asked = stop
        self._username = username
        self._pause_seconds = pause_seconds
        self._client = httpx.Client(timeout=10, trust_env=False)
        self._sent = 0
        self.refused = 0

    def run(self) -> None:
        try:
            token = None
            while not self._stop_asked.wait(self._pause_seconds):
                token = token or self._token()
                if token:
                    self._report(token)
        except Exception as error:  # noqa: BLE001 - the verdict says so
            self._books.note(f"the greedy user ended: {error!r}")
        finally:
            self._client.close()

    def _token(self) -> str | None:
        """Return the user's subscription token; None while the panel is away or empty."""
        try:
            user = self._stack.user(self._username)
        except (httpx.HTTPError, AssertionError):
            return None
        return str(user["subscription_url"]).rpartition("/")[2]

    def _report(self, token: str) -> None:
        """Send one large report on a server of its own until there is a verdict about it."""
        self._sent += 1
        report = {
            "report_id": f"greedy-{self._sent}",
            "user_token": token,
            "server": f"made-up-{self._sent}",
            "port": 443,
            "protocol": "vless",
            "bytes_uploaded": GREEDY_BYTES,
            "bytes_downloaded": 0,
        }
        was_unanswered = False
        while not self._stop_asked.is_set():
            try:
                answer = self._client.post(
                    f"{self._stack.urls[COLLECTOR]}/v1/reports", json=[report]
                )
            except httpx.HTTPError:
                was_unanswered = True
                time.sleep(0.2)
                continue
            if answer.status_code == 200:
                self._landed(report)
                return
            if answer.status_code == 429:
                self.refused += 1
                break
            if answer.status_code == 401:  # the panel that is to know the token is empty
                break
            if answer.status_code not in RETRIED:
                self._books.note(f"a user who reports for itself was answered {answer.text[:200]}")
                break
            time.sleep(0.2)
        if was_unanswered and self._is_counted(str(report["server"])):
            self._landed(report)

    def _landed(self, report: dict[str, object]) -> None:
        self._books.landed([report | {"user_token": self._username}], were_chosen=False)

    def _is_counted(self, server: str) -> bool:
        """Tell whether the ledger has a report that no answer acknowledged, by its own server."""
        found: list[dict[str, object]] = []

        def is_answered() -> bool:
            try:
                page = self._stack.ask_collector(f"/v1/usage/{self._username}?limit=1000")
                found[:] = page["servers"]
            except (httpx.HTTPError, ValueError, KeyError):
                return False
            return True

        until("the collector answers", is_answered, seconds=UP_SECONDS)
        return server in {each["server"] for each in found}
