"""`Client`: for programs without an event loop; a thread of its own empties the spool."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from collector.client.delivery import (
    DEFAULT_BATCH_REPORTS,
    Answer,
    Call,
    Delivery,
    Empty,
    NoAnswer,
    Post,
    Progress,
    Setback,
    Step,
)
from collector.client.errors import ClientError, UnauthorizedError
from collector.client.failures import no_answer
from collector.client.outbox import Backlog, DeadLetter
from collector.client.pace import Pace
from collector.client.receipt import Receipt
from collector.client.report import Report
from collector.client.spool import DEFAULT_MAX_BYTES, REPORTS, Spool, wall_clock_millis
from collector.client.target import (
    DEFAULT_TIMEOUT_SECONDS,
    IDLE_SECONDS,
    LINGER_SECONDS,
    MAX_ANSWER_BYTES,
    OTHERS_SECONDS,
    Target,
    join,
    undelivered,
)

T = TypeVar("T")


class Client:
    """Reports traffic to the collector at `url`.

    `key` is a reporter key; `subscription` is a user's subscription token or URL instead, for apps
    that report for their own user. With `spool`, a file, `queue` keeps reports there and a thread
    delivers them. Make it after forking; share it among threads as you like.
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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._target = Target(
            url=url, key=key, subscription=subscription, batch_reports=batch_reports
        )
        self._http = httpx.Client(timeout=timeout_seconds, transport=transport)
        self._problem: str | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._sending = threading.Lock()
        self._spool: Spool | None = None
        if spool is not None:
            self._spool = Spool(Path(spool), max_bytes=max_spool_bytes)
            lane = self._spool.lane(REPORTS)
            self._delivery = Delivery(lane, self._target.parcel(), now_millis=wall_clock_millis)
            self._sender = threading.Thread(target=self._run, name="traffic-sender", daemon=True)
            self._sender.start()

    def queue(self, *reports: Report) -> list[str]:
        """Keep reports on disk, to be sent soon; return their ids.

        Raises SpoolFullError when there is no room (nothing was kept) and SpoolError when the disk
        refuses.
        """
        encoded = self._target.encoded(reports)
        self._the_spool().put(REPORTS, encoded)
        self._wake.set()
        return [report_id for report_id, _ in encoded]

    def send(self, *reports: Report, give_up_seconds: float = 60.0) -> Receipt:
        """Send reports past the spool and return what became of them, trying again for so long.

        Raises UnauthorizedError, or NotDeliveredError with what is left; sending that again
        doubles nothing.
        """
        outbox = self._target.outbox(reports)
        delivery = Delivery(outbox, self._target.parcel(), now_millis=wall_clock_millis)
        pace = Pace(chance=random.random)
        deadline = time.monotonic() + give_up_seconds
        receipt = Receipt()
        while True:
            step = self._drive(delivery.attempt())
            if isinstance(step, Empty):
                return receipt
            if isinstance(step, Progress):
                receipt += step.receipt
                pace.succeed()
                continue
            self._check_known(step)
            wait_seconds = pace.wait_seconds(asked_seconds=step.after_seconds)
            if time.monotonic() + wait_seconds > deadline:
                raise undelivered(reports, outbox, step, self._told(step))
            time.sleep(wait_seconds)

    def flush(self, *, timeout_seconds: float = 30.0) -> Backlog:
        """Deliver what the spool holds, for so long at most; return what is left in it.

        Raises UnauthorizedError; what is spooled stays there.
        """
        pace = Pace(chance=random.random)
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            step = self._attempt()
            if isinstance(step, Empty):
                if not self._the_spool().backlog(REPORTS).items:
                    break
                time.sleep(OTHERS_SECONDS)  # another process sends the rest
                continue
            if isinstance(step, Progress):
                pace.succeed()
                continue
            self._check_known(step)
            wait_seconds = pace.wait_seconds(asked_seconds=step.after_seconds)
            if time.monotonic() + wait_seconds > deadline:
                break
            time.sleep(wait_seconds)
        return self.backlog()

    def backlog(self) -> Backlog:
        """Return how much waits in the spool, and since when."""
        return self._the_spool().backlog()

    def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """Return the reports that were set aside last, with the reason."""
        return self._the_spool().dead_letters(limit=limit)

    def requeue_dead_letters(self) -> int:
        """Queue what was set aside once more; return how many."""
        count = self._the_spool().requeue_dead_letters()
        self._wake.set()
        return count

    def discard_dead_letters(self) -> int:
        """Forget what was set aside, which makes room in the spool; return how many there were."""
        return self._the_spool().discard_dead_letters()

    @property
    def problem(self) -> str | None:
        """Why nothing is delivered just now; None while all is well."""
        return self._problem

    def close(self, *, timeout_seconds: float = 5.0) -> None:
        """Deliver what waits, for so long at most, and end; the rest stays in the spool."""
        if self._spool is not None and not self._closing.is_set():
            with contextlib.suppress(ClientError):  # it stays spooled, and `problem` says why
                self.flush(timeout_seconds=timeout_seconds)
            self._closing.set()
            self._wake.set()
            self._sender.join(timeout_seconds)
        self._http.close()
        if self._spool is not None:
            self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _the_spool(self) -> Spool:
        if self._spool is None:
            raise ClientError("this client has no spool: use send(), or give it a file")
        return self._spool

    def _run(self) -> None:
        pace = Pace(chance=random.random)
        while not self._closing.is_set():
            try:
                step = self._attempt()
            except ClientError as error:
                step = Setback(str(error))
            if isinstance(step, Progress):
                pace.succeed()
            elif isinstance(step, Empty):
                if self._wake.wait(IDLE_SECONDS):
                    self._wake.clear()
                    self._closing.wait(LINGER_SECONDS)
            else:
                self._closing.wait(pace.wait_seconds(asked_seconds=step.after_seconds))

    def _attempt(self) -> Step:
        self._the_spool()
        with self._sending:
            try:
                step = self._drive(self._delivery.attempt())
            except ClientError as error:
                self._problem = str(error)
                raise
        self._problem = self._told(step) if isinstance(step, Setback) else None
        return step

    def _check_known(self, step: Setback) -> None:
        if step.is_denied:
            raise UnauthorizedError(self._told(step))

    def _told(self, step: Setback) -> str:
        return f"the collector at {self._target.url} {step.reason}"

    def _drive(self, asking: Generator[Post | Call, Any, T]) -> T:
        result: Any = None
        while True:
            try:
                asked = asking.send(result)
            except StopIteration as end:
                done: T = end.value
                return done
            result = asked.run() if isinstance(asked, Call) else self._post(asked)

    def _post(self, post: Post) -> Answer | NoAnswer:
        address = join(self._target.url, post.path)
        try:
            with self._http.stream(
                "POST", address, content=post.content, headers=dict(post.headers)
            ) as response:
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        return NoAnswer("not_a_collector", "answers without end")
        except httpx.HTTPError as error:
            return no_answer(error)
        except RuntimeError:  # closed meanwhile
            return NoAnswer("sender", "was not asked: the client is closed", is_unsent=True)
        return Answer(response.status_code, response.headers, bytes(body))
