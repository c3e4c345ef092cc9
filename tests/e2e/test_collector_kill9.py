"""A collector killed at any moment, again and again: what it acknowledged is there, once."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.ledger.sqlite.reader import SqliteReader
from collector.ledger.sqlite.writer import SqliteLedger
from tests.support.collector.collector_process import DEADLINE_SECONDS, KEY, CollectorProcess, poll

ROUNDS = 20
CLIENTS = 3

CLIENT = """
import http.client, json, pathlib, random, sys, time

name, port, acknowledged, stop = sys.argv[1], int(sys.argv[2]), sys.argv[3], pathlib.Path(sys.argv[4])
rng, number, connection = random.Random(name), 0, None
with open(acknowledged, "a", buffering=1) as log:
    while not stop.exists():
        batch = []
        for _ in range(rng.choice((1, 1, 5, 40))):
            number += 1
            batch.append({
                "report_id": f"{name}-{number}", "user_token": rng.choice(("shared", name)),
                "server": f"s{rng.randrange(5)}", "port": 443, "protocol": "vless",
                "bytes_uploaded": rng.randrange(1, 10**9), "bytes_downloaded": rng.randrange(10**9),
            })
        body = json.dumps(batch)
        while True:
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                connection.request("POST", "/v1/reports", body, {"Authorization": "Bearer %s"})
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status == 200:
                    break
                assert response.status == 503, answer
            except (OSError, http.client.HTTPException, ValueError):
                connection = None
            time.sleep(0.02)
        assert answer["accepted"] + answer["duplicates"] == len(batch), answer
        for each in batch:
            log.write(f"{each['user_token']} {each['bytes_uploaded'] + each['bytes_downloaded']}\\n")
""".replace("%s", KEY)


@pytest.fixture
def killable(tmp_path: Path) -> Iterator[CollectorProcess]:
    collector = CollectorProcess(tmp_path)
    yield collector
    collector.kill()


@pytest.fixture
def clients(
    killable: CollectorProcess, tmp_path: Path
) -> Iterator[tuple[list[subprocess.Popen[bytes]], list[Path], Path]]:
    """Senders that repeat each request, under the same ids, until it is acknowledged."""
    stop = tmp_path / "stop"
    logs = [tmp_path / f"acknowledged-{number}" for number in range(CLIENTS)]
    senders = []
    for number, log in enumerate(logs):
        log.touch()
        arguments = (f"client{number}", str(killable.port), str(log), str(stop))
        senders.append(subprocess.Popen([sys.executable, "-c", CLIENT, *arguments]))
    yield senders, logs, stop
    for sender in senders:
        sender.kill()
        sender.wait()


def test_every_acknowledged_report_is_counted_once_through_twenty_kills(
    killable: CollectorProcess, clients: tuple[list[subprocess.Popen[bytes]], list[Path], Path]
) -> None:
    senders, logs, stop = clients
    rng = random.Random(9)

    def acknowledged_bytes() -> int:
        return sum(log.stat().st_size for log in logs)

    for _ in range(ROUNDS):
        killable.start()
        enough = acknowledged_bytes() + rng.randrange(1, 40_000)
        poll("more acknowledged reports", lambda enough=enough: acknowledged_bytes() >= enough)
        killable.kill()

    killable.start()
    stop.touch()
    assert [sender.wait(DEADLINE_SECONDS) for sender in senders] == [0] * CLIENTS
    killable.kill()

    expected: Counter[str] = Counter()
    reports = 0
    for log in logs:
        for line in log.read_text().splitlines():
            user, amount = line.split()
            expected[user] += int(amount)
            reports += 1
    verdict = killable.run("check")
    assert verdict.returncode == 0, "a killed ledger is whole, whatever is not added up yet"
    SqliteLedger(killable.ledger).close()  # as the next start would, adds it up
    reader = SqliteReader(killable.ledger)
    found = reader.changes(after=0, limit=100).changes
    audit = reader.audit()
    reader.close()
    assert {each.username: each.upload_bytes + each.download_bytes for each in found} == expected
    assert sum(each.reports for each in found) == reports
    assert audit.problems == []
    assert audit.day_bytes == audit.series_bytes == audit.user_bytes == sum(expected.values())
    verdict = killable.run("check")
    assert verdict.returncode == 0, verdict.stdout
