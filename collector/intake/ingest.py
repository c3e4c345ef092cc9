"""The port through which a running collector writes its ledger.

`EmbeddedIngest` is for the ledger of one collector, `SharedIngest` for one that several write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from collector.intake.commit_signal import CommitSignal
from collector.ledger import Batch, Receipt
from collector.ledger.ports import Ledger
from collector.metrics import Metrics
from collector.reports.report import Limits

T = TypeVar("T")

OnStored = Callable[[Receipt | Exception], None]
"""A call in the event loop with the outcome of a batch; it raises nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """The options of both kinds of ingest."""

    now_millis: Callable[[], int]
    metrics: Metrics
    limits: Limits
    keeps_unexported: bool = False
    """Whether reports are kept until they are exported to InfluxDB."""
    max_queued_reports: int = 100_000
    """The bound of the queue; QueueFullError beyond it."""
    max_group_reports: int = 10_000
    """A commit takes no further request once it has so many reports."""


class Ingest(Protocol):
    """Stores reports, adds them up, and purges old ones.

    `start` and `stop` belong to the event loop that also submits.
    """

    @property
    def commits(self) -> CommitSignal:
        """The signal that is notified when the sums have changed."""
        ...

    @property
    def leads(self) -> bool:
        """Whether this collector is the leader, which adds up, exports, purges and corrects."""
        ...

    @property
    def problems(self) -> Sequence[str]:
        """Why reports are not stored or not added up now; empty if they are."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """Problems that need an operator, though reports are stored."""
        ...

    def start(self) -> None:
        """Start the threads."""
        ...

    async def stop(self) -> None:
        """Store what is queued, then end the threads and wake all waiting readers."""
        ...

    def enqueue(self, batch: Batch, on_stored: OnStored) -> None:
        """Queue a batch; `on_stored` is called once it is on disk, or was not stored.

        Raises QueueFullError or NotStoredError when it is not queued.
        """
        ...

    async def submit(self, batch: Batch) -> Receipt:
        """Return once the batch is on disk.

        Raises QueueFullError, DiskFullError or NotStoredError; then nothing of it was stored.
        """
        ...

    async def run(self, work: Callable[[Ledger], T]) -> T:
        """Run something else with the ledger, between or beside commits.

        Raises NotStoredError when the collector is stopping, and what the work raises.
        """
        ...

    async def catch_up(self) -> None:
        """Return once every stored report is in the sums.

        Raises NotStoredError if they cannot be added up now.
        """
        ...
