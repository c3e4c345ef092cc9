"""An event loop in a background thread, which still works while the interpreter exits.

During the exit Python's thread pools accept no work, and no thread can be started. So blocking
calls (file access, DNS look-ups) run in threads of this module, which are started before.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import os
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from collector.client.errors import ClientError

T = TypeVar("T")
WORKERS = 3
"""Two, so that file access goes on while a DNS look-up blocks one."""

_IMPORTED_BY_REQUESTS = (
    "anyio._backends._asyncio",
    "anyio._core._tasks",
    "certifi",
    "encodings.idna",
    "h11",
    "httpcore",
    "httpcore._backends.anyio",
)
"""Modules that httpx and anyio import at a first request."""

ENDING_SECONDS = 1.0
"""How long cancelled tasks may take when their loop ends."""


class Workers:
    """Threads that run blocking calls for event loops."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        for number in range(WORKERS):
            threading.Thread(
                target=self._work, name=f"traffic-worker-{number}", daemon=True
            ).start()

    def _work(self) -> None:
        while True:
            self._jobs.get()()

    def run(
        self, loop: asyncio.AbstractEventLoop, work: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        """Run a call in one of the threads; return its future."""
        future: asyncio.Future[Any] = loop.create_future()

        def finish(outcome: Callable[[], None]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: no caller waits any more
                loop.call_soon_threadsafe(lambda: None if future.done() else outcome())

        def job() -> None:
            if future.cancelled():
                return
            try:
                result = work(*arguments)
            except BaseException as error:  # noqa: BLE001 - handed to the caller
                reason = error
                finish(lambda: future.set_exception(reason))
            else:
                finish(lambda: future.set_result(result))

        self._jobs.put(job)
        return future


_workers: Workers | None = None
_making = threading.Lock()


def the_workers() -> Workers:
    """Return the threads of this process; the first call starts them."""
    global _workers  # noqa: PLW0603 - one set of threads a process
    with _making:
        if _workers is None:
            _workers = Workers()
        return _workers


def _begin_anew() -> None:
    """Drop the parent's threads, which do not exist in a child."""
    global _workers, _making  # noqa: PLW0603 - one set of threads a process
    _workers = None
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def import_all() -> None:
    """Import what a first request would.

    A process that is forked while another thread imports has modules that stay incomplete, and so
    does not send: programs make a client, and fork at once.
    """
    for name in _IMPORTED_BY_REQUESTS:
        with contextlib.suppress(ImportError):  # each version has its own
            importlib.import_module(name)


class WorkerLoop(asyncio.SelectorEventLoop):
    """An event loop whose blocking calls run in `Workers`."""

    def __init__(self) -> None:
        self._workers = the_workers()
        super().__init__()

    def run_in_executor(  # type: ignore[override]  # typeshed's needs what Python 3.10 lacks
        self,
        executor: object,  # noqa: ARG002 - asyncio's
        func: Callable[..., Any],
        *args: Any,
    ) -> asyncio.Future[Any]:
        """Run a call in a thread of `Workers`."""
        return self._workers.run(self, func, *args)


class BackgroundLoop:
    """A running event loop in a thread; ClientError if no thread can be started."""

    def __init__(self, name: str) -> None:
        import_all()
        try:
            self._loop = WorkerLoop()
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()
        except RuntimeError as error:
            raise ClientError(f"the sender cannot be started: {error}", kind="sender") from error

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(self._loop)
            for each in tasks:
                each.cancel()
            if tasks:
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=ENDING_SECONDS))
            self._loop.close()

    @property
    def is_alive(self) -> bool:
        """Whether the loop still runs."""
        return self._thread.is_alive()

    def soon(self, call: Callable[[], object]) -> None:
        """Schedule a call in the loop; return at once."""
        with contextlib.suppress(RuntimeError):  # the loop has ended; its client starts another
            self._loop.call_soon_threadsafe(call)

    def call(self, work: Coroutine[Any, Any, T], *, timeout_seconds: float) -> T:
        """Run a coroutine in the loop and return its result; TimeoutError when it takes longer."""
        if threading.current_thread() is self._thread:
            work.close()
            raise ClientError("on_error may call queue(), but not methods that wait for delivery")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_seconds)
        except concurrent.futures.TimeoutError as error:
            raise TimeoutError from error
        finally:
            future.cancel()

    def stop(self, *, timeout_seconds: float) -> None:
        """Stop the loop, and wait at most so long for its thread to end."""
        self.soon(self._loop.stop)
        self._thread.join(timeout_seconds)
