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


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """The options of both kinds of ingest."""

    now_millis: Callable[[], int]
    metrics: Metrics
    limits: Limits
    keeps_unexported: bool = False
    """Whether old reports stay until they are in InfluxDB."""
    max_queued_reports: int = 100_000
    """More are refused with QueueFullError."""
    max_group_reports: int = 10_000
    """A commit takes no further request beyond so many reports."""


class Ingest(Protocol):
    """Stores reports, adds them up, and drops old ones.

    `start` and `stop` belong to the event loop that also submits.
    """

    @property
    def commits(self) -> CommitSignal:
        """Notified when the sums have changed."""
        ...

    @property
    def leads(self) -> bool:
        """Whether this collector is the one that adds up, exports, purges and corrects."""
        ...

    @property
    def problems(self) -> Sequence[str]:
        """Why reports are not stored or not added up now, for people; empty while all is well."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """What an operator should look into, though reports are stored."""
        ...

    def start(self) -> None:
        """Start the threads."""
        ...

    async def stop(self) -> None:
        """Store what is queued, then end the threads and wake all who wait for a commit."""
        ...

    async def submit(self, batch: Batch) -> Receipt:
        """Return once the batch is on disk.

        Raises QueueFullError, DiskFullError or NotStoredError; then nothing of it was stored.
        """
        ...

    async def run(self, work: Callable[[Ledger], T]) -> T:
        """Do something else with the ledger, beside what is submitted.

        Raises NotStoredError when the collector is stopping, and what the work raises.
        """
        ...

    async def catch_up(self) -> None:
        """Return once every report stored so far is in the sums.

        Raises NotStoredError when they cannot be added up now.
        """
        ...
