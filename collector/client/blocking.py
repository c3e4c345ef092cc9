"""`Client`, for programs without an event loop: a background thread sends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from collector.client.delivery_errors import DeliveryError
from collector.client.errors import ClientError
from collector.client.http_options import DEFAULT_TIMEOUT_SECONDS, HttpOptions
from collector.client.outbox import Backlog, DeadLetter
from collector.client.receipt import Receipt
from collector.client.report import Report
from collector.client.sending import exit_flush, fork_hooks
from collector.client.sending.background_loop import BackgroundLoop
from collector.client.sending.delivery import DEFAULT_BATCH_REPORTS
from collector.client.sending.exit_flush import DEFAULT_EXIT_FLUSH_SECONDS
from collector.client.sending.problem_notes import ErrorCallback, ProblemNotes
from collector.client.sending.sender import Sender, Sending
from collector.client.spool.spool import DEFAULT_MAX_BYTES, REPORTS, Spool
from collector.client.target import Target, undelivered

if TYPE_CHECKING:
    from typing import Self

T = TypeVar("T")
GRACE_SECONDS = 1.0
"""How long after its deadline a call still waits for the background thread to report the
timeout."""


class Client:
    """Reports traffic to the collector at `url`.

    With `spool`, `queue` returns as soon as a report is on disk, and a background thread delivers
    it, also after an outage or a restart. `send` delivers before it returns. Threads may share a
    client. After a fork, parent and child each have a thread and connections of their own.

    Example:
        >>> client = Client("https://traffic.example.com", key="rk_...", spool="spool.sqlite3")
        >>> client.queue(Report(user="alice", server="de-1", upload_bytes=1, download_bytes=2))
        ['8f0e...']

    Args:
        url: The collector's URL, without a path such as `/v1`.
        key: A reporter key, which may report for all users.
        subscription: Instead of a key, a user's subscription token or link (`/sub/TOKEN` too). It
            may report for that user only.
        spool: The file in which queued reports are kept; several processes may share it.
        max_spool_bytes: The bound of the spool; `queue` raises SpoolFullError beyond it.
        batch_reports: The most reports in one request.
        timeout_seconds: The timeout of one request, from the DNS look-up to the last byte of the
            answer.
        ca_file: A PEM file of certificates to trust instead of the system's.
        proxy: The URL of a proxy; default: that of HTTPS_PROXY and the like.
        headers: Additional headers of each request.
        on_error: Called with a ClientError when delivery begins to fail, when the cause of the
            failure changes, and for refused reports. It runs in the background thread, so it must
            not call methods that wait for delivery.
        exit_flush_seconds: How long the program's exit waits for delivery; 0: not at all.
        transport: An httpx transport to use instead of the default one, for tests.

    Raises:
        ClientError: An argument is not valid.
        SpoolError: The spool's file cannot be used.
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
        transport: httpx.BaseTransport | None = None,
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
        self._starting = threading.Lock()
        self._background: BackgroundLoop | None = None
        self._sender: Sender | None = None
        self._is_closed = False
        fork_hooks.register(self)
        if self._spool is not None:
            exit_flush.register(self)
            self._ready()

    def queue(self, *reports: Report) -> list[str]:
        """Append reports to the spool, to be sent soon; return their ids.

        Either all are on disk when it returns, or it raises and none is: SpoolFullError if the
        spool or the disk is full, SpoolError if the file cannot be used, ClientError if the client
        is closed or its sender cannot be started.

        Example:
            >>> client.queue(Report(user="alice", server="de-1", upload_bytes=1, download_bytes=2))
            ['8f0e...']
        """
        encoded = self._sending.target.encoded(reports)
        spool = self._the_spool()
        background, sender = self._ready()
        spool.put(REPORTS, encoded)
        background.soon(sender.wake.set)
        return [report_id for report_id, _ in encoded]

    def send(self, *reports: Report, give_up_seconds: float = 60.0) -> Receipt:
        """Send reports at once, without the spool; return how many were accepted.

        Retries for `give_up_seconds` in all. Raises UnauthorizedError, or NotDeliveredError with
        the reports that were not accepted. Sending the same report objects again counts them once.

        Example:
            >>> client.send(report, give_up_seconds=5).accepted
            1
        """
        self._sending.target.encoded(reports)
        _, sender = self._ready()
        try:
            work = sender.send(reports, give_up_seconds=give_up_seconds)
            return self._call(work, seconds=give_up_seconds)
        except TimeoutError:
            said = f"the collector at {self._sending.target.url} did not answer in time"
            outbox = self._sending.target.outbox(reports)
            raise undelivered(reports, outbox, DeliveryError(said, kind="timeout")) from None

    def flush(self, *, timeout_seconds: float = 30.0) -> Backlog:
        """Deliver the spooled reports, for at most `timeout_seconds`; return what is left.

        If processes share the spool, it also waits for reports that others are sending.

        Raises UnauthorizedError; the reports stay in the spool.

        Example:
            >>> client.flush(timeout_seconds=5).items
            0
        """
        self._the_spool()
        _, sender = self._ready()
        with contextlib.suppress(TimeoutError):
            self._call(sender.flush(timeout_seconds=timeout_seconds), seconds=timeout_seconds)
        return self.backlog()

    def backlog(self) -> Backlog:
        """Return how many reports and bytes the spool holds, and since when: watch `oldest_at`."""
        return self._the_spool().backlog()

    def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """Return the newest dead letters: reports that the collector refused, with the reason."""
        return self._the_spool().dead_letters(limit=limit)

    def requeue_dead_letters(self) -> int:
        """Queue all dead letters again; return how many."""
        count = self._the_spool().requeue_dead_letters()
        background, sender = self._ready()
        background.soon(sender.wake.set)
        return count

    def discard_dead_letters(self) -> int:
        """Delete all dead letters, which frees room in the spool; return how many."""
        return self._the_spool().discard_dead_letters()

    @property
    def problem(self) -> str | None:
        """Why the last attempt delivered nothing; None after a success."""
        return self._notes.text

    def close(self, *, timeout_seconds: float = 5.0) -> None:
        """Deliver what waits, for at most `timeout_seconds`, then stop; the rest stays spooled."""
        if self._is_closed:
            return
        background = self._background
        if background is not None and background.is_alive:
            with contextlib.suppress(ClientError):  # it stays spooled, and `problem` says why
                if self._spool is not None and timeout_seconds > 0:
                    self.flush(timeout_seconds=timeout_seconds)
            self._is_closed = True
            if self._sender is not None:
                with contextlib.suppress(TimeoutError, ClientError):
                    background.call(self._sender.stop(), timeout_seconds=GRACE_SECONDS)
            background.stop(timeout_seconds=GRACE_SECONDS)
        self._is_closed = True
        exit_flush.forget(self)
        if self._spool is not None:
            self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _the_spool(self) -> Spool:
        if self._is_closed:
            raise ClientError("this client is closed")
        if self._spool is None:
            raise ClientError("this client has no spool: use send(), or give it a file")
        return self._spool

    def _ready(self) -> tuple[BackgroundLoop, Sender]:
        """Return the background thread and its sender; new ones after a fork or if it has ended."""
        if self._is_closed:
            raise ClientError("this client is closed")
        with self._starting:
            if self._background is None or not self._background.is_alive:
                self._background = BackgroundLoop("traffic-sender")
                self._sender = None
            background = self._background
            if self._sender is None:
                self._sender = background.call(self._make(), timeout_seconds=GRACE_SECONDS * 10)
            background.soon(self._sender.start)
            return background, self._sender

    async def _make(self) -> Sender:
        return Sender(self._sending)

    def _call(self, work: Coroutine[Any, Any, T], *, seconds: float) -> T:
        if self._background is None:
            work.close()
            raise ClientError("this client is closed")
        return self._background.call(work, timeout_seconds=seconds + GRACE_SECONDS)

    def flush_at_exit(self, *, timeout_seconds: float) -> None:
        """Close at the end of the program, unless another process started the sender."""
        if self._background is not None:
            self.close(timeout_seconds=timeout_seconds)

    def before_fork(self) -> None:
        """Take the lock, so that no background thread starts during the fork."""
        self._starting.acquire()

    def after_fork_in_parent(self) -> None:
        """Release the lock."""
        self._starting.release()

    def after_fork_in_child(self) -> None:
        """Drop the parent's thread and connections; the next call starts new ones."""
        self._starting = threading.Lock()
        _OF_PARENTS.append((self._background, self._sender))
        self._background = self._sender = None


_OF_PARENTS: list[object] = []
"""Senders inherited by a fork. They are kept unclosed: closing would end the parent's
connections."""
