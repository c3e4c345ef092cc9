"""Group commit: requests are queued, and one thread stores all queued ones in one commit.

A request is answered when the commit with its reports is on disk. The queue is bounded in reports;
when it is full, requests are refused.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from collector.errors import (
    DiskFullError,
    LedgerUnavailableError,
    NotStoredError,
    QueueFullError,
)
from collector.intake.ingest import IngestOptions, OnStored
from collector.ledger import Batch, Receipt
from collector.runtime.outage import Outage

log = logging.getLogger(__name__)

T = TypeVar("T")
_DEFECT = "unexpected error in the ledger's writing thread"
_SEE_LOG = "not stored: the collector's log says why"


class _Store(NamedTuple):
    batch: Batch
    on_stored: OnStored


class _Task(NamedTuple):
    run: Callable[[], Any]
    future: asyncio.Future[Any]


class Turn(NamedTuple):
    """What the writing thread does next: one commit, and then at most one other task."""

    group: Sequence[_Store] = ()
    task: _Task | None = None
    is_last: bool = False
    """Whether the queue is closed and empty."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing was queued."""
        return not self.group and self.task is None


class GroupCommit:
    """The queue of requests for a ledger, and its writing thread.

    `record` stores batches in one commit. The thread runs what `start` is given: a loop of `take`
    and `do`. `on_answered` is called in the event loop after the callers of a commit are answered.

    `gather_seconds` tells for how long requests wait for more of them while nothing is being
    stored; they do not once there are as many reports as were answered and have come since. They
    wait in the event loop: so the thread is woken once for a commit.
    """

    def __init__(
        self,
        record: Callable[[Sequence[Batch]], list[Receipt]],
        options: IngestOptions,
        *,
        on_answered: Callable[[], None] = lambda: None,
        gather_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._record = record
        self._metrics = options.metrics
        self._max_queued_reports = options.max_queued_reports
        self._max_group_reports = options.max_group_reports
        self._on_answered = on_answered
        self._gather_seconds = gather_seconds
        self._queue: queue.SimpleQueue[_Store | _Task | None] = queue.SimpleQueue()
        self._submitted: list[_Store] = []
        """Requests that the thread does not have yet."""
        self._submitted_reports = self._queued_reports = 0
        self._is_scheduled = False
        """Whether it is settled when the thread is to have them."""
        self._is_held = False
        """Whether that is to be settled with the answers to what is being stored."""
        self._gathering: asyncio.TimerHandle | None = None
        self._expected_reports = 0
        """So many reports are not waited for any longer."""
        self._metrics.queued_reports.set_function(lambda: self._queued_reports)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_stopping = False
        self.last_reports = 0
        """How many reports the last commit had."""
        self.last_seconds = 0.0
        """How long it took."""
        self._is_unavailable = False
        self._outage = Outage(
            "storing", fails="storing fails: %s", works="storing works again", log=log
        )

    @property
    def is_running(self) -> bool:
        """Whether the writing thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def problems(self) -> list[str]:
        """Why nothing is stored now; empty if reports are stored."""
        problems = [] if self.is_running else ["the ledger's writing thread has stopped"]
        if self._outage.reason:
            problems.append(f"the last commit failed: {self._outage.reason}")
        return problems

    def start(self, work: Callable[[], None]) -> None:
        """Start the writing thread, which runs `work`."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=work, name="ledger-writer", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Close the queue, and return when the thread has worked it off."""
        self.is_stopping = True
        self._hand_over()
        self._queue.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    async def submit(self, batch: Batch) -> Receipt:
        """Return once the batch is on disk; see `Ingest.submit`."""
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.enqueue(batch, lambda outcome: _resolve(future, outcome))
        return await future

    def enqueue(self, batch: Batch, on_stored: OnStored) -> None:
        """Queue a batch; see `Ingest.enqueue`."""
        self.refuse_if_stopping()
        size = len(batch.reports)
        if self._queued_reports and self._queued_reports + size > self._max_queued_reports:
            raise QueueFullError(
                f"{self._queued_reports} reports are waiting to be stored; try again in a second"
            )
        self._queued_reports += size
        self._submitted_reports += size
        self._submitted.append(_Store(batch, on_stored))
        if not self._is_scheduled:
            self._schedule()
        elif self._gathering and self._submitted_reports >= self._expected_reports:
            self._hand_over_soon()

    def _schedule(self) -> None:
        """Have the submitted requests handed over now or later."""
        self._is_scheduled, self._is_held = True, False
        seconds = self._gather_seconds()
        if seconds and self._submitted_reports < self._queued_reports:
            self._is_held = True
        elif not seconds or self._submitted_reports >= self._expected_reports:
            self._hand_over_soon()
        else:
            loop = asyncio.get_running_loop()
            self._gathering = loop.call_later(seconds, self._hand_over)

    def _hand_over_soon(self) -> None:
        self._stop_gathering()
        asyncio.get_running_loop().call_soon(self._hand_over)

    def _stop_gathering(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None

    def _hand_over(self) -> None:
        """Pass on all requests of one event loop iteration, to wake the thread only once."""
        self._stop_gathering()
        self._is_scheduled = self._is_held = False
        for item in self._submitted:
            self._queue.put(item)
        self._submitted.clear()
        self._submitted_reports = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Run a call in the writing thread, between commits; raises what the call raises."""
        self.refuse_if_stopping()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(_Task(work, future))
        return await future

    def refuse_if_stopping(self) -> None:
        """Raise NotStoredError when the collector is stopping."""
        if self.is_stopping:
            raise NotStoredError("the collector is stopping; retry when it runs again")

    def take(self, wait_seconds: float | None) -> Turn:
        """Return the next turn, which is idle after `wait_seconds`; for the writing thread."""
        try:
            first = self._queue.get(timeout=wait_seconds)
        except queue.Empty:
            return Turn()
        return self._drain(first)

    def _drain(self, first: _Store | _Task | None) -> Turn:
        """Take the queued batches for one commit, up to the first item that is another task."""
        group: list[_Store] = []
        reports = 0
        item = first
        while True:
            if item is None:
                return Turn(group, is_last=True)
            if isinstance(item, _Task):
                return Turn(group, item)
            group.append(item)
            reports += len(item.batch.reports)
            if reports >= self._max_group_reports:
                return Turn(group)
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return Turn(group)

    def do(self, turn: Turn) -> None:
        """Carry out a turn and answer its callers; for the writing thread."""
        if turn.group:
            self._store(turn.group)
        if turn.task:
            self._do_task(turn.task)

    def _store(self, group: Sequence[_Store]) -> None:
        started_at = time.perf_counter()
        outcomes: list[Receipt | Exception]
        try:
            outcomes = list(self._record([item.batch for item in group]))
        except (DiskFullError, LedgerUnavailableError) as error:
            outcomes = [error] * len(group)
        except NotStoredError as error:
            # One request may be the cause: store them one by one, so that only that one fails.
            outcomes = [self._record_alone(item) for item in group] if group[1:] else [error]
        except Exception:  # an unexpected error must not leave callers waiting
            log.exception(_DEFECT)
            outcomes = [NotStoredError(_SEE_LOG)] * len(group)
        self.last_seconds = time.perf_counter() - started_at
        self.last_reports = sum(len(item.batch.reports) for item in group)
        self._metrics.commit_seconds.observe(self.last_seconds)
        self._metrics.group_reports.observe(self.last_reports)
        self._note_health(outcomes)
        self._answer(group, outcomes)

    def _record_alone(self, item: _Store) -> Receipt | Exception:
        try:
            return self._record([item.batch])[0]
        except NotStoredError as error:
            return error
        except Exception:  # nor may one of a request end the thread
            log.exception(_DEFECT)
            return NotStoredError(_SEE_LOG)

    def _note_health(self, outcomes: Sequence[Receipt | Exception]) -> None:
        errors = [each for each in outcomes if isinstance(each, Exception)]
        self._is_unavailable = any(isinstance(each, LedgerUnavailableError) for each in errors)
        if errors:
            self._outage.failed(str(errors[0]))
        else:
            self._outage.recovered()

    def note_recovery(self) -> None:
        """Clear the problem of an unreachable server, once it can be reached again."""
        if self._is_unavailable:
            self._is_unavailable = False
            self._outage.forget()

    def _answer(self, group: Sequence[_Store], outcomes: Sequence[Receipt | Exception]) -> None:
        def deliver() -> None:
            answered_reports = sum(len(item.batch.reports) for item in group)
            self._queued_reports -= answered_reports
            for item, outcome in zip(group, outcomes, strict=True):
                try:
                    item.on_stored(outcome)
                except Exception:  # the others have their answers all the same
                    log.exception("unexpected error in the answer to stored reports")
            self._expected_reports = answered_reports + self._submitted_reports
            if self._is_held:
                self._schedule()
            self._on_answered()

        self.call_in_loop(deliver)

    def _do_task(self, task: _Task) -> None:
        outcome: Any
        try:
            outcome = task.run()
        except Exception as error:  # noqa: BLE001 - handed to the caller
            outcome = error
        self.call_in_loop(lambda: _resolve(task.future, outcome))

    def call_in_loop(self, callback: Callable[[], None]) -> None:
        """Schedule a call in the event loop of the callers."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(callback)


def _resolve(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():  # the client disconnected; its reports are stored nevertheless
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
