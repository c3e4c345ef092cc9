"""Programs that are told to stop end soon, whatever hangs that they talk to."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from collector.runtime.http.server import Signals
from marzban_bridge.app import create_app
from marzban_bridge.cli.serve import server_of
from marzban_bridge.config.settings import Settings
from marzban_bridge.quota.account import Event
from marzban_bridge.store.store import Store
from tests.support import programs
from tests.support.fixed_answers import Server, serving
from tests.support.processes import until
from tests.support.silent_server import SilentServer

DEADLINE_SECONDS = 120
LONGEST_SECONDS = 17
"""What a busy machine may make of three; a call of InfluxDB's has a timeout of 20, one of the panel
of 60."""


@pytest.fixture
def silent():
    servers = [SilentServer() for _ in range(3)]
    yield servers
    for each in servers:
        each.close()


def test_the_bridge_ends_while_panel_collector_and_influxdb_hang(tmp_path, silent):
    panel, collector, influx = silent
    store = Store(tmp_path / "bridge.sqlite3")
    store.of("default").events.record("alice", Event(kind="deleted", text="gone"), at=_now())
    store.close()
    bridge = programs.start(
        "marzban_bridge",
        "run",
        env=os.environ
        | {
            "MARZBAN_URL": panel.url,
            "MARZBAN_USERNAME": "admin",
            "MARZBAN_PASSWORD": "a-password",
            "MARZBAN_TIMEOUT_SECONDS": "60",
            "COLLECTOR_URL": collector.url,
            "COLLECTOR_ADMIN_KEY": "an-admin-key-of-process-tests",
            "INFLUXDB_URL": influx.url,
            "INFLUXDB_TOKEN": "a-token",
            "BRIDGE_STORE": str(tmp_path / "bridge.sqlite3"),
            "BRIDGE_PORT": "0",
        },
        cwd=tmp_path,
    )
    for each in silent:
        assert each.was_asked.wait(DEADLINE_SECONDS)
    started_at = time.monotonic()
    bridge.terminate()
    assert bridge.wait(DEADLINE_SECONDS) == 0
    assert time.monotonic() - started_at < LONGEST_SECONDS


def test_requests_that_wait_for_the_panel_do_not_hold_up_the_end_for_longer_than_two_seconds():
    settings = Settings(
        marzban_url="http://127.0.0.1:9", marzban_username="a", marzban_password="b"
    )
    server = server_of(create_app(settings), settings, signals=Signals.RETURNED_AFTER)
    assert server.config.timeout_graceful_shutdown <= 2


NAME_SERVER_HANGS = """
import socket, sys, time
look_up = socket.getaddrinfo

def hang(host, *rest, **hints):
    if host in ("far.test", b"far.test"):
        print("asked", flush=True)
        time.sleep(600)
    return look_up(host, *rest, **hints)

socket.getaddrinfo = hang
"""


@pytest.mark.parametrize("program", ["bridge", "up", "agent"])
def test_a_program_ends_while_a_name_server_hangs(tmp_path, program):
    """Whoever waited for the look-up would be killed before it ends."""
    config = tmp_path / "agent.toml"
    config.write_text(
        f'[collector]\nurl = "http://far.test"\nkey = "rk_a-key"\n'
        f'[agent]\nserver = "de-1"\nstate = "{tmp_path}/state.sqlite3"\n'
        '[[source]]\nname = "x"\nkind = "xray-vars"\nurl = "http://far.test/debug/vars"\n'
    )
    config.chmod(0o600)
    module, *words = {
        "bridge": ("marzban_bridge.__main__", "run"),
        "up": ("marzban_bridge.__main__", "up"),
        "agent": ("collector.agent.__main__", "--config", str(config), "run"),
    }[program]
    script = f"{NAME_SERVER_HANGS}from {module} import main; sys.exit(main())"
    with (tmp_path / "said").open("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *words],
            env=os.environ
            | {
                "MARZBAN_URL": "http://far.test",
                "MARZBAN_USERNAME": "admin",
                "MARZBAN_PASSWORD": "a-password",
                "COLLECTOR_URL": "http://far.test",
                "COLLECTOR_ADMIN_KEY": "an-admin-key-of-process-tests",
                "COLLECTOR_PORT": "0",
                "LEDGER_URL": f"sqlite:///{tmp_path}/ledger.sqlite3",
                "BRIDGE_STORE": str(tmp_path / "bridge.sqlite3"),
                "BRIDGE_PORT": "0",
                "PYTHONPATH": str(Path(__file__).parents[2]),
            },
            cwd=tmp_path,
            stdout=said,
        )
        try:
            until("a name is looked up", lambda: "asked" in (tmp_path / "said").read_text())
            process.terminate()
            assert process.wait(DEADLINE_SECONDS) == 0
        finally:
            process.kill()
            process.wait()


def test_synthetic_traffic_ends_when_told_to(tmp_path):
    with serving(Server(200, body=b"{}")) as collector:
        traffic = programs.start(
            *("marzban_bridge", "synthetic", "--collector", collector.url, "--crowd", "1"),
            env=os.environ | {"SYNTHETIC_REPORTER_KEY": "rk_a-key"},
            cwd=tmp_path,
        )
        until("something is reported", lambda: collector.asked)
        traffic.terminate()
        assert traffic.wait(DEADLINE_SECONDS) == 0


def _now() -> datetime:
    return datetime.now(UTC)
