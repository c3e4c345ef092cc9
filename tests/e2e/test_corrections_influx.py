"""A void and a real InfluxDB: raw points, days and the ledger sum to the same, whatever is away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from collector.ledger.engines import backend_of
from collector.schema import Policy
from tests.support.collector.collector_process import ADMIN_KEY, KEY, CollectorProcess, poll
from tests.support.engines.influx_engine import InfluxEngine

OTHER_KEY = "rk_another-key-of-the-process-tests"
SUMS = (
    'SELECT sum("upload_bytes") AS up, sum("download_bytes") AS down, sum("billed_bytes") AS billed'
    ', sum("connections") AS connections FROM "{policy}"."traffic"'
)


@pytest.fixture(params=["sqlite", "postgres"])
def collector(
    request: pytest.FixtureRequest, tmp_path: Path, influx: InfluxEngine
) -> Iterator[CollectorProcess]:
    environment = {
        **influx.environment(),
        "COLLECTOR_REPORTER_KEYS": f"load:{KEY},honest:{OTHER_KEY}",
    }
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        environment["LEDGER_URL"] = server.url(server.new_database())
    process = CollectorProcess(tmp_path, environment)
    process.start()
    yield process
    process.kill()


def send(collector: CollectorProcess, key: str, *amounts: int) -> None:
    """Report for alice, in one request, all on the same series."""
    reports = [
        {
            "user_token": "alice",
            "server": "de 1",
            "port": 443,
            "protocol": "vless",
            "bytes_uploaded": amount,
            "bytes_downloaded": 2 * amount,
        }
        for amount in amounts
    ]
    answer = httpx.post(
        f"http://127.0.0.1:{collector.port}/v1/reports",
        json=reports,
        headers={"authorization": f"Bearer {key}"},
    )
    assert answer.json()["accepted"] == len(amounts), answer.text


def ledger_sums(collector: CollectorProcess) -> dict[str, Any]:
    found = httpx.get(
        f"http://127.0.0.1:{collector.port}/v1/usage",
        headers={"authorization": f"Bearer {ADMIN_KEY}"},
    ).json()
    return {
        "up": found["upload_bytes"],
        "down": found["download_bytes"],
        "billed": found["billed_bytes"],
        "connections": found["connections"],
    }


def sums(influx: InfluxEngine, policy: str) -> dict[str, Any]:
    (row,) = influx.query(SUMS.format(policy=policy))
    return {name: row[name] for name in ("up", "down", "billed", "connections")}


def until_exported(collector: CollectorProcess) -> None:
    with closing(backend_of(collector._environment["LEDGER_URL"]).reader()) as reader:
        poll(
            "both streams at the end of the ledger",
            lambda: not any(reader.backlog(policy).reports for policy in Policy),
            seconds=90,
        )


def void(collector: CollectorProcess) -> None:
    done = collector.run("void", "--reporter", "load", "--since", "1d", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "voided" in done.stdout


@pytest.mark.timeout(240)
def test_raw_and_daily_sum_to_the_ledger_after_a_void(collector, influx):
    send(collector, KEY, 10**11, 7)
    send(collector, OTHER_KEY, 5)
    until_exported(collector)
    assert sums(influx, "raw")["up"] == 10**11 + 12
    void(collector)
    until_exported(collector)
    expected = {"up": 5, "down": 10, "billed": 15, "connections": 1}
    assert ledger_sums(collector) == sums(influx, "raw") == sums(influx, "daily") == expected

    influx.stop()  # what is voided then is not exported yet, and so is the void
    send(collector, KEY, 10**10)
    send(collector, OTHER_KEY, 6)
    void(collector)
    done = collector.run("adjust", "alice", "--bytes=-3", "--reason", "x", "--yes")
    assert done.returncode == 0, done.stderr
    influx.start()
    until_exported(collector)
    expected = {"up": 11, "down": 19, "billed": 30, "connections": 2}
    assert ledger_sums(collector) == sums(influx, "raw") == sums(influx, "daily") == expected

    influx.reset()  # an empty one, written anew
    assert collector.run("export", "rebuild").returncode == 0
    until_exported(collector)
    assert sums(influx, "raw") == sums(influx, "daily") == expected
