"""`AsyncClient`, for asyncio programs: a task sends, and file access runs in threads.

Its methods are those of `Client`, as coroutines.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from collector.client.errors import ClientError
from collector.client.http_options import DEFAULT_TIMEOUT_SECONDS, HttpOptions
from collector.client.outbox import Backlog, DeadLetter
from collector.client.receipt import Receipt
from collector.client.report import Report
from collector.client.sending import exit_flush, fork_hooks
from collector.client.sending.background_loop import WorkerLoop, the_workers
from collector.client.sending.delivery import DEFAULT_BATCH_REPORTS
from collector.client.sending.exit_flush import DEFAULT_EXIT_FLUSH_SECONDS
from collector.client.sending.problem_notes import ErrorCallback, ProblemNotes
from collector.client.sending.sender import Sender, Sending
from collector.client.spool.spool import DEFAULT_MAX_BYTES, REPORTS, Spool
from collector.client.target import Target

if TYPE_CHECKING:
    from typing import Self


class AsyncClient:
    """Reports traffic to the collector at `url`; the arguments are those of `Client`.

    The task that delivers spooled reports starts with `async with`, or with the first awaited call,
    in the running event loop. Once that loop has ended, the client may be used in another loop.
    Use in a second loop while the first one runs raises ClientError.

    Example:
        >>> async with AsyncClient("https://traffic.example.com", key="rk_...") as client:
        ...     await client.send(report, give_up_seconds=5)
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        subscription: str | None = None,
        spool: str | Path | None = None,
        max_spool_bytes: int = DEFAULT_MAX_BYTES,
        batch_reports: int = DEFAULT_BATCH_REPORTS,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        ca_file: str | Path | None = None,
        proxy: str | None = None,
        headers: Mapping[str, str] | None = None,
        on_error: ErrorCallback | None = None,
        exit_flush_seconds: float = DEFAULT_EXIT_FLUSH_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        target = Target(url=url, key=key, subscription=subscription, batch_reports=batch_reports)
        options = HttpOptions(
            timeout_seconds=timeout_seconds,
            ca_file=ca_file,
            proxy=proxy,
            headers=headers or {},
            transport=transport,
            is_tls=url.lower().startswith("https:"),
        )
        self.exit_flush_seconds = exit_flush_seconds
        self._notes = ProblemNotes(url, on_error)
        self._spool = None
        if spool is not None:
            self._spool = Spool(Path(spool), max_bytes=max_spool_bytes)
        self._sending = Sending(
            target=target, options=options, notes=self._notes, spool=self._spool
        )
        self._sender: Sender | None = None
        self._is_closed = False
        fork_hooks.register(self)

    async def queue(self, *reports: Report) -> list[str]:
        """Append reports to the spool, to be sent soon; return their ids.

        Either all are on disk when it returns, or it raises and none is: SpoolFullError if the
        spool or the disk is full, SpoolError if the file cannot be used, ClientError if the client
        is closed or its sender cannot be started.
        """
        encoded = self._sending.target.encoded(reports)
        spool, sender = self._the_spool(), self._ready()
        await asyncio.to_thread(spool.put, REPORTS, encoded)
        sender.wake.set()
        return [report_id for report_id, _ in encoded]

    async def send(self, *reports: Report, give_up_seconds: float = 60.0) -> Receipt:
        """Send reports at once, without the spool; return how many were accepted.

        Retries for `give_up_seconds` in all. Raises UnauthorizedError, or NotDeliveredError with
        the reports that were not accepted. Sending the same report objects again counts them once,
        also after this call was cancelled.
        """
        return await self._ready().send(reports, give_up_seconds=give_up_seconds)

    async def flush(self, *, timeout_seconds: float = 30.0) -> Backlog:
        """Deliver the spooled reports, for at most `timeout_seconds`; return what is left.

        Raises UnauthorizedError; the reports stay in the spool.
        """
        self._the_spool()
        await self._ready().flush(timeout_seconds=timeout_seconds)
        return await self.backlog()

    async def backlog(self) -> Backlog:
        """Return how many reports and bytes the spool holds, and since when: watch `oldest_at`."""
        return await asyncio.to_thread(self._the_spool().backlog)

    async def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """Return the newest dead letters: reports that the collector refused, with the reason."""
        spool = self._the_spool()
        return await asyncio.to_thread(lambda: spool.dead_letters(limit=limit))

    async def requeue_dead_letters(self) -> int:
        """Queue all dead letters again; return how many."""
        count = await asyncio.to_thread(self._the_spool().requeue_dead_letters)
        self._ready().wake.set()
        return count

    async def discard_dead_letters(self) -> int:
        """Delete all dead letters, which frees room in the spool; return how many."""
        return await asyncio.to_thread(self._the_spool().discard_dead_letters)

    @property
    def problem(self) -> str | None:
        """Why the last attempt delivered nothing; None after a success."""
        return self._notes.text

    async def close(self, *, timeout_seconds: float = 5.0) -> None:
        """Deliver what waits, for at most `timeout_seconds`, then stop; the rest stays spooled."""
        if self._is_closed:
            return
        if self._spool is not None and timeout_seconds > 0:
            with contextlib.suppress(ClientError):  # it stays spooled, and `problem` says why
                await self.flush(timeout_seconds=timeout_seconds)
        self._is_closed = True
        exit_flush.forget(self)
        if self._sender is not None and self._sender.loop is asyncio.get_running_loop():
            await self._sender.stop()
        if self._spool is not None:
            await asyncio.to_thread(self._spool.close)

    async def __aenter__(self) -> Self:
        self._ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _the_spool(self) -> Spool:
        if self._is_closed:
            raise ClientError("this client is closed")
        if self._spool is None:
            raise ClientError("this client has no spool: use send(), or give it a file")
        return self._spool

    def _ready(self) -> Sender:
        """Return the sender of the running loop; a new one if its loop has ended."""
        if self._is_closed:
            raise ClientError("this client is closed")
        loop = asyncio.get_running_loop()
        if self._sender is None or self._sender.loop is not loop:
            if self._sender is not None and self._sender.loop.is_running():
                raise ClientError(
                    "this client sends in another event loop, which still runs: make one client "
                    "for each loop",
                    kind="sender",
                )
            self._sender = Sender(self._sending)
            if self._spool is not None and self.exit_flush_seconds > 0:
                the_workers()  # started now: no thread can start while the interpreter exits
                exit_flush.register(self)
        self._sender.start()
        return self._sender

    def flush_at_exit(self, *, timeout_seconds: float) -> None:
        """Close at the end of the program, in an event loop of its own."""
        if self._sender is None or self._sender.loop.is_running():
            return
        loop = WorkerLoop()
        try:
            loop.run_until_complete(self.close(timeout_seconds=timeout_seconds))
        finally:
            loop.close()

    def before_fork(self) -> None:
        """Do nothing: the spool closes its file by itself."""

    def after_fork_in_parent(self) -> None:
        """Do nothing."""

    def after_fork_in_child(self) -> None:
        """Drop the parent's sender; the next call starts one in the child's event loop."""
        _OF_PARENTS.append(self._sender)
        self._sender = None


_OF_PARENTS: list[object] = []
"""Senders inherited by a fork. They are kept unclosed: closing would end the parent's
connections."""
