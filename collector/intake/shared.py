"""The ingest of a shared ledger: threads that store, that do the leader's work, and that add up.

Each collector appends reports; the leader numbers them (`shared_leader`), and each collector adds
up its part of them (`shared_adders`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from collector.intake.commit_signal import CommitSignal
from collector.intake.group_commit import GroupCommit
from collector.intake.ingest import IngestOptions, OnStored
from collector.intake.purge import Purge
from collector.intake.shared_adders import SharedAdders
from collector.intake.shared_leader import SharedLeader
from collector.ledger import Batch, Receipt
from collector.ledger.ports import Ledger, SharedLedger, SharedReader

T = TypeVar("T")

GATHERED_REPORTS = 200
"""A commit after one with so many reports waits for no more of them."""
GATHER_SECONDS = 0.002
"""The longest that a commit waits for more reports."""


class SharedIngest:
    """An `Ingest` of a ledger that other collectors write as well."""

    def __init__(
        self,
        ledger: SharedLedger,
        reader: SharedReader,
        options: IngestOptions,
    ) -> None:
        self._ledger = ledger
        self._now_millis = options.now_millis
        self.commits = CommitSignal()
        self._writer = GroupCommit(self._record, options, gather_seconds=self._gather_seconds)
        self._adders = SharedAdders(ledger, metrics=options.metrics, on_added=self._look_again)
        self._leader = SharedLeader(
            ledger,
            reader,
            adders=self._adders,
            commits=self.commits,
            purge=Purge(ledger, options),
            metrics=options.metrics,
            on_recovery=self._writer.note_recovery,
        )

    @property
    def leads(self) -> bool:
        """Whether this collector is the leader."""
        return self._ledger.leads

    @property
    def problems(self) -> list[str]:
        """Why reports are not stored or not added up now; empty if they are."""
        problems = (self._leader.problem, self._adders.problem)
        return [*self._writer.problems, *(each for each in problems if each)]

    @property
    def warnings(self) -> list[str]:
        """The reports that this collector has seen in the ledger and that are lost."""
        loss = self._ledger.losses.text
        return [loss] if loss else []

    def start(self) -> None:
        """Start the writing thread and the leader's thread, which starts those that add up."""
        self._writer.start(self._run)
        self._leader.start()

    async def stop(self) -> None:
        """Store what is queued, wake all waiting readers, and end the threads."""
        await self._writer.stop()
        self.commits.close()
        await self._leader.stop()
        await self._adders.stop()

    def enqueue(self, batch: Batch, on_stored: OnStored) -> None:
        """Queue a batch; see `Ingest.enqueue`."""
        self._writer.enqueue(batch, on_stored)

    async def submit(self, batch: Batch) -> Receipt:
        """Return once the batch is on disk; see `Ingest.submit`."""
        return await self._writer.submit(batch)

    async def run(self, work: Callable[[Ledger], T]) -> T:
        """Run something else with the ledger beside commits; it may wait for the leader."""
        self._writer.refuse_if_stopping()
        return await asyncio.to_thread(work, self._ledger)

    async def catch_up(self) -> None:
        """Return once every stored report is in the sums; NotStoredError if that fails."""
        await self._leader.catch_up()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            turn = self._writer.take(None)
            is_last = turn.is_last
            self._writer.do(turn)

    def _gather_seconds(self) -> float:
        """How long to wait for more reports: as long as the last commit took, at most.

        A commit costs the server the same however small it is, and all collectors share it. So each
        of several waits, if its last commit was of several reports and small.
        """
        is_small = 1 < self._writer.last_reports < GATHERED_REPORTS
        if not is_small or not self._ledger.others:
            return 0.0
        return min(GATHER_SECONDS, self._writer.last_seconds)

    def _look_again(self) -> None:
        self._leader.look_again()

    def _record(self, batches: Sequence[Batch]) -> list[Receipt]:
        receipts = self._ledger.record(
            batches, received_at_millis=self._now_millis(), defers_sums=True
        )
        self._leader.wake()
        return receipts
