"""What processes of senders leave behind that ended, or were killed, at their work."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from collector.agent.state.lock import heartbeat_of
from collector.client.sending.process_identity import has_ended, this_process
from collector.client.spool.spool import REPORTS, Spool
from tests.support.collector.filled_spools import ids, spool_of_ten, take


@pytest.fixture
def spool(tmp_path):
    with spool_of_ten(tmp_path / "spool") as opened:
        yield opened


TAKES_AND_WAITS = (
    "import pathlib, sys; from collector.client.spool.spool import Spool\n"
    "spool = Spool(pathlib.Path(sys.argv[1]))\n"
    "lane = spool.lane('reports'); lane.first(most_items=4, most_bytes=1000)\n"
    "print('taken', flush=True); sys.stdin.read()\n"
)


def test_an_agent_that_was_killed_has_ended(tmp_path):
    state = tmp_path / "state"
    script = (
        "import sys,pathlib; from collector.agent.state.lock import lock; "
        "held = lock(pathlib.Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert not heartbeat_of(state).has_ended
        process.kill()
        process.wait()
        assert heartbeat_of(state).has_ended


def test_what_a_killed_process_was_sending_is_free_at_once(spool):
    with subprocess.Popen(
        [sys.executable, "-c", TAKES_AND_WAITS, str(spool.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout.readline() == b"taken\n"
        assert ids(take(spool.lane(REPORTS), 9)) == "456789"
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    assert ids(take(spool.lane(REPORTS), 9)) == "0123"


def test_a_zombie_has_ended():
    child = multiprocessing.get_context("spawn").Process(target=int)
    child.start()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    boot, namespace, _, _ = this_process().split(" ")
    assert has_ended(f"{boot} {namespace} {child.pid} 1")
    child.join()


def test_what_was_taken_survives_a_process_that_is_killed(tmp_path):
    program = (
        "import os, signal, sys, pathlib; from collector.client.spool.spool import Spool\n"
        "Spool(pathlib.Path(sys.argv[1])).put('reports', [('a', b'1')])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "spool"
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -9
    spool = Spool(path)
    assert ids(spool.first(REPORTS, most_items=100, most_bytes=1000)) == "a"
    spool.close()
