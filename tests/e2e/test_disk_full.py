"""A full disk: nothing acknowledged is lost, it is said, and all goes on by itself with room."""

from __future__ import annotations

import contextlib
import signal
import time

import httpx
import pytest

from collector.client import Client, Report
from collector.client.errors import SpoolError
from collector.client.report import encode
from collector.client.spool.spool import REPORTS, Spool
from marzban_bridge.quota.account import GIB
from tests.support.collector.scripted_collector import ScriptedCollector, refusal
from tests.support.processes import BRIDGE, COLLECTOR, PANEL, REPORTER_KEY, Stack, until
from tests.support.soak.soak_chaos import fill, small_disk

REPORT = Report(user="alice", server="de-1" + "x" * 200, upload_bytes=1, download_bytes=2)
USERS = [{"username": "alice", "data_limit": 10 * GIB, "used_traffic": 4 * GIB}]
SUM = 'SELECT sum("download_bytes") AS bytes FROM "{}"."traffic"'


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", mebibytes=48) as mounted:
        if mounted is None:
            pytest.skip("a small disk cannot be mounted here: it needs root")
        yield mounted


@contextlib.contextmanager
def opened(folder, environment):
    stack = Stack(folder, USERS, environment)
    try:
        stack.start(PANEL, COLLECTOR, BRIDGE)
        stack.until_up(PANEL, COLLECTOR, BRIDGE)
        yield stack
    finally:
        stack.close()


def post(stack, number):
    """Report 1 MiB and return the answer; many of them fill what is left of a disk."""
    return stack.client.post(
        f"{stack.urls[COLLECTOR]}/v1/reports",
        headers={"authorization": f"Bearer {REPORTER_KEY}"},
        json={
            "report_id": f"r{number}",
            "user_token": "alice",
            "server": f"server-{number}-" + "x" * 200,
            "port": 443,
            "protocol": "vless",
            "bytes_uploaded": 0,
            "bytes_downloaded": 2**20,
        },
    )


def reported(stack):
    return stack.ask_collector("/v1/usage")["download_bytes"]


def test_a_ledger_on_a_full_disk_refuses_loses_nothing_and_goes_on_with_room(
    tmp_path, disk, influx
):
    environment = {
        "LEDGER_URL": f"sqlite:///{disk}/ledger.sqlite3",
        "COLLECTOR_MIN_FREE_DISK_BYTES": "1000000",
        **influx.environment(),
    }
    with opened(tmp_path, environment) as stack:
        ready = f"{stack.urls[COLLECTOR]}/readyz"
        acknowledged = sum(post(stack, number).status_code == 200 for number in range(20))
        assert acknowledged == 20
        ballast = fill(disk)
        number, refusal = 20, None
        deadline = time.monotonic() + 30
        while refusal is None:
            assert time.monotonic() < deadline, "the disk never was full"
            answer = post(stack, number)
            if answer.status_code == 200:
                acknowledged, number = acknowledged + 1, number + 1
            else:
                refusal = answer
        assert refusal.status_code == 507, refusal.text
        assert "disk" in refusal.json()["detail"]
        assert "full" in refusal.json()["detail"]
        health = stack.client.get(ready)
        assert health.status_code == 503
        assert "bytes are free under the ledger" in health.text
        assert stack.is_up(COLLECTOR)

        # Killed at its worst: what was acknowledged is there, once there is room to start.
        stack.stop(COLLECTOR, signal.SIGKILL)
        ballast.unlink()
        stack.start(COLLECTOR)
        stack.until_up(COLLECTOR)
        assert reported(stack) == acknowledged * 2**20

        # And alive through it: no restart is needed.
        ballast = fill(disk)
        until("it is refused", lambda: post(stack, "again").status_code in {507, 503})
        ballast.unlink()
        until("it is stored again", lambda: post(stack, "again").status_code == 200)
        acknowledged += 1
        until("the collector is ready", lambda: stack.client.get(ready).status_code == 200)
        assert reported(stack) == acknowledged * 2**20
        for policy in ("raw", "daily"):
            until(
                f"{policy} has all of it",
                lambda policy=policy: (
                    (influx.query(SUM.format(policy)) or [{"bytes": 0}])[0]["bytes"]
                    == acknowledged * 2**20
                ),
            )
        checked = stack.run("collector", "check")
        assert checked.returncode == 0, checked.stdout


def test_a_store_on_a_full_disk_ends_the_bridge_and_a_restart_with_room_is_right(tmp_path, disk):
    with opened(tmp_path, {"BRIDGE_STORE": str(disk / "bridge.sqlite3")}) as stack:
        stack.report("alice", GIB, "1")
        until("it is published", lambda: stack.user("alice")["data_limit"] == 9 * GIB)
        ballast = fill(disk)
        number = 2
        while stack.exit_code(BRIDGE) is None:
            stack.report("alice", 1, f"{number}")
            number += 1
            assert number < 5000, "the bridge's disk never was full"
        assert stack.exit_code(BRIDGE) == 1, "a supervisor starts it again"
        assert "disk is full" in stack.log_of(BRIDGE)
        stack.report("alice", 6 * GIB, "crossing")
        assert stack.user("alice")["data_limit"] == 9 * GIB

        # A start without room ends on one line, or works as far as the room goes; never half.
        done = stack.run("marzban_bridge", "users")
        assert "move the file away" not in done.stderr, "nothing is wrong with the file"
        ballast.unlink()
        stack.start(BRIDGE)
        stack.until_up(BRIDGE)
        until("alice is limited", lambda: stack.user("alice")["status"] == "limited")
        until(
            "the bridge is ready",
            lambda: stack.client.get(f"{stack.urls[BRIDGE]}/readyz").status_code == 200,
        )
        stack.reset_in_panel("alice")
        until("alice has its quota", lambda: stack.user("alice")["data_limit"] == 10 * GIB)


def fill_spool(client):
    for _ in range(10_000):
        client.queue(REPORT, REPORT)


def test_a_spool_on_a_full_disk_empties_and_says_what_it_meets(tmp_path, disk):
    """What was delivered leaves it without new room, and its place is free for what comes then."""
    taken = ScriptedCollector()
    path = disk / "spool.sqlite3"
    spool = Spool(path)
    ballast = None
    try:
        spool.put(REPORTS, [(f"r{n}", encode(REPORT, report_id=f"r{n}")) for n in range(3000)])
        spool.close()
        ballast = fill(disk)
        with Client(
            "http://collector.test",
            key="rk_x",
            spool=path,
            batch_reports=100,
            transport=httpx.MockTransport(taken),
        ) as client:
            with pytest.raises(SpoolError):
                fill_spool(client)
            assert client.flush(timeout_seconds=30).items == 0
            assert client.problem is None
        assert len(taken.taken) >= 3000
    finally:
        spool.close()
        if ballast:
            ballast.unlink()


def test_a_spool_that_cannot_be_read_is_named_by_the_clients_problem(tmp_path, monkeypatch):
    taken = ScriptedCollector()
    taken.script = lambda _: refusal(503)
    path = tmp_path / "spool.sqlite3"
    with Client(
        "http://collector.test", key="rk_x", spool=path, transport=httpx.MockTransport(taken)
    ) as client:
        client.queue(REPORT)
        until("the collector is named", lambda: client.problem and "answers 503" in client.problem)

        def fail(*_, **__):
            raise SpoolError(f"the spool {path} is damaged")

        with monkeypatch.context() as patched:
            patched.setattr(Spool, "claim", fail)
            until("the spool is named", lambda: client.problem == f"the spool {path} is damaged")
        taken.script = lambda _: None
        until("all is well", lambda: client.flush().items == 0 and client.problem is None)
