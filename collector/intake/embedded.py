"""The ingest of an embedded ledger: one thread stores, adds up, purges and runs all other writes.

Under load, reports are stored first and added up a little later (`deferred_sums`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from collector.errors import NotStoredError
from collector.intake import free_memory
from collector.intake.commit_signal import CommitSignal
from collector.intake.deferred_sums import DeferredSums
from collector.intake.group_commit import GroupCommit
from collector.intake.ingest import IngestOptions, OnStored
from collector.intake.purge import Purge
from collector.ledger import Batch, Receipt
from collector.ledger.ports import EmbeddedLedger, Ledger

log = logging.getLogger(__name__)

T = TypeVar("T")

QUIET_SECONDS = 1.0
"""After this time without a request, what the load before it left free is given back."""
LARGE_FOLD_REPORTS = 65_536
"""So does a fold of so many reports or more, which takes some 60 bytes for each of its rows."""


class EmbeddedIngest:
    """An `Ingest` whose thread is the only writer of the ledger."""

    leads = True

    def __init__(
        self, ledger: EmbeddedLedger, options: IngestOptions, *, unfolded_reports: int = 0
    ) -> None:
        self._ledger = ledger
        self._refusal: str | None = None
        self._now_millis = options.now_millis
        self.commits = CommitSignal()
        self._writer = GroupCommit(self._record, options, on_answered=self.commits.notify)
        self._sums = DeferredSums(ledger, metrics=options.metrics, on_added_up=self._note_added_up)
        self._sums.note_unfolded(unfolded_reports)
        self._purge = Purge(ledger, options)
        self._quiet_at: float | None = None
        """When memory may be given back; None while nothing was added up since the last time."""

    @property
    def problems(self) -> list[str]:
        """Why reports are not stored or not added up now; empty if they are."""
        problems = self._writer.problems
        if self._refusal:
            problems.append(self._refusal)
        if self._sums.error:
            problems.append(f"reports are stored, but not added up: {self._sums.error}")
        return problems

    @property
    def warnings(self) -> tuple[str, ...]:
        """No warnings."""
        return ()

    def start(self) -> None:
        """Start the writing thread."""
        self._writer.start(self._run)

    def refuse(self, reason: str) -> None:
        """Acknowledge nothing from now on, and change nothing; for any thread."""
        self._refusal = reason

    async def stop(self) -> None:
        """Store and add up what is queued, then end the thread and wake all waiting readers."""
        await self._writer.stop()
        self.commits.close()

    def enqueue(self, batch: Batch, on_stored: OnStored) -> None:
        """Queue a batch; see `Ingest.enqueue`."""
        self._writer.enqueue(batch, on_stored)

    async def submit(self, batch: Batch) -> Receipt:
        """Return once the batch is on disk; see `Ingest.submit`."""
        return await self._writer.submit(batch)

    async def run(self, work: Callable[[Ledger], T]) -> T:
        """Run something else with the ledger between commits; see `Ingest.run`."""
        return await self._writer.run(lambda: self._do(work))

    async def catch_up(self) -> None:
        """Return once every stored report is in the sums; NotStoredError if that fails."""
        stored_reports = self._sums.stored_reports
        while self._sums.lack(stored_reports) and not self._writer.is_stopping:
            await self.run(lambda _: self._sums.add_some())

    def _run(self) -> None:
        is_last = False
        while not is_last:
            turn = self._writer.take(self._wait_seconds())
            is_last = turn.is_last
            self._writer.do(turn)
            self._give_memory_back(is_idle=turn.is_idle)
            if self._refusal:
                continue
            if is_last:
                self._sums.try_add_up()
            elif self._sums.are_behind and (turn.is_idle or self._sums.is_due):
                self._sums.try_add_some()
            if self._purge.is_due:
                self._try_purge()

    def _wait_seconds(self) -> float | None:
        """Return how long to wait for a request; None where there is nothing else to do."""
        if self._refusal:
            return None
        due_at = self._purge.due_at if self._quiet_at is None else self._quiet_at
        wait_seconds = max(0.0, min(due_at, self._purge.due_at) - time.monotonic())
        return (
            min(wait_seconds, self._sums.pause_seconds) if self._sums.are_behind else wait_seconds
        )

    def _give_memory_back(self, *, is_idle: bool) -> None:
        if self._quiet_at is None:
            return
        if not is_idle:
            self._quiet_at = time.monotonic() + QUIET_SECONDS
        elif time.monotonic() >= self._quiet_at:
            self._quiet_at = None
            free_memory.give_back()

    def _do(self, work: Callable[[Ledger], T]) -> T:
        self._raise_if_refused()
        return work(self._ledger)

    def _raise_if_refused(self) -> None:
        if self._refusal:
            raise NotStoredError(self._refusal)

    def _record(self, batches: Sequence[Batch]) -> list[Receipt]:
        self._raise_if_refused()
        is_deferred = self._sums.defers_next
        receipts = self._ledger.record(
            batches, received_at_millis=self._now_millis(), defers_sums=is_deferred
        )
        self._sums.note_commit(receipts, is_deferred=is_deferred)
        self._raise_if_refused()  # if it was found during the commit
        return receipts

    def _try_purge(self) -> None:
        try:
            self._purge.run()
        except Exception as error:  # an unexpected error must not end the thread
            is_expected = isinstance(error, NotStoredError)
            log.warning("old reports could not be purged: %s", error, exc_info=not is_expected)
            self._purge.postpone()

    def _note_added_up(self, reports: int) -> None:
        self._writer.call_in_loop(self.commits.notify)
        if reports >= LARGE_FOLD_REPORTS:
            free_memory.give_back()
        self._quiet_at = time.monotonic() + QUIET_SECONDS
