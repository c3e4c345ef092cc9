"""Purges reports whose ids need not be remembered any more, a page at a time."""

from __future__ import annotations

import time

from collector.intake.ingest import IngestOptions
from collector.ledger.ports import Ledger
from collector.reports.report import kept_millis, purge_horizon_millis

PURGE_SECONDS = 60.0
PURGE_AGAIN_SECONDS = 0.1
PURGE_ROWS = 5000


class Purge:
    """The purge of one ledger, run periodically by the thread that writes its sums."""

    def __init__(
        self,
        ledger: Ledger,
        options: IngestOptions,
    ) -> None:
        self._ledger = ledger
        self._now_millis = options.now_millis
        self._limits = options.limits
        self._keeps_unexported = options.keeps_unexported
        self._aged_at = time.monotonic()
        self.due_at = time.monotonic() + PURGE_SECONDS
        """The time of the next run, on the monotonic clock."""

    @property
    def is_due(self) -> bool:
        """Whether it is time to run."""
        return time.monotonic() >= self.due_at

    def postpone(self) -> None:
        """Set the next run to after the usual interval."""
        self.due_at = time.monotonic() + PURGE_SECONDS

    def skip_time(self) -> None:
        """Do not count the time since the last run as running time: the leader counts it."""
        self._aged_at = time.monotonic()

    def run(self) -> None:
        """Purge up to `PURGE_ROWS` reports, and set the next run; raises NotStoredError."""
        now_seconds = time.monotonic()
        before_millis = purge_horizon_millis(self._limits, now_millis=self._now_millis())
        old_seq = self._ledger.age(
            ran_millis=int((now_seconds - self._aged_at) * 1000),
            kept_millis=kept_millis(self._limits),
        )
        self._aged_at = now_seconds
        removed = self._ledger.forget_reports(
            before_millis=before_millis,
            limit=PURGE_ROWS,
            keeps_unexported=self._keeps_unexported,
            through_seq=old_seq,
        )
        pause_seconds = PURGE_AGAIN_SECONDS if removed == PURGE_ROWS else PURGE_SECONDS
        self.due_at = time.monotonic() + pause_seconds
