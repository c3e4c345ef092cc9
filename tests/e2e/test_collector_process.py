"""A real collector process: how it ends, how it shares a ledger, what it writes to its log."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.collector.collector_process import (
    ADMIN_KEY,
    DEADLINE_SECONDS,
    KEY,
    CollectorProcess,
    poll,
)

TOKEN = "YWxpY2UsMTc5NTQzMzM4NQ3PDaZWi-hR"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[CollectorProcess]:
    process = CollectorProcess(tmp_path)
    process.start()
    yield process
    process.kill()


def call(
    process: CollectorProcess, method: str, path: str, body: object = None, *, key: str = ADMIN_KEY
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=DEADLINE_SECONDS)
    with closing(connection):
        headers = {"Authorization": f"Bearer {key}"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read().decode()


def test_asked_to_end_it_sends_waiting_readers_home_and_leaves_a_whole_ledger(process, tmp_path):
    report = {
        "user_token": "alice", "server": "s", "port": 1, "protocol": "p",
        "bytes_uploaded": 1, "bytes_downloaded": 2,
    }  # fmt: skip
    assert call(process, "POST", "/v1/reports", report, key=KEY)[0] == 200
    answers: list[tuple[int, str]] = []
    reader = threading.Thread(
        target=lambda: answers.append(call(process, "GET", "/v1/usage/changes?after=1&wait=30"))
    )
    reader.start()
    poll(
        "a waiting reader",
        lambda: "collector_feed_waiters 1.0" in call(process, "GET", "/metrics")[1],
    )
    process.terminate()
    reader.join(DEADLINE_SECONDS)
    ((status, text),) = answers
    assert (status, json.loads(text)["changes"]) == (200, [])
    assert "Traceback" not in process.log.read_text()
    assert process.run("check").returncode == 0


def test_a_second_interrupt_ends_the_wait_for_requests_and_closes_all_the_same(process):
    head = "PUT /v1/readers/one HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", process.port)) as unfinished:
        unfinished.sendall(head.encode())
        assert process.interrupt_until("Waiting for connections to close") == 130
        assert unfinished.recv(64).startswith(b"HTTP/1.1 503 ")
    log = process.log.read_text()
    assert "Application shutdown complete" in log
    assert "Traceback" not in log
    assert process.run("check").returncode == 0


def test_a_second_collector_on_the_ledger_is_one_line_and_the_first_goes_on(process):
    second = process.run("serve", COLLECTOR_PORT="0")
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert "is in use by another collector (pid " in second.stderr
    assert process.is_ready()


def test_its_log_holds_no_secret_of_anybody(process):
    for method, path, key in (
        ("GET", f"/api/xpert/traffic-stats/{TOKEN}", "x"),
        ("GET", "/v1/usage/changes?after=0&secret=in-the-query", ADMIN_KEY),
        ("POST", "/v1/reports?reporter=r&secret=in-the-query", KEY),
        ("POST", "/v1/reports", "rk_a-wrong-key-somebody-tried"),
    ):
        call(process, method, path, {"user_token": TOKEN}, key=key)
    process.terminate()
    log = process.log.read_text()
    assert "collector on http://127.0.0.1" in log
    for secret in (TOKEN, ADMIN_KEY, KEY, "in-the-query", "somebody-tried"):
        assert secret not in log
