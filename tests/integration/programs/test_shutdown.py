"""Ending: a process that is told to stop does so, whatever wakes its loops at that moment.

Python 3.11's `asyncio.wait_for` loses a cancel that meets its result, so a loop that waits by it
may go on for ever; the loops here use `asyncio.timeout`, and the linter refuses the other.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from collector.contacts import store_contacts
from collector.intake.subscriptions.resolver import Subscriptions
from collector.ledger.sqlite.writer import SqliteLedger
from collector.metrics import Metrics
from collector.runtime.http.problem_fields import MEDIA_TYPE
from collector.runtime.http.server import Server, Signals, serving
from collector.service import READER_THREADS
from marzban_bridge.reconcile.work_queue import Urgency
from tests.support.bridge.bridge_world import BridgeWorld, until
from tests.support.collector.collectors import CollectorWorld, running
from tests.support.silent_server import SilentServer


def bridge_loops(world: BridgeWorld) -> dict[str, asyncio.Event]:
    return {
        "crossings": world.bridge.queue._news[Urgency.CROSSING],
        "limits": world.bridge.queue._news[Urgency.PUBLISH],
        "time series": world.bridges.time_series._wake,
    }


@pytest.mark.parametrize("loop", ["crossings", "limits", "time series"])
async def test_a_bridge_ends_though_a_loop_is_woken_in_that_moment(tmp_path, loop):
    world = BridgeWorld(tmp_path, influxdb_url="http://127.0.0.1:1")
    async with asyncio.timeout(120), world.serving():
        wake = bridge_loops(world)[loop]
        await until("the loop sleeps", lambda: bool(wake._waiters))
        wake.set()  # and the lifespan ends before anybody else runs


async def test_a_collector_ends_though_its_export_is_woken_in_that_moment(tmp_path):
    environment = {"INFLUXDB_URL": "http://127.0.0.1:1", "INFLUXDB_TOKEN": "t"}
    world = CollectorWorld(path=tmp_path / "ledger.sqlite3", environment=environment)
    async with asyncio.timeout(120), running(world):
        event = world.app.state.collector.ingest.commits._event
        await until("the export sleeps", lambda: bool(event._waiters))
        event.set()


async def test_a_waiting_reader_that_goes_away_in_that_moment_is_gone(tmp_path):
    async with running(CollectorWorld(path=tmp_path / "ledger.sqlite3")) as world:
        reader = asyncio.create_task(world.get("/v1/usage/changes", wait=30))
        event = world.app.state.collector.ingest.commits._event
        await until("the reader waits", lambda: bool(event._waiters))
        event.set()
        reader.cancel()
        async with asyncio.timeout(25):
            await asyncio.wait([reader])
        assert reader.cancelled()


def run_script(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


READER_CLOSED_UNDER_ITS_QUERIES = """
import sqlite3, sys, threading
from pathlib import Path
from collector.ledger.sqlite.reader import SqliteReader

ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000000) "
reader = SqliteReader(Path(sys.argv[1]))
begun = threading.Barrier(5)

def read(is_snapshot):
    def work(db):
        db.rows("SELECT 1")
        begun.wait()
        return db.rows(ENDLESS + "SELECT i FROM n WHERE i % 1000000 = 0")
    try:
        reader.read(work, is_snapshot=is_snapshot)
    except sqlite3.OperationalError as error:
        print(error)

threads = [threading.Thread(target=read, args=(number % 2 == 0,)) for number in range(4)]
for each in threads:
    each.start()
begun.wait()
reader.close()
for each in threads:
    each.join()
"""


def test_a_reader_is_closed_under_its_queries(tmp_path):
    """The export's threads still read when a collector ends; it crashed then."""
    path = tmp_path / "ledger.sqlite3"
    SqliteLedger(path).close()
    done = run_script(READER_CLOSED_UNDER_ITS_QUERIES, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["interrupted"] * 4


async def test_a_request_that_is_cut_off_is_told_to_try_again_and_logs_no_traceback(caplog):
    async def app(scope, receive, send):
        await asyncio.sleep(600)

    server = Server(
        app,
        connections=8,
        read_seconds=5,
        signals=Signals.LEFT_ALONE,
        graceful_seconds=0,
        lifespan="off",
    )
    listener = socket.create_server(("127.0.0.1", 0))
    async with httpx.AsyncClient() as client, serving(server, listener):
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        asking = asyncio.create_task(client.get(url))
        await until("the request is being answered", lambda: bool(server.server_state.tasks))
        server.end()
        async with asyncio.timeout(120):
            answer = await asking
    assert answer.status_code == 503
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert int(answer.headers["retry-after"]) > 0
    assert "stopping" in answer.json()["detail"]
    assert "Traceback" not in caplog.text
    assert "Exception in ASGI" not in caplog.text


AGENT_CLOSED_SLOWLY = """
import asyncio, os, signal, sys
from collector.agent import agent, cli

close = agent.Agent.close

async def close_slowly(self):
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0.1)
    await close(self)

async def serve(*_):
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(600)

agent.Agent.close, cli.serve = close_slowly, serve
sys.exit(cli.main(["--config", sys.argv[1], "run"]))
"""


def test_a_second_signal_does_not_keep_an_agent_from_closing_its_state(tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text(
        '[collector]\nurl = "http://127.0.0.1:9"\nkey = "rk_a-key"\n'
        f'[agent]\nserver = "de-1"\nstate = "{tmp_path}/state.sqlite3"\n'
        '[[source]]\nname = "x"\nkind = "xray-vars"\nurl = "http://127.0.0.1:9/debug/vars"\n'
    )
    config.chmod(0o600)
    done = run_script(AGENT_CLOSED_SLOWLY, config)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


async def test_a_look_up_that_nobody_awaits_ends_before_the_connections_to_the_panel(caplog):
    panel = SilentServer()
    subscriptions = Subscriptions(
        {"default": f"{panel.url}/sub"}, monotonic_seconds=time.monotonic, metrics=Metrics()
    )
    with closing(panel):
        asking = asyncio.create_task(subscriptions.resolve("a-token", stranger=None))
        await until("the panel is asked", panel.was_asked.is_set)
        asking.cancel()
        await asyncio.wait([asking])
        looking_up = tuple(subscriptions._asking.values())
        await subscriptions.close()
        assert [each.done() for each in looking_up] == [True]
    assert not caplog.text


async def test_contacts_that_wait_for_a_thread_at_the_end_are_stored_all_the_same(tmp_path):
    async with running(CollectorWorld(path=tmp_path / "ledger.sqlite3")) as world:
        collector, go = world.app.state.collector, threading.Event()
        note_at = collector.now_millis()
        collector.contact_log.note_contact("r", at_millis=note_at)
        busy = [collector.readers.submit(go.wait) for _ in range(READER_THREADS)]
        storing = asyncio.create_task(store_contacts(collector))
        await until("it waits for a thread", lambda: collector.readers._work_queue.qsize() > 0)
        storing.cancel()
        await asyncio.wait([storing])
        go.set()
        await asyncio.wait([asyncio.wrap_future(each) for each in busy])
        await store_contacts(collector, is_last=True)
        assert (await collector.read(lambda reader: reader.contacts())).last_contacts == {
            "r": note_at
        }
