"""A collector process and a real VictoriaMetrics: each report is there once, whatever ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from collector.ledger.sqlite.reader import SqliteReader
from collector.schema import Policy
from tests.support.collector.collector_process import KEY, CollectorProcess, poll
from tests.support.engines import victoria_engine
from tests.support.engines.victoria_engine import VictoriaEngine

pytestmark = pytest.mark.skipif(
    not victoria_engine.is_here(), reason="no victoria-metrics on the PATH"
)
BATCH = 5000
ROUNDS = 6


@pytest.fixture
def victoria(tmp_path) -> Iterator[VictoriaEngine]:
    (tmp_path / "data").mkdir()
    with closing(VictoriaEngine(tmp_path / "data")) as engine:
        yield engine


@pytest.fixture
def collector(tmp_path, victoria) -> Iterator[CollectorProcess]:
    process = CollectorProcess(tmp_path, victoria.environment())
    process.start()
    yield process
    process.kill()


def send(collector: CollectorProcess, number: int) -> None:
    """Post a batch whose reports are of a second of their own."""
    at = datetime.now(UTC) - timedelta(minutes=1 + number)
    reports = [
        {
            "report_id": f"{number}-{n}",
            "reported_at": at.isoformat(),
            "user_token": f"user{n % 700}",
            "server": "de 1",
            "port": 443,
            "protocol": "vless",
            "bytes_uploaded": n,
            "bytes_downloaded": 1,
        }
        for n in range(1, BATCH + 1)
    ]
    url = f"http://127.0.0.1:{collector.port}/v1/reports"
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(url, json=reports, headers=headers, timeout=120)
    assert answer.json()["accepted"] == BATCH, answer.text


def test_each_report_is_a_sample_once_whatever_ends_meanwhile(collector, victoria):
    for number in range(ROUNDS):
        send(collector, number)
        if number == 2:
            victoria.stop()
        if number == 4:
            victoria.start()
            collector.kill()
            collector.start()
    with closing(SqliteReader(collector.ledger)) as reader:
        poll("an empty backlog", lambda: not reader.backlog(Policy.RAW).reports, seconds=240)
    assert victoria.sums("traffic_download_bytes") == (ROUNDS * BATCH, ROUNDS * BATCH)
    assert victoria.sums("traffic_upload_bytes")[1] == ROUNDS * BATCH * (BATCH + 1) // 2
    status = collector.run("export", "status")
    assert (status.returncode, "traffic/daily" in status.stdout) == (0, False)
    assert "INFLUXDB_KIND is victoriametrics" in collector.run("bootstrap").stderr
    assert collector.run("export", "rebuild").returncode == 0
    with closing(SqliteReader(collector.ledger)) as reader:
        poll("all exported again", lambda: not reader.backlog(Policy.RAW).reports, seconds=240)
    assert victoria.sums("traffic_download_bytes") == (ROUNDS * BATCH, ROUNDS * BATCH)
