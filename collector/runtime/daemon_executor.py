"""Threads for calls that may never return: they do not delay the end of the process.

And event loops whose blocking calls run in such threads. At the end of others, asyncio waits for
the threads of `to_thread`, and a process with uvloop for the look-up of a name. A name server that
does not answer takes up to a minute, and a program that was told to end is killed before that.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

THREADS = min(32, (os.cpu_count() or 1) + 4)
"""How many calls of an event loop may run at once: as many as asyncio has by default."""


class _Call(NamedTuple):
    future: Future[Any]
    function: Callable[[], Any]

    def make(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.function()
        except BaseException as error:  # noqa: BLE001 - it is the future that raises it
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class DaemonExecutor(Executor):
    """Makes calls in up to so many threads, which are started when they are first needed.

    At its end the interpreter waits for the threads of a ThreadPoolExecutor, and so for the timeout
    of a call. It does not wait for these: a call has to be safe to cut off at any moment.
    """

    def __init__(self, threads: int, *, thread_name_prefix: str) -> None:
        self._most = threads
        self._prefix = thread_name_prefix
        self._waiting: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._guard = threading.Lock()
        self._is_shut = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Return the future of a call; RuntimeError after `shutdown`."""
        future: Future[T] = Future()
        with self._guard:
            if self._is_shut:
                raise RuntimeError("no calls are taken after shutdown")
            self._waiting.put(_Call(future, lambda: fn(*args, **kwargs)))
            if len(self._threads) < self._most:
                name = f"{self._prefix}_{len(self._threads)}"
                self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
                self._threads[-1].start()
        return future

    def _run(self) -> None:
        while (call := self._waiting.get()) is not None:
            call.make()
            del call  # an idle thread keeps nothing of it

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as Executor has it
        """Take no further calls; those that wait are made, or with `cancel_futures` cancelled."""
        with self._guard:
            self._is_shut = True
            if cancel_futures:
                self._cancel_waiting()
            for _ in self._threads:
                self._waiting.put(None)
        if wait:
            for each in self._threads:
                each.join()

    def _cancel_waiting(self) -> None:
        while True:
            try:
                call = self._waiting.get_nowait()
            except Empty:
                return
            if call is not None:
                call.future.cancel()


class _LeavesCalls:
    """What makes a loop one of these; it comes before the class of the loop."""

    _calls: DaemonExecutor | None = None

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run a call in a thread, by default in one that ends with the process."""
        if executor is None:
            self._calls = self._calls or DaemonExecutor(THREADS, thread_name_prefix="call")
        inner: Any = super()
        return inner.run_in_executor(executor or self._calls, func, *args)

    async def getaddrinfo(self, host: Any, port: Any, **hints: int) -> Any:
        """Look a name up, in such a thread."""
        return await self.run_in_executor(None, lambda: socket.getaddrinfo(host, port, **hints))

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109, ARG002 - as asyncio has it
        """End the threads, as soon as each is ready."""
        if self._calls is not None:
            self._calls.shutdown(wait=False, cancel_futures=True)


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a loop for a program with one server: uvloop's where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - not on each system, and not in each program
    except ImportError:
        return _PlainLoop()

    class FastLoop(_LeavesCalls, uvloop.Loop):  # type: ignore[misc]  # of any loop
        """uvloop's loop."""

    return FastLoop()


class _PlainLoop(_LeavesCalls, asyncio.SelectorEventLoop):  # type: ignore[misc]  # of any loop
    """asyncio's loop."""


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Do as `asyncio.run`, without waiting for calls that nobody awaits any more."""
    with asyncio.Runner(loop_factory=_PlainLoop) as runner:
        return runner.run(main)
