"""Collector and command killed at any moment of a void: every report is taken back once."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from collector.ledger.corrections import CORRECTED_REPORTS
from collector.ledger.engines import backend_of
from tests.support import programs
from tests.support.collector.collector_process import ADMIN_KEY, KEY, CollectorProcess, poll
from tests.support.programs import Program

ROUNDS = 6
REPORTS = 3 * CORRECTED_REPORTS
"""Three steps of a void."""


@pytest.fixture(params=["sqlite", "postgres"])
def killable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CollectorProcess]:
    environment = {"COLLECTOR_KEY_REQUESTS_PER_SECOND": "0"}
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        environment["LEDGER_URL"] = server.url(server.new_database())
    collector = CollectorProcess(tmp_path, environment)
    yield collector
    collector.kill()


def send(collector: CollectorProcess, *, number: int) -> None:
    """Report for five users, 3 bytes each, and once honestly for each."""
    with httpx.Client(base_url=f"http://127.0.0.1:{collector.port}", timeout=60) as client:
        for start in range(0, REPORTS, 5000):
            reports = [
                {
                    "report_id": f"{number}-{n}",
                    "user_token": f"user{n % 5}",
                    "server": "de-1",
                    "port": 443,
                    "protocol": "vless",
                    "bytes_uploaded": 1,
                    "bytes_downloaded": 2,
                }
                for n in range(start, min(start + 5000, REPORTS))
            ]
            headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
            answer = client.post("/v1/reports", content=json.dumps(reports), headers=headers)
            assert answer.json()["accepted"] == len(reports), answer.text


def void(collector: CollectorProcess) -> Program:
    command = ["void", "--reporter", "load", "--since", "7d", "--yes", "--reason", "kill"]
    return programs.start("collector", *command, env=collector._environment)


@pytest.mark.timeout(300)
def test_a_void_is_carried_out_once_whatever_is_killed_meanwhile(killable: CollectorProcess):
    """The collector carries it out, or the command where none runs; both are killed at any time."""
    dice = random.Random(18)
    place = backend_of(killable._environment["LEDGER_URL"])
    killable.start()
    send(killable, number=0)
    for number in range(ROUNDS):
        command = void(killable)
        time.sleep(dice.uniform(0.6, 2.5))  # that is the accident, not a wait
        if number % 2:
            command.kill()
        if number % 3 != 2:
            killable.kill()
        command.kill()
        command.wait()
        with closing(place.reader()) as reader:
            assert reader.audit().problems == []
        if killable.pid is None:
            killable.start()
    if not killable.is_ready():
        killable.start()
    last = killable.run("void", "--reporter", "load", "--since", "7d", "--yes")
    assert last.returncode == 0, last.stderr

    def is_all_done() -> bool:
        with closing(place.reader()) as reader:
            return reader.open_correction() is None

    poll("all corrections to be carried out", is_all_done)
    with closing(place.reader()) as reader:
        done = reader.corrections(limit=100)
        assert sum(each.reports for each in done) == REPORTS
        assert sum(each.raw_bytes for each in done) == -3 * REPORTS
        audit = reader.audit()
        assert (audit.problems, audit.user_bytes, audit.series_bytes, audit.day_bytes) == (
            *([], 0, 0, 0),
        )
        assert audit.correction_lines == REPORTS
        assert reader.servers_of(None, since_day=None) == []
    page = httpx.get(
        f"http://127.0.0.1:{killable.port}/v1/usage/changes",
        headers={"authorization": f"Bearer {ADMIN_KEY}"},
    ).json()
    assert sum(each["download_bytes"] for each in page["changes"]) == 2 * REPORTS
    assert sum(each["corrected_download_bytes"] for each in page["changes"]) == -2 * REPORTS
