"""What sends comes back: after it died, in another event loop, in a forked child, at the very end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading

import pytest

from collector.client import AsyncClient, Client, ClientError, Report
from collector.client.sending.delivery import Delivery
from tests.support.collector.collector_process import poll
from tests.support.collector.scripted_collector import ScriptedCollector, served


@pytest.fixture
def collector():
    return ScriptedCollector()


@pytest.fixture
def url(collector):
    with served(collector) as url:
        yield url


def report():
    return Report(user="a", server="s", upload_bytes=1, download_bytes=1)


def fail_once(monkeypatch):
    attempt, failed = Delivery.attempt, threading.Event()

    def fail(self):
        if failed.is_set():
            return attempt(self)
        failed.set()
        raise RuntimeError("a defect")

    monkeypatch.setattr(Delivery, "attempt", fail)
    monkeypatch.setattr("collector.runtime.pace.Pace.wait_seconds", lambda *_, **__: 0.01)
    return failed


def test_a_defect_does_not_end_the_thread_that_sends(collector, url, tmp_path, monkeypatch):
    failed = fail_once(monkeypatch)
    told = []
    with Client(url, key="rk_x", spool=tmp_path / "s", on_error=told.append) as client:
        assert failed.wait(30)
        client.queue(report())
        poll("it is sent", lambda: client.backlog().items == 0)
    assert [(each.kind, str(each)) for each in told] == [
        ("sender", "sending failed and is retried: RuntimeError")
    ]
    assert len(collector.taken) == 1


async def test_a_defect_does_not_end_the_task_that_sends(collector, url, tmp_path, monkeypatch):
    failed = fail_once(monkeypatch)
    async with AsyncClient(url, key="rk_x", spool=tmp_path / "s") as client, asyncio.timeout(120):
        await client.queue(report())
        while (await client.backlog()).items:
            await asyncio.sleep(0.01)
    assert failed.is_set()
    assert len(collector.taken) == 1


def test_a_thread_that_died_is_begun_anew(collector, url, tmp_path):
    with Client(url, key="rk_x", spool=tmp_path / "s") as client:
        background = client._background
        background.soon(background._loop.stop)
        poll("it has ended", lambda: not background.is_alive)
        client.queue(report())
        poll("it is sent", lambda: client.backlog().items == 0)
    assert len(collector.taken) == 1


async def test_a_task_that_died_is_begun_anew(collector, url, tmp_path):
    async with AsyncClient(url, key="rk_x", spool=tmp_path / "s") as client, asyncio.timeout(120):
        await client.queue(report())
        (task,) = [each for each in asyncio.all_tasks() if each.get_name() == "traffic-sender"]
        task.cancel()
        await asyncio.wait([task])
        await client.queue(report())
        while (await client.backlog()).items:
            await asyncio.sleep(0.01)
    assert len(collector.taken) == 2


def test_a_client_goes_on_in_the_next_event_loop(collector, url, tmp_path):
    client = AsyncClient(url, key="rk_x", spool=tmp_path / "s")

    async def queue_and_wait():
        await client.queue(report())
        async with asyncio.timeout(120):
            while (await client.backlog()).items:
                await asyncio.sleep(0.01)

    asyncio.run(queue_and_wait())
    asyncio.run(queue_and_wait())
    asyncio.run(client.close())
    assert len(collector.taken) == 2


async def test_a_second_event_loop_is_refused_while_the_first_one_runs(url, tmp_path):
    async with AsyncClient(url, key="rk_x", spool=tmp_path / "s") as client:
        await client.queue(report())
        with pytest.raises(ClientError, match="one client for each loop"):
            await asyncio.to_thread(lambda: asyncio.run(client.queue(report())))
        assert (await client.flush()).items == 0


def test_a_closed_client_refuses(url, tmp_path):
    client = Client(url, key="rk_x", spool=tmp_path / "s")
    client.close()
    client.close()
    for call in (lambda: client.queue(report()), lambda: client.send(report()), client.flush):
        with pytest.raises(ClientError, match="is closed"):
            call()


def run(program, *arguments):
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


HEAD = """
import asyncio, os, sys
from collector.client import AsyncClient, Client, Report
url, spool = sys.argv[1:3]
def report():
    return Report(user="a", server="s", upload_bytes=1, download_bytes=1)
"""
FORKS = (
    HEAD
    + """
client = Client(url, key="rk_x", spool=spool)
for _ in range(20):
    client.queue(report())
client.send(report())
child = os.fork()
for _ in range(20):
    client.queue(report())
client.send(report())
assert client.flush(timeout_seconds=30).items == 0
client.close()
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
)
FORKS_WITH_LOOPS = (
    HEAD
    + """
async def work():
    for _ in range(20):
        await client.queue(report())
    assert (await client.flush(timeout_seconds=30)).items == 0
client = AsyncClient(url, key="rk_x", spool=spool)
asyncio.run(work())
child = os.fork()
asyncio.run(work())
asyncio.run(client.close())
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize(("program", "count"), [(FORKS, 63), (FORKS_WITH_LOOPS, 60)])
def test_a_fork_has_what_sends_on_both_sides_and_each_report_goes_out_once(
    collector, url, tmp_path, program, count
):
    """In the child `queue` said yes, and no thread sent it."""
    run(program, url, tmp_path / "spool")
    assert len(collector.taken) == count
    assert set(collector.sent.values()) == {1}


QUEUES_AND_ENDS = (
    HEAD
    + """
client = Client(url, key="rk_x", spool=spool)
for _ in range(5):
    client.queue(report())
"""
)
QUEUES_AND_ENDS_WITH_LOOP = (
    HEAD
    + """
async def work():
    for _ in range(5):
        await client.queue(report())
client = AsyncClient(url, key="rk_x", spool=spool)
asyncio.run(work())
"""
)


IMPORTS_AT_FIRST_REQUEST = """
import sys
from collector.client import Client, Report

client = Client(sys.argv[1], key="rk_x", spool=sys.argv[2])
before = set(sys.modules)
client.queue(Report(user="a", server="s", upload_bytes=1, download_bytes=1))
assert client.flush(timeout_seconds=60).items == 0
print(*sorted(set(sys.modules) - before))
client.close()
"""


def test_the_thread_that_sends_imports_nothing(collector, url, tmp_path):
    """A child that is forked amid an import has a module that stays incomplete: it cannot send."""
    url = url.replace("127.0.0.1", "localhost")
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS_AT_FIRST_REQUEST, url, str(tmp_path / "spool")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
    assert len(collector.taken) == 1


@pytest.mark.parametrize("program", [QUEUES_AND_ENDS, QUEUES_AND_ENDS_WITH_LOOP])
def test_what_was_queued_is_delivered_when_the_program_ends(collector, url, tmp_path, program):
    assert "Traceback" not in run(program, url, tmp_path / "spool")
    assert len(collector.taken) == 5


@pytest.mark.parametrize("program", [QUEUES_AND_ENDS, QUEUES_AND_ENDS_WITH_LOOP])
def test_the_end_of_a_program_waits_for_no_collector_that_is_away(tmp_path, program):
    quick = program.replace('key="rk_x"', 'key="rk_x", exit_flush_seconds=0.2')
    run(quick, "http://127.0.0.1:9", tmp_path / "spool")
    with Client("http://127.0.0.1:9", key="rk_x", spool=tmp_path / "spool") as client:
        assert client.backlog().items == 5
        client.close(timeout_seconds=0)
