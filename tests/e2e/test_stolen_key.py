"""What a stolen reporter key is good for ends within a second of `reporters revoke`."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.collector.collector_process import ADMIN_KEY, KEY, CollectorProcess, poll

THIEVES = 4
AMOUNT_BYTES = 7
REVOKED_WITHIN_SECONDS = 1.0
SLACK_SECONDS = 1.0
"""For a slow machine: a request that was let in just before, and its answer."""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[CollectorProcess]:
    process = CollectorProcess(tmp_path)
    process.start()
    yield process
    process.kill()


def report(user: str) -> bytes:
    return json.dumps(
        {
            "user_token": user, "server": "s", "port": 1, "protocol": "p",
            "bytes_uploaded": AMOUNT_BYTES, "bytes_downloaded": 0,
        }
    ).encode()  # fmt: skip


class Sender(threading.Thread):
    """Posts as fast as it is answered until told to stop; keeps when each status was last seen."""

    def __init__(self, port: int, key: str, user: str) -> None:
        super().__init__()
        self.statuses: Counter[int] = Counter()
        self.accepted_last_at = 0.0
        self._port, self._key, self._user = port, key, user
        self.is_stopped = threading.Event()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        headers = {"Authorization": f"Bearer {self._key}"}
        with closing(connection):
            while not self.is_stopped.is_set():
                connection.request("POST", "/v1/reports", report(self._user), headers)
                response = connection.getresponse()
                response.read()
                self.statuses[response.status] += 1
                if response.status == 200:
                    self.accepted_last_at = time.monotonic()


def total_bytes(process: CollectorProcess, user: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=20)
    with closing(connection):
        connection.request(
            "GET", f"/v1/usage/{user}", headers={"Authorization": f"Bearer {ADMIN_KEY}"}
        )
        return int(json.loads(connection.getresponse().read())["upload_bytes"])


def test_revoked_under_load_it_is_refused_within_a_second_and_nobody_else_is(process):
    made = process.run("reporters", "add", "stolen")
    key = re.search(r"rk_\S+", made.stdout)[0]
    thieves = [Sender(process.port, key, "victim") for _ in range(THIEVES)]
    honest = Sender(process.port, KEY, "alice")
    for each in (*thieves, honest):
        each.start()
    try:
        poll("thieves at work", lambda: all(each.statuses[200] > 20 for each in thieves))
        assert process.run("reporters", "revoke", "stolen").returncode == 0
        revoked_at = time.monotonic()
        refused = [each.statuses[401] for each in thieves]  # before the key was known
        poll(
            "refusals",
            lambda: all(
                each.statuses[401] > before + 20
                for each, before in zip(thieves, refused, strict=True)
            ),
        )
        count = honest.statuses[200]
        poll("the other reporter to go on", lambda: honest.statuses[200] > count + 20)
    finally:
        for each in (*thieves, honest):
            each.is_stopped.set()
        for each in (*thieves, honest):
            each.join(30)
    latest = max(each.accepted_last_at for each in thieves)
    assert latest - revoked_at < REVOKED_WITHIN_SECONDS + SLACK_SECONDS
    assert set(honest.statuses) == {200}
    assert all(set(each.statuses) <= {200, 401, 429} for each in thieves)
    stolen = sum(each.statuses[200] for each in thieves)
    assert total_bytes(process, "victim") == stolen * AMOUNT_BYTES
    assert process.run("check").returncode == 0
