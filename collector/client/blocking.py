"""`Client`: for programs without an event loop; a thread of its own sends."""

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
"""So much longer than its deadline a call waits for the thread that sends to say so."""


class Client:
    """Reports traffic to the collector at `url`.

    With `spool`, `queue` returns as soon as a report is on disk and a thread delivers it, through
    outages and restarts; `send` delivers before it returns. May be shared among threads. After a
    fork, parent and child go on each with a thread and connections of its own.

    Example:
        >>> client = Client("https://traffic.example.com", key="rk_...", spool="spool.sqlite3")
        >>> client.queue(Report(user="alice", server="de-1", upload_bytes=1, download_bytes=2))
        ['8f0e...']

    Args:
        url: The collector's address.
        key: A reporter key, for programs that report for any user.
        subscription: In its place a user's subscription token or link, `/sub/TOKEN` too, for apps
            that report for their own user.
        spool: The file in which reports wait; several processes may share it.
        max_spool_bytes: When it holds so much, `queue` raises SpoolFullError.
        batch_reports: The most that one request carries.
        timeout_seconds: The most that one request takes, from looking up the name to the last byte
            of the answer.
        ca_file: Certificates to trust in place of the usual ones, in PEM.
        proxy: The address of a proxy; without it, that of HTTPS_PROXY and the like.
        headers: Further headers of each request.
        on_error: Called with a ClientError, in the thread that sends, when delivery begins to fail
            or fails in another way, and for reports that are refused. It must not wait for the
            client.
        exit_flush_seconds: So long the end of the program waits for what is queued; 0 not at all.
        transport: Makes the requests in place of httpx's own.

    Raises:
        ClientError: An argument cannot be right.
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
        """Keep reports on disk, to be sent soon; return their ids.

        Raises SpoolFullError when there is no room (nothing was kept), SpoolError when the disk
        refuses, and ClientError when the client is closed or nothing could send (nothing was kept).

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
        """Send reports past the spool and return what became of them, within so long in all.

        Raises UnauthorizedError, or NotDeliveredError with what is left; sending the same reports
        again doubles nothing.

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
        """Deliver what the spool holds, within so long in all; return what is left in it.

        Where processes share the spool, what others are sending is waited for.

        Raises UnauthorizedError; what is spooled stays there.

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
        """Return how much waits in the spool, and since when: watch `oldest_at`."""
        return self._the_spool().backlog()

    def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """Return the reports that were set aside last, at most so many, with the reason."""
        return self._the_spool().dead_letters(limit=limit)

    def requeue_dead_letters(self) -> int:
        """Queue what was set aside once more; return how many."""
        count = self._the_spool().requeue_dead_letters()
        background, sender = self._ready()
        background.soon(sender.wake.set)
        return count

    def discard_dead_letters(self) -> int:
        """Forget what was set aside, which makes room in the spool; return how many there were."""
        return self._the_spool().discard_dead_letters()

    @property
    def problem(self) -> str | None:
        """Why nothing is delivered just now; None while all is well."""
        return self._notes.text

    def close(self, *, timeout_seconds: float = 5.0) -> None:
        """Deliver what waits, for so long at most, and end; the rest stays in the spool."""
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
        """Return the thread that sends, begun anew where it has ended or did not survive a fork."""
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
        """Close at the end of the program, what this process has begun."""
        if self._background is not None:
            self.close(timeout_seconds=timeout_seconds)

    def before_fork(self) -> None:
        """Have no thread of this process begin while it forks."""
        self._starting.acquire()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._starting.release()

    def after_fork_in_child(self) -> None:
        """Begin anew with the next call: neither thread nor connections are the child's."""
        self._starting = threading.Lock()
        _OF_PARENTS.append((self._background, self._sender))
        self._background = self._sender = None


_OF_PARENTS: list[object] = []
"""What a child must neither use nor close: closing would end the parent's connections."""
