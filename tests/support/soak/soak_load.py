"""Reporters of several kinds that know the truth: what was acknowledged, to whom, and how often."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx

from tests.support.processes import REPORTER_KEY, until

MAX_REPORT_BYTES = 2 * 2**20
DUPLICATE_SHARE = GARBAGE_SHARE = 0.01
RETRIED = {429, 503, 507}
DRAIN_SECONDS = 180

GARBAGE: tuple[bytes, ...] = (
    b"",
    b"{",
    b"\xff\xfe\x00garbage",
    b"[]",
    b"null",
    b'"a report"',
    b"[[[[[[[[[[",
    b'{"user_token": "user0"}',
    *(
        json.dumps(
            {
                "user_token": "user0",
                "server": "de-1",
                "port": 443,
                "protocol": "vless",
                "bytes_uploaded": 1,
                "bytes_downloaded": 1,
            }
            | wrong
        ).encode()
        for wrong in (
            {"bytes_uploaded": -1},
            {"bytes_downloaded": 1.5},
            {"bytes_downloaded": 2**63},
            {"bytes_uploaded": True},
            {"port": 70_000},
            {"server": "x" * 5000},
            {"server": "line\nbreak"},
            {"user_token": "ends in \\"},
            {"user_token": None},
            {"reported_at": "2001-01-01T00:00:00Z"},
            {"protocol": ["vless"]},
        )
    ),
)


class Books:
    """What was acknowledged, by user; safe for several threads."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.bytes: Counter[str] = Counter()
        self.reports = 0
        self.corrected_bytes = 0
        self.adjustments = 0
        self.voided = 0
        self.duplicates = 0
        self.garbage = 0
        self.retries: Counter[str] = Counter()
        self.defects: list[str] = []
        self._lock = threading.Lock()
        self._quiet: set[str] = set()
        self._in_flight: Counter[str] = Counter()

    def choose(self, dice: random.Random, count: int) -> list[str]:
        """Return whom to report for; they are in flight until `landed`."""
        with self._lock:
            open_names = [name for name in self.names if name not in self._quiet]
            chosen = dice.choices(open_names, k=count) if open_names else []
            self._in_flight.update(chosen)
            return chosen

    def landed(self, reports: list[dict[str, Any]], *, were_chosen: bool = True) -> None:
        """Write down what was acknowledged; `were_chosen`: their users were, by `choose`."""
        with self._lock:
            self.reports += len(reports)
            for each in reports:
                name = each["user_token"]
                self.bytes[name] += each["bytes_uploaded"] + each["bytes_downloaded"]
                self._in_flight[name] -= were_chosen

    def corrected(self, taken_off_bytes: int, *, adjustments: int = 0, voided: int = 0) -> None:
        """Write down what was taken out of the sums again; totals of users go on growing."""
        with self._lock:
            self.corrected_bytes += taken_off_bytes
            self.adjustments += adjustments
            self.voided += voided

    def note(self, defect: str) -> None:
        """Write down something that must not happen."""
        print(f"defect: {defect}", flush=True)  # noqa: T201 - at once, to be seen among accidents
        with self._lock:
            self.defects.append(defect)

    @contextlib.contextmanager
    def quiet(self, name: str) -> Iterator[int]:
        """Have nothing reported for a user; yield what was acknowledged for it until then."""
        with self._lock:
            self._quiet.add(name)
        try:
            until(
                f"no report of {name} is in flight",
                lambda: not self._in_flight[name],
                seconds=DRAIN_SECONDS,
            )
            yield self.bytes[name]
        finally:
            with self._lock:
                self._quiet.discard(name)


class Sender(threading.Thread):
    """Sends until told to stop; each report until it is acknowledged."""

    def __init__(
        self,
        number: int,
        url: str,
        books: Books,
        stop: threading.Event,
        *,
        seed: int,
        pause_seconds: float,
    ) -> None:
        super().__init__(name=f"sender-{number}", daemon=True)
        self._number = number
        self._url = url
        self._books = books
        self._stop_asked = stop
        self._pause_seconds = pause_seconds
        self._dice = random.Random(f"{seed}-{number}")
        self._sent = 0
        self._landed: list[dict[str, Any]] = []
        self._client = httpx.Client(
            timeout=10, headers={"authorization": f"Bearer {REPORTER_KEY}"}, trust_env=False
        )

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                self._step()
                time.sleep(self._dice.expovariate(1 / self._pause_seconds))
        except Exception as error:  # noqa: BLE001 - the verdict says so
            self._books.note(f"{self.name} ended: {error!r}")
        finally:
            self._client.close()

    def _step(self) -> None:
        if self._dice.random() < GARBAGE_SHARE:
            self._send_garbage()
        if self._number % 4 == 3:
            self._send_original()
            return
        names = self._books.choose(self._dice, self._dice.choice((1, 1, 2, 10)))
        reports = [self._report(name) for name in names]
        repeated = sum(self._dice.random() < DUPLICATE_SHARE for _ in reports)
        again = self._dice.sample(self._landed, min(repeated, len(self._landed)))
        if not reports:
            return
        answer = self._until_taken("/v1/reports", [*reports, *again])
        if answer["accepted"] + answer["duplicates"] != len(reports) + len(again):
            self._books.note(f"good reports were refused: {answer}")
        self._books.duplicates += len(again)
        self._books.landed(reports)
        self._landed = (self._landed + reports)[-100:]

    def _send_original(self) -> None:
        """Post as the original one-report form does, with its id in a header."""
        for name in self._books.choose(self._dice, 1):
            report = self._report(name)
            headers = {"idempotency-key": report.pop("report_id")}
            self._until_taken("/api/xpert/traffic-webhook", report, headers)
            self._books.landed([report])

    def _report(self, name: str) -> dict[str, Any]:
        self._sent += 1
        amount = self._dice.randrange(1, MAX_REPORT_BYTES)
        return {
            "report_id": f"{self.name}-{self._sent}",
            "user_token": name,
            "server": f"server-{self._dice.randrange(4)}",
            "port": self._dice.choice((443, 8443)),
            "protocol": self._dice.choice(("vless", "trojan")),
            "bytes_uploaded": amount // 3,
            "bytes_downloaded": amount - amount // 3,
        }

    def _until_taken(
        self, path: str, content: Any, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        body = json.dumps(content).encode()
        headers = {"content-type": "application/json"} | (headers or {})
        if self._number % 4 == 2:
            body, headers["content-encoding"] = gzip.compress(body), "gzip"
        while True:
            try:
                answer = self._client.post(self._url + path, content=body, headers=headers)
            except httpx.HTTPError as error:
                self._books.retries[type(error).__name__] += 1
            else:
                if answer.status_code == 200:
                    found: dict[str, Any] = answer.json()
                    return found
                self._books.retries[str(answer.status_code)] += 1
                if answer.status_code not in RETRIED:
                    self._books.note(f"{path} answers {answer.status_code}: {answer.text[:200]}")
            time.sleep(self._dice.uniform(0.05, 0.3))

    def _send_garbage(self) -> None:
        path = self._dice.choice(("/v1/reports", "/api/xpert/traffic-webhook"))
        content = self._dice.choice(GARBAGE)
        try:
            answer = self._client.post(
                self._url + path, content=content, headers={"content-type": "application/json"}
            )
        except httpx.HTTPError:
            return
        self._books.garbage += 1
        is_refusal = 400 <= answer.status_code < 500 or answer.status_code in RETRIED
        if not is_refusal and answer.text.find('"accepted":0') < 0:
            self._books.note(f"garbage {content[:60]!r} was answered {answer.status_code}")
