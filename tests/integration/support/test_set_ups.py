"""A set-up that waits in vain for what it started ends it: the next tests have the machine."""

from __future__ import annotations

import os

import pytest

from tests.support import processes
from tests.support.collector import collector_process
from tests.support.collector.collector_process import CollectorProcess
from tests.support.processes import COLLECTOR, Stack


class Lateness:
    """Stands in for what waits: notes which process there is, and gives up at once."""

    def __init__(self, pid_of) -> None:
        self._pid_of = pid_of
        self.pid = 0

    def __call__(self, what, *_, **__):
        self.pid = self._pid_of()
        raise AssertionError(f"waited in vain for: {what}")


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_collector_that_is_not_ready_in_time_is_ended(tmp_path, monkeypatch):
    collector = CollectorProcess(tmp_path)
    late = Lateness(lambda: collector.pid)
    monkeypatch.setattr(collector_process, "poll", late)
    with pytest.raises(AssertionError, match="a collector that is ready"):
        collector.start()
    assert is_gone(late.pid)


def test_a_stack_that_is_not_up_in_time_is_ended(tmp_path, monkeypatch):
    stack = Stack(tmp_path, [])
    late = Lateness(lambda: stack.pid(COLLECTOR))
    monkeypatch.setattr(processes, "until", late)
    stack.start(COLLECTOR)
    with pytest.raises(AssertionError, match="collector is up"):
        stack.until_up(COLLECTOR)
    assert is_gone(late.pid)
