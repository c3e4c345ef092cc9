"""Group commit: requests queue, one thread stores what is there in one commit, then answers all.

Nobody is answered before the commit that holds their reports is on disk. The queue is bounded in
reports; a full one refuses instead of growing. While commits follow each other closely, reports are
stored first and added up a little later, many at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from collector.errors import (
    DiskFullError,
    LedgerUnavailableError,
    NotStoredError,
    QueueFullError,
)
from collector.ledger import Batch, Ledger, Receipt
from collector.metrics import Metrics
from collector.reports.report import Limits, kept_millis, purge_horizon_millis

log = logging.getLogger(__name__)

T = TypeVar("T")

PURGE_SECONDS = 60.0
PURGE_AGAIN_SECONDS = 0.1
PURGE_ROWS = 5000
BUSY_SECONDS = 0.05
"""Commits that follow each other more closely leave adding up for later."""
FOLD_IDLE_SECONDS = 0.02
"""So long without a request, and what is left is added up."""
FOLD_SECONDS = 1.0
"""So long a report is in no sum while others keep coming, where adding up is quick."""
FOLD_SHARE = 0.2
"""Of the time may go into adding up: the fuller a ledger, the more pages a fold touches, and the
more reports should share one."""
FOLD_MAX_SECONDS = 5.0
"""The longest that a report is in no sum, but for the time that adding up takes."""
FOLD_REPORTS = 100_000
FOLD_RETRY_SECONDS = 1.0


class _Work(Generic[T]):
    """Something for the writing thread, and the future that waits for its outcome."""

    def __init__(self, future: asyncio.Future[T]) -> None:
        self.future = future


class _Store(_Work[Receipt]):
    def __init__(self, batch: Batch, future: asyncio.Future[Receipt]) -> None:
        super().__init__(future)
        self.batch = batch


class _Task(_Work[Any]):
    def __init__(self, run: Callable[[Ledger], Any], future: asyncio.Future[Any]) -> None:
        super().__init__(future)
        self.run = run


class CommitSignal:
    """Wakes everybody who waits for the next commit."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.is_closed = False

    def notify(self) -> None:
        """Wake all who wait now."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    def close(self) -> None:
        """Wake all for the last time; nobody waits any more."""
        self.is_closed = True
        self.notify()

    def subscribe(self) -> asyncio.Event:
        """Return the event that the next commit sets; take it before looking, then wait on it."""
        return self._event


class Ingest:
    """The queue before a ledger and the thread that empties it.

    `start` and `stop` belong to the event loop that also submits; `stop` stores what is queued.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        now_millis: Callable[[], int],
        metrics: Metrics,
        max_queued_reports: int = 100_000,
        max_group_reports: int = 10_000,
        limits: Limits,
        keeps_unexported: bool = False,
        adds_up: bool = True,
        on_stored: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._now_millis = now_millis
        self._metrics = metrics
        self._max_queued_reports = max_queued_reports
        self._max_group_reports = max_group_reports
        self._limits = limits
        self.keeps_unexported = keeps_unexported
        self._adds_up = adds_up
        """Whether the writing thread adds up and purges; else whoever leads does, see `leading`."""
        self.on_stored = on_stored
        """Is called after each commit, by the writing thread."""
        self._queue: queue.SimpleQueue[_Work[Any] | None] = queue.SimpleQueue()
        self._submitted: list[_Store] = []
        self._queued_reports = 0
        metrics.queued_reports.set_function(lambda: self._queued_reports)
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_stopping = False
        self._stored_at = -math.inf
        self._unfolded = 0
        self._unfolded_since = 0.0
        self._fold_after_seconds = FOLD_SECONDS
        self._aged_at = time.monotonic()
        self.commits = CommitSignal()
        self._is_unavailable = False
        self.last_error: str | None = None
        self.fold_error: str | None = None
        """Why reports that are stored are not in the sums."""

    @property
    def is_running(self) -> bool:
        """Whether the writing thread is there to store anything."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the writing thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """Store what is queued, then end the thread and wake everybody who waits for a commit."""
        self._is_stopping = True
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self.commits.close()

    async def submit(self, batch: Batch) -> Receipt:
        """Return once the batch is on disk.

        Raises QueueFullError, DiskFullError or NotStoredError; then nothing of it was stored.
        """
        self._refuse_if_stopping()
        size = len(batch.reports)
        if self._queued_reports and self._queued_reports + size > self._max_queued_reports:
            raise QueueFullError(
                f"{self._queued_reports} reports are waiting to be stored; try again in a second"
            )
        self._queued_reports += size
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Receipt] = loop.create_future()
        if not self._submitted:
            loop.call_soon(self._hand_over)
        self._submitted.append(_Store(batch, future))
        return await future

    def _hand_over(self) -> None:
        """Give the writing thread what came in one turn of the loop; each waking costs a turn."""
        for item in self._submitted:
            self._queue.put(item)
        self._submitted.clear()

    async def run(self, work: Callable[[Ledger], T]) -> T:
        """Do something else with the ledger, between commits where one thread writes it.

        Raises NotStoredError when the collector is stopping, and what the work raises.
        """
        self._refuse_if_stopping()
        if not self._adds_up:  # it may have to wait for the leader, and commits need not
            return await asyncio.to_thread(work, self._ledger)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(_Task(work, future))
        return await future

    async def catch_up(self) -> None:
        """Return once every report stored so far is in the sums.

        Raises NotStoredError when they cannot be added up now.
        """
        if self._unfolded and not self._is_stopping:
            await self.run(lambda _: self._fold() if self._unfolded else None)

    def _refuse_if_stopping(self) -> None:
        if self._is_stopping:
            raise NotStoredError("the collector is stopping; send again when it is back")

    def _run(self) -> None:
        purge_at = time.monotonic() + PURGE_SECONDS
        is_last = False
        while not is_last:
            wait_seconds = max(0.0, purge_at - time.monotonic()) if self._adds_up else None
            if self._unfolded:
                pause_seconds = FOLD_RETRY_SECONDS if self.fold_error else FOLD_IDLE_SECONDS
                wait_seconds = min(wait_seconds or pause_seconds, pause_seconds)
            group: list[_Store] = []
            other: _Task | None = None
            with contextlib.suppress(queue.Empty):
                group, other, is_last = self._drain(self._queue.get(timeout=wait_seconds))
            if group:
                self._store(group)
            if other:
                self._do(other)
            is_idle = not group and other is None
            if self._unfolded and (is_idle or is_last or self._is_fold_due()):
                self._try_fold()
            if self._adds_up and time.monotonic() >= purge_at:
                purge_at = time.monotonic() + self._purge()

    def _is_fold_due(self) -> bool:
        age_seconds = time.monotonic() - self._unfolded_since
        if self.fold_error:
            return age_seconds >= FOLD_RETRY_SECONDS
        return self._unfolded >= FOLD_REPORTS or age_seconds >= self._fold_after_seconds

    def _try_fold(self) -> None:
        try:
            self._fold()
        except Exception as error:  # what is stored stays stored, and is added up later
            self._unfolded_since = time.monotonic()
            if self.fold_error is None:
                is_expected = isinstance(error, NotStoredError)
                log.error(  # noqa: TRY400 - a traceback for what nobody expects alone
                    "adding up fails: %r", error, exc_info=None if is_expected else error
                )
            self.fold_error = str(error)

    def _fold(self) -> None:
        started_at = time.perf_counter()
        self._ledger.fold()
        self._note_added_up()
        took_seconds = time.perf_counter() - started_at
        self._fold_after_seconds = fold_after_seconds(took_seconds)
        self._metrics.fold_seconds.observe(took_seconds)
        if self._loop:
            self._loop.call_soon_threadsafe(self.commits.notify)

    def _note_added_up(self) -> None:
        """Note that every report is in the sums, after a fold or a commit that adds up at once."""
        self._unfolded = 0
        if self.fold_error is not None:
            log.warning("adding up works again")
            self.fold_error = None

    def _drain(self, first: _Work[Any] | None) -> tuple[list[_Store], _Task | None, bool]:
        """Take what is queued now: batches for one commit, up to the first that is none."""
        group: list[_Store] = []
        reports = 0
        item = first
        while True:
            if item is None:
                return group, None, True
            if isinstance(item, _Task):
                return group, item, False
            if isinstance(item, _Store):
                group.append(item)
                reports += len(item.batch.reports)
            if reports >= self._max_group_reports:
                return group, None, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return group, None, False

    def _store(self, group: Sequence[_Store]) -> None:
        started_at = time.perf_counter()
        outcomes: list[Receipt | Exception]
        try:
            outcomes = list(self._record(group))
        except (DiskFullError, LedgerUnavailableError) as error:
            outcomes = [error] * len(group)
        except NotStoredError as error:
            # One request may be at fault; alone it fails alone.
            outcomes = [self._record_alone(item) for item in group] if group[1:] else [error]
        except Exception:  # a defect must not leave callers waiting for ever
            log.exception("the ledger writer met a defect")
            outcomes = [NotStoredError("not stored: the collector's log says why")] * len(group)
        self._metrics.commit_seconds.observe(time.perf_counter() - started_at)
        self._metrics.group_reports.observe(sum(len(item.batch.reports) for item in group))
        self._note_health(outcomes)
        self._answer(group, outcomes)

    def _record(self, group: Sequence[_Store]) -> list[Receipt]:
        batches = [item.batch for item in group]
        is_busy = not self._adds_up or time.monotonic() - self._stored_at < BUSY_SECONDS
        receipts = self._ledger.record(
            batches, received_at_millis=self._now_millis(), defers_sums=is_busy
        )
        self._stored_at = time.monotonic()
        self.on_stored()
        if not self._adds_up:
            return receipts
        if not is_busy:
            self._note_added_up()
        elif accepted := sum(receipt.accepted for receipt in receipts):
            if not self._unfolded:
                self._unfolded_since = self._stored_at
            self._unfolded += accepted
        return receipts

    def _record_alone(self, item: _Store) -> Receipt | Exception:
        try:
            return self._record([item])[0]
        except NotStoredError as error:
            return error

    def _note_health(self, outcomes: Sequence[Receipt | Exception]) -> None:
        errors = [each for each in outcomes if isinstance(each, Exception)]
        if errors and self.last_error is None:
            log.error("storing fails: %s", errors[0])
        if not errors and self.last_error is not None:
            log.warning("storing works again")
        self._is_unavailable = any(isinstance(each, LedgerUnavailableError) for each in errors)
        self.last_error = str(errors[0]) if errors else None

    def note_recovery(self) -> None:
        """Forget that the ledger's server could not be reached: it can, if nothing came since."""
        if self._is_unavailable:
            self._is_unavailable = False
            self.last_error = None

    def _answer(self, group: Sequence[_Store], outcomes: Sequence[Receipt | Exception]) -> None:
        if self._loop is None:
            return

        def deliver() -> None:
            self._queued_reports -= sum(len(item.batch.reports) for item in group)
            for item, outcome in zip(group, outcomes, strict=True):
                _resolve(item.future, outcome)
            if self._adds_up:
                self.commits.notify()

        self._loop.call_soon_threadsafe(deliver)

    def _do(self, task: _Task) -> None:
        outcome: Any
        try:
            outcome = task.run(self._ledger)
        except Exception as error:  # noqa: BLE001 - handed to whoever asked
            outcome = error
        if self._loop:
            self._loop.call_soon_threadsafe(_resolve, task.future, outcome)

    def _purge(self) -> float:
        """Drop some reports whose ids need not be known any more; return when to come again."""
        before_millis = purge_horizon_millis(self._limits, now_millis=self._now_millis())
        now_seconds = time.monotonic()
        try:
            old_seq = self._ledger.age(
                ran_millis=int((now_seconds - self._aged_at) * 1000),
                kept_millis=kept_millis(self._limits),
            )
            self._aged_at = now_seconds
            removed = self._ledger.forget_reports(
                before_millis=before_millis,
                limit=PURGE_ROWS,
                keeps_unexported=self.keeps_unexported,
                through_seq=old_seq,
            )
        except NotStoredError as error:
            log.warning("old reports could not be purged: %s", error)
            return PURGE_SECONDS
        return PURGE_AGAIN_SECONDS if removed == PURGE_ROWS else PURGE_SECONDS


def fold_after_seconds(last_fold_seconds: float) -> float:
    """Return how long to let reports gather before they are added up."""
    return min(
        FOLD_MAX_SECONDS, max(FOLD_SECONDS, last_fold_seconds * (1 - FOLD_SHARE) / FOLD_SHARE)
    )


def _resolve(future: asyncio.Future[Any], outcome: Any) -> None:
    if future.done():  # the client went away; its reports are stored all the same
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
