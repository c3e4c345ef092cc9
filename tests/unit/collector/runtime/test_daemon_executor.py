"""Calls in threads that do not delay the end of a process."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from collector.runtime import daemon_executor
from collector.runtime.daemon_executor import DaemonExecutor, new_loop

WAIT_SECONDS = 60


def test_a_call_returns_or_raises_as_it_did():
    executor = DaemonExecutor(1, thread_name_prefix="calls")
    assert executor.submit(divmod, 7, 2).result(WAIT_SECONDS) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        executor.submit(divmod, 7, 0).result(WAIT_SECONDS)
    executor.shutdown()


def test_as_many_calls_run_at_once_as_there_are_threads_and_the_rest_waits():
    executor = DaemonExecutor(2, thread_name_prefix="calls")
    together, go = threading.Barrier(3), threading.Event()

    def call() -> None:
        together.wait(WAIT_SECONDS)
        go.wait(WAIT_SECONDS)

    running = [executor.submit(call) for _ in range(2)]
    third = executor.submit(str)
    together.wait(WAIT_SECONDS)
    assert not third.done()
    go.set()
    for each in (*running, third):
        each.result(WAIT_SECONDS)
    executor.shutdown()


def test_after_shutdown_nothing_is_taken_and_what_waits_is_cancelled_if_asked_for():
    executor = DaemonExecutor(1, thread_name_prefix="calls")
    go = threading.Event()
    running, waiting = executor.submit(go.wait, WAIT_SECONDS), executor.submit(str)
    executor.shutdown(wait=False, cancel_futures=True)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError):
        executor.submit(str)
    go.set()
    assert running.result(WAIT_SECONDS)
    executor.shutdown()


@pytest.mark.parametrize("new_loop", [new_loop, daemon_executor._PlainLoop])
def test_a_loop_ends_while_a_name_is_looked_up_and_a_call_runs(new_loop, monkeypatch, caplog):
    go, begun = threading.Event(), threading.Barrier(3)

    def hang(*_, **__):
        begun.wait(WAIT_SECONDS)
        go.wait()

    async def leave_both():
        loop = asyncio.get_running_loop()
        tasks = [
            asyncio.create_task(loop.getaddrinfo("example.com", 80)),
            asyncio.create_task(asyncio.to_thread(hang)),
        ]
        await asyncio.sleep(0)
        await loop.run_in_executor(None, lambda: begun.wait(WAIT_SECONDS))
        assert not any(each.done() for each in tasks)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    before = set(threading.enumerate())
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(leave_both())
    left = set(threading.enumerate()) - before
    assert len(left) >= 2
    go.set()
    for each in left:
        each.join(WAIT_SECONDS)
    assert not caplog.text
