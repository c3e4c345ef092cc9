"""A collector process and a real InfluxDB: whatever ends meanwhile, all three books agree."""

from __future__ import annotations

import os
import random
import time
from contextlib import closing

import httpx
import pytest

from collector.ledger.sqlite.reader import SqliteReader
from collector.schema import Policy
from tests.support.collector.collector_process import ADMIN_KEY, KEY, CollectorProcess, poll

REPORTS = int(os.environ.get("EXPORT_TEST_REPORTS", "200000"))
OUTAGE_SECONDS = float(os.environ.get("EXPORT_TEST_OUTAGE_SECONDS", "3"))
BATCH = 5000
SERVERS = ("de 1", "a,b=c", 'say "hi"', "сервер-3 🚀")
SUMS = (
    'SELECT sum("upload_bytes") AS up, sum("download_bytes") AS down, count("upload_bytes") AS n '
    'FROM "{policy}"."traffic"'
)


class Sender:
    """Sends batches, keeps the books of what is acknowledged, and repeats a tenth of it."""

    def __init__(self, collector: CollectorProcess) -> None:
        self._collector = collector
        self._random = random.Random(7)
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{collector.port}",
            headers={"authorization": f"Bearer {KEY}"},
            timeout=60,
        )
        self._sent: list[dict] = []
        self.upload_bytes = self.download_bytes = self.reports = 0

    def send(self, count: int) -> None:
        for _ in range(0, count, BATCH):
            fresh = [self._report(self.reports + n) for n in range(BATCH)]
            repeated = self._random.sample(self._sent, min(len(self._sent), BATCH // 10))
            self._post([*fresh, *repeated])
            self.upload_bytes += sum(each["bytes_uploaded"] for each in fresh)
            self.download_bytes += sum(each["bytes_downloaded"] for each in fresh)
            self.reports += len(fresh)
            self._sent = fresh

    def _report(self, number: int) -> dict:
        return {
            "report_id": str(number),
            "user_token": f"user{number % 97}",
            "server": SERVERS[number % len(SERVERS)],
            "port": 443,
            "protocol": "vless",
            "bytes_uploaded": self._random.randrange(1, 2**30),
            "bytes_downloaded": self._random.randrange(1, 2**33),
        }

    def _post(self, batch: list[dict]) -> None:
        while True:
            try:
                answer = self._client.post("/v1/reports", json=batch)
            except httpx.HTTPError:
                time.sleep(0.1)  # it is being restarted; sending again is what ids are for
                continue
            assert answer.status_code == 200, answer.text
            return

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def collector(tmp_path, influx):
    unbounded = {"COLLECTOR_KEY_HOUR_BYTES": str(2**60), "COLLECTOR_KEY_DAY_BYTES": str(2**61)}
    process = CollectorProcess(tmp_path, {**influx.environment(), **unbounded})
    process.start()
    yield process
    process.kill()


@pytest.fixture
def sender(collector):
    opened = Sender(collector)
    yield opened
    opened.close()


def sums(influx, policy: str) -> tuple[int, int, int]:
    rows = influx.query(SUMS.format(policy=policy))
    return (rows[0]["up"], rows[0]["down"], rows[0]["n"]) if rows else (0, 0, 0)


def until_exported(collector, sender, influx, *, seconds: float = 120) -> None:
    with closing(SqliteReader(collector.ledger)) as reader:

        def is_done() -> bool:
            return not any(reader.backlog(policy).reports for policy in Policy)

        poll("both streams at the end of the ledger", is_done, seconds=seconds)
    status = collector.run("export", "status")
    assert status.returncode == 0, status.stdout
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    found = httpx.get(f"http://127.0.0.1:{collector.port}/v1/usage", headers=headers).json()
    ledger = (found["upload_bytes"], found["download_bytes"])
    assert (*ledger, found["reports"]) == (
        sender.upload_bytes,
        sender.download_bytes,
        sender.reports,
    )
    assert sums(influx, "raw") == (*ledger, sender.reports)
    assert sums(influx, "daily")[:2] == ledger


def test_raw_and_daily_sum_to_the_ledger_whatever_ends_meanwhile(collector, sender, influx):
    sender.send(REPORTS // 4)
    influx.stop()
    influx.start()  # in the middle of an export
    sender.send(REPORTS // 4)
    collector.kill()
    collector.start()  # likewise
    influx.stop()
    began_at = time.monotonic()
    sender.send(REPORTS // 2)  # nobody notices
    time.sleep(max(0.0, OUTAGE_SECONDS - (time.monotonic() - began_at)))
    status = collector.run("export", "status")
    assert (status.returncode, "does not answer" in status.stdout) == (1, True)
    influx.start()
    until_exported(collector, sender, influx)
    known = {
        row["value"] for row in influx.query('SHOW TAG VALUES FROM "traffic" WITH KEY = "server"')
    }
    assert known == set(SERVERS)


def test_exporting_again_adds_nothing_and_fills_an_empty_influxdb(collector, sender, influx):
    sender.send(4 * BATCH)
    until_exported(collector, sender, influx)
    before = sums(influx, "raw"), sums(influx, "daily")
    assert "20,000 reports" in collector.run("export", "rebuild").stdout
    sender.send(BATCH)
    until_exported(collector, sender, influx)
    assert (before[0][2] + BATCH, before[1][2]) == (
        sums(influx, "raw")[2],
        sums(influx, "daily")[2],
    )
    influx.reset()
    assert sums(influx, "raw") == (0, 0, 0)
    collector.run("export", "rebuild")
    until_exported(collector, sender, influx)
