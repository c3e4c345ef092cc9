"""Several collectors on one PostgreSQL ledger, and what may befall them; clients that know the truth."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import psycopg

from marzban_bridge.feed.ledger_runs import WriterRun, learn, went_back
from tests.support.collector.collector_process import ADMIN_KEY, KEY, CollectorProcess, poll
from tests.support.ending import ending_on_failure
from tests.support.engines.postgres_server import PostgresServer
from tests.support.tcp_proxy import TcpProxy

DRAIN_SECONDS = 90


class Cluster:
    """A durable PostgreSQL and collectors, each with a line of its own to it."""

    def __init__(
        self, folder: Path, collectors: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self.server = PostgresServer(is_durable=True)
        self.server.start()
        self.database = self.server.new_database()
        self.url = self.server.url(self.database)
        self.lines = [TcpProxy(self.server.port) for _ in range(collectors)]
        self.collectors = []
        for number, line in enumerate(self.lines):
            home = folder / f"collector-{number}"
            home.mkdir()
            ours = {
                "LEDGER_URL": self.server.url(self.database, port=line.port),
                "COLLECTOR_KEY_REQUESTS_PER_SECOND": "0",
            }
            self.collectors.append(CollectorProcess(home, ours | dict(environment or {})))
        self.ports = [each.port for each in self.collectors]

    def start(self) -> None:
        """Start all collectors, and wait until they can store."""
        with ending_on_failure(self.close):
            for each in self.collectors:
                each.start()

    def close(self) -> None:
        """End everything."""
        for each in self.collectors:
            if each.pid is not None:
                with contextlib.suppress(OSError):
                    os.kill(each.pid, signal.SIGCONT)
            each.kill()
        for line in self.lines:
            line.close()
        self.server.close()

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the database itself."""
        with psycopg.connect(self.url, options="-c search_path=traffic") as db:
            return db.execute(query).fetchall()

    def leader(self) -> int | None:
        """Return which collector holds the lease."""
        ((holder, is_valid),) = self.ask(
            "SELECT holder, expires_at > clock_timestamp() FROM lease WHERE name = 'leader'"
        )
        pid = int(holder.rpartition(":")[2] or 0)
        found = [number for number, each in enumerate(self.collectors) if each.pid == pid]
        return found[0] if is_valid and found else None

    def until_led(self, *, by_another_than: int | None = None, seconds: float = 120) -> float:
        """Wait until somebody leads; return how many seconds that took."""
        started_at = time.monotonic()

        def is_so() -> bool:
            leader = self.leader()
            return leader is not None and leader != by_another_than

        poll("another leader", is_so, seconds=seconds)
        return time.monotonic() - started_at


class TrueBooks:
    """What was acknowledged; for several threads."""

    def __init__(self) -> None:
        self.bytes: Counter[str] = Counter()
        self.reports = 0
        self.retries = 0
        self.again = 0
        self.defects: list[str] = []
        self._guard = threading.Lock()

    def landed(self, reports: list[dict[str, Any]]) -> None:
        """Write down what was acknowledged."""
        with self._guard:
            self.reports += len(reports)
            for each in reports:
                self.bytes[each["user_token"]] += each["bytes_uploaded"] + each["bytes_downloaded"]


class WanderingSender(threading.Thread):
    """Sends reports, each until it is acknowledged: every try at another collector."""

    def __init__(
        self, number: int, ports: list[int], books: TrueBooks, stop: threading.Event, *, seed: int
    ) -> None:
        super().__init__(name=f"sender-{number}", daemon=True)
        self._ports = ports
        self._books = books
        self._stop_asked = stop
        self._dice = random.Random(f"{seed}-{number}")
        self._ids = (f"{number}-{n}" for n in itertools.count())
        self._lines: dict[int, http.client.HTTPConnection] = {}

    def run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                reports = [self._report() for _ in range(self._dice.choice((1, 1, 5, 40)))]
                port = self._deliver(reports, self._dice.choice(self._ports))
                self._books.landed(reports)
                if self._dice.random() < 0.05:
                    self._send_again(reports, port)
                time.sleep(self._dice.expovariate(50))
        except Exception as error:  # noqa: BLE001 - the verdict says so
            self._books.defects.append(f"{self.name} ended: {error!r}")
        for line in self._lines.values():
            line.close()

    def _report(self) -> dict[str, Any]:
        return {
            "report_id": next(self._ids),
            "user_token": f"user{self._dice.randrange(30)}",
            "server": f"server{self._dice.randrange(4)}",
            "port": 443,
            "protocol": "vless",
            "bytes_uploaded": self._dice.randrange(1, 2**30),
            "bytes_downloaded": self._dice.randrange(2**30),
        }

    def _another(self, port: int) -> int:
        others = [each for each in self._ports if each != port]
        return self._dice.choice(others or self._ports)

    def _deliver(self, reports: list[dict[str, Any]], port: int) -> int:
        deadline = time.monotonic() + DRAIN_SECONDS
        while (status := self._post(reports, port)[0]) != 200:
            if status not in {0, 429, 503, 507}:
                self._books.defects.append(f"a good report was answered with {status}")
            assert time.monotonic() < deadline, "nobody takes reports any more"
            self._books.retries += 1
            port = self._another(port)
            time.sleep(0.05)
        return port

    def _send_again(self, reports: list[dict[str, Any]], port: int) -> None:
        """Send what is acknowledged once more, as a client does that lost the answer."""
        status, answer = self._post(reports, self._another(port))
        if status == 200:
            self._books.again += 1
            if answer["duplicates"] != len(reports) or answer["accepted"]:
                self._books.defects.append(f"known reports were answered with {answer}")

    def _post(self, reports: list[dict[str, Any]], port: int) -> tuple[int, dict[str, Any]]:
        line = self._lines.get(port)
        if line is None:
            line = self._lines[port] = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
        try:
            headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
            line.request("POST", "/v1/reports", json.dumps(reports), headers)
            answer = line.getresponse()
            return answer.status, json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError):
            line.close()
            del self._lines[port]
            return 0, {}


class WanderingReader(threading.Thread):
    """Follows the feed as the bridge does, at whichever collector answers."""

    def __init__(self, ports: list[int], stop: threading.Event, *, seed: int) -> None:
        super().__init__(name="reader", daemon=True)
        self._ports = ports
        self._stop_asked = stop
        self._dice = random.Random(seed)
        self.seen: dict[str, int] = {}
        self.cursor = 0
        self.pages = 0
        self.defects: list[str] = []
        self._runs: tuple[WriterRun, ...] = ()

    def run(self) -> None:
        with httpx.Client(timeout=10, trust_env=False) as client:
            while True:
                was_asked = self._stop_asked.is_set()
                page = self._read(client)
                if page is not None:
                    self._take(page)
                    if was_asked and not page["changes"]:
                        return

    def _read(self, client: httpx.Client) -> dict[str, Any] | None:
        url = f"http://127.0.0.1:{self._dice.choice(self._ports)}/v1/usage/changes"
        wait = 0 if self._stop_asked.is_set() else 1
        parameters = {"after": self.cursor, "wait": wait, "limit": self._dice.choice((3, 1000))}
        try:
            answer = client.get(
                url, params=parameters, headers={"authorization": f"Bearer {ADMIN_KEY}"}
            )
        except httpx.HTTPError:
            time.sleep(0.05)
            return None
        if answer.status_code != 200:
            if answer.status_code != 503:
                self.defects.append(f"a reader was answered with {answer.status_code}")
            time.sleep(0.05)
            return None
        page: dict[str, Any] = answer.json()
        return page

    def _take(self, page: dict[str, Any]) -> None:
        runs = [WriterRun(**each) for each in page["runs"]]
        if went_back(self._runs, runs, cursor=self.cursor, head=page["head"]):
            self.defects.append(f"the ledger seemed to go back at {self.cursor}: {page['head']}")
        self.cursor = page["next"]
        self._runs = learn(self._runs, runs, cursor=self.cursor)
        self.pages += 1
        for each in page["changes"]:
            total = each["upload_bytes"] + each["download_bytes"]
            if total < self.seen.get(each["username"], 0):
                self.defects.append(f"{each['username']}'s total fell")
            self.seen[each["username"]] = total


class Accidents:
    """What may befall a cluster; each is over when it returns. Leaders are hit more often."""

    def __init__(self, cluster: Cluster, dice: random.Random) -> None:
        self._cluster = cluster
        self._dice = dice
        self.counts: Counter[str] = Counter()
        self.failovers: list[float] = []
        self._all: list[Callable[[], None]] = [
            self.kill_a_collector,
            self.kill_the_leader,
            self.freeze_the_leader,
            self.crash_the_server,
            self.cut_the_leader_off,
            self.cut_a_collector_off,
            self.break_all_lines,
        ]

    def cause(self) -> str:
        """Have one happen; every kind comes in turn. Return what it was."""
        kinds = len(self._all)
        turn, place = divmod(self.counts.total(), kinds)
        order = random.Random(turn).sample(self._all, kinds)
        accident = order[place]
        name = accident.__name__.replace("_", " ")
        self.counts[name] += 1
        accident()
        return name

    def _pause(self, longest_seconds: float) -> None:
        time.sleep(self._dice.uniform(0.1, longest_seconds))

    def _leader(self) -> int:
        leader = self._cluster.leader()
        return self._dice.randrange(len(self._cluster.collectors)) if leader is None else leader

    def kill_a_collector(self) -> None:
        collector = self._dice.choice(self._cluster.collectors)
        collector.kill()
        self._pause(0.5)
        collector.start()

    def kill_the_leader(self) -> None:
        number = self._leader()
        self._cluster.collectors[number].kill()
        self.failovers.append(self._cluster.until_led(by_another_than=number))
        self._cluster.collectors[number].start()

    def freeze_the_leader(self) -> None:
        number = self._leader()
        pid = self._cluster.collectors[number].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            self.failovers.append(self._cluster.until_led(by_another_than=number))
        finally:
            os.kill(pid, signal.SIGCONT)

    def crash_the_server(self) -> None:
        self._cluster.server.crash()
        self._pause(1.0)
        self._cluster.server.start()

    def cut_the_leader_off(self) -> None:
        number = self._leader()
        self._cluster.lines[number].freeze()
        try:
            self.failovers.append(self._cluster.until_led(by_another_than=number))
        finally:
            self._cluster.lines[number].thaw()

    def cut_a_collector_off(self) -> None:
        line = self._dice.choice(self._cluster.lines)
        line.freeze()
        self._pause(3.0)
        line.thaw()

    def break_all_lines(self) -> None:
        for line in self._cluster.lines:
            line.cut()
