"""A spool that several processes share: each report is sent once, and one that is killed loses none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from collector.client import Report
from collector.client.report import encode
from collector.client.spool.spool import REPORTS, Spool
from tests.support.collector.scripted_collector import ScriptedCollector, served

FLUSHES = """
import sys
from collector.client import Client
url, spool = sys.argv[1:]
client = Client(url, key="rk_x", spool=spool, batch_reports=10)
print(client.flush(timeout_seconds=60).items, flush=True)
client.close()
"""


def start(url, path):
    return subprocess.Popen(
        [sys.executable, "-c", FLUSHES, url, str(path)], stdout=subprocess.PIPE, text=True
    )


def fill(path, count):
    spool = Spool(path)
    reports = [Report(user="a", server="s", upload_bytes=1, download_bytes=1) for _ in range(count)]
    spool.put(REPORTS, [(r.report_id, encode(r, report_id=r.report_id)) for r in reports])
    spool.close()


def test_six_processes_send_each_report_once(tmp_path):
    """They sent each one 5.6 times."""
    path = tmp_path / "spool"
    fill(path, 600)
    collector = ScriptedCollector()
    with served(collector) as url:
        processes = [start(url, path) for _ in range(6)]
        left = [each.communicate(timeout=60)[0] for each in processes]
    assert left == ["0\n"] * 6, "each of them waits for what the others send"
    assert len(collector.taken) == 600
    assert set(collector.sent.values()) == {1}


def test_what_a_process_was_sending_when_it_was_killed_the_others_send(tmp_path):
    path = tmp_path / "spool"
    fill(path, 50)
    collector = ScriptedCollector()
    arrived, go_on = threading.Event(), threading.Event()

    def hold_the_first(_):
        if not arrived.is_set():
            arrived.set()
            go_on.wait(30)

    collector.script = hold_the_first
    with served(collector) as url:
        first = start(url, path)
        try:
            assert arrived.wait(30)
            first.send_signal(signal.SIGKILL)
            first.communicate()
            second = start(url, path)
            go_on.set()
            assert second.communicate(timeout=60)[0] == "0\n"
        finally:
            go_on.set()
            first.kill()
    assert len(collector.taken) == 50
    assert sorted(collector.sent.values()) == [1] * 40 + [2] * 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_lets_go_of_nothing_that_its_parent_sends(tmp_path):
    fill(tmp_path / "spool", 5)

    def take(most_items):
        return [
            each.item_id
            for each in spool.lane(REPORTS).first(most_items=most_items, most_bytes=9**9)
        ]

    with closing(Spool(tmp_path / "spool")) as spool:
        taken = take(3)
        child = os.fork()
        if not child:
            spool.close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        left = take(4)
        assert (len(taken), len(left)) == (3, 2)
        assert not set(taken) & set(left)
