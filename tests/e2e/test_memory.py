"""What the two programs take of a small machine's memory, and what they need not take."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from collector.settings import Settings
from tests.support.processes import BRIDGE, COLLECTOR, PANEL, Stack, until
from tests.support.rows import for_each

GIB = 2**30
MOST_BYTES = 160_000_000
"""For both together; they take about 150,000,000."""


def resident_bytes(pid) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_collector_and_bridge_together_fit_their_bound_after_some_hundred_requests(
    influx, tmp_path
):
    influx.reset(dict(Settings().influx_retention_seconds))  # as `bootstrap` leaves it
    users = [{"username": f"user{number}", "data_limit": 100 * GIB} for number in range(50)]
    stack = Stack(tmp_path, users, influx.environment(), fresh=True)
    try:
        stack.start(PANEL, COLLECTOR, BRIDGE)
        stack.until_up(PANEL, COLLECTOR, BRIDGE)
        for number in range(300):
            stack.report(f"user{number % 50}", 10**6, f"report {number}")
        for path in ("/v1/usage", "/v1/usage/user7", "/v1/servers", "/v1/changes?after=0"):
            stack.ask_collector(path)
        written = 'SELECT count("upload_bytes") AS n FROM "raw"."traffic"'
        until(
            "all reports are in InfluxDB",
            lambda: sum(row["n"] for row in influx.query(written)) == 300,
        )
        until(
            "the last is the bridge's",
            lambda: "user49" in stack.run("marzban_bridge", "users").stdout,
        )
        taken = {name: resident_bytes(stack.pid(name)) for name in (COLLECTOR, BRIDGE)}
    finally:
        stack.close()
    assert sum(taken.values()) <= MOST_BYTES, taken


@pytest.mark.parametrize("program", ["collector", "marzban_bridge"])
@pytest.mark.parametrize(
    "burden", ["influxdb_client", "reactivex", "marzban_bridge.simulator", "marzban_bridge.demo"]
)
def test_a_serving_program_does_not_load_what_only_other_commands_need(program, burden):
    code = (
        f"import sys, {program}.app, {program}.cli; "
        f"print([each for each in sys.modules if each.startswith({burden!r})])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_the_bridge_alone_does_not_load_the_collectors_application():
    code = "import sys, marzban_bridge.cli.main; print('collector.app' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"


LIGHT = ("collector.client", "collector.agent.cli")


HEAVY = {
    "fastapi",
    "influxdb_client",
    "msgspec",
    "pydantic",
    "starlette",
    "uvicorn",
    "collector.app",
    "collector.ledger",
    "collector.reports.report",
}


@for_each("module", LIGHT)
def test_a_sender_carries_nothing_of_the_server(module):
    program = f"import {module}, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(json.loads(done.stdout))
