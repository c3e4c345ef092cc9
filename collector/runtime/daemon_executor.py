"""Threads for calls to a server that may never answer: they do not delay the end of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


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
