"""Decides when reports are added up: with each commit or, under load, many commits at once.

What is added up at once is added up in steps, so that commits come between them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from collector.errors import NotStoredError
from collector.ledger import Receipt
from collector.ledger.ports import EmbeddedLedger
from collector.metrics import Metrics
from collector.runtime.outage import Outage

log = logging.getLogger(__name__)

BUSY_SECONDS = 0.05
"""If commits follow each other faster than this, adding up is deferred."""
FOLD_IDLE_SECONDS = 0.02
"""After this time without a request, deferred reports are added up."""
FOLD_SECONDS = 1.0
"""How long adding up is deferred while requests keep coming, if adding up is fast."""
FOLD_SHARE = 0.05
"""The share of time for adding up. Where many series are reported a fold writes more rows, and in a
large ledger more pages, so more should be added up at once."""
FOLD_MAX_SECONDS = 5.0
"""The longest that adding up is deferred, without the time that it takes."""
FOLD_REPORTS = 400_000
FOLD_RETRY_SECONDS = 1.0


@dataclass(slots=True)
class _Fold:
    """A fold under way."""

    stored_reports: int
    """How many reports were stored when it began."""
    began_at: float
    took_seconds: float = 0.0


class DeferredSums:
    """Adds up the reports of one ledger that are stored and not in the sums yet.

    The writing thread calls its methods; any thread may call `lack`, and read `are_behind`,
    `stored_reports` and `error`.
    """

    def __init__(
        self, ledger: EmbeddedLedger, *, metrics: Metrics, on_added_up: Callable[[int], None]
    ) -> None:
        """`on_added_up` is called after each fold, with the number of its reports."""
        self._ledger = ledger
        self._metrics = metrics
        self._on_added_up = on_added_up
        self._stored_at = -math.inf
        self.stored_reports = 0
        """How many reports were stored, of those whose adding up was deferred."""
        self._added_reports = 0
        """How many of these are in the sums."""
        self._unfolded_reports = 0
        """How many of these an earlier run stored."""
        self._deferred_since = 0.0
        """When the first of the others was stored."""
        self._fold: _Fold | None = None
        self._fold_after_seconds = FOLD_SECONDS
        self._outage = Outage(
            "sums", fails="adding up fails: %s", works="adding up works again", log=log
        )

    @property
    def error(self) -> str | None:
        """Why adding up fails; None if it works."""
        return self._outage.reason

    @property
    def are_behind(self) -> bool:
        """Whether there are stored reports that are not in the sums yet."""
        return self.lack(self.stored_reports)

    def lack(self, stored_reports: int) -> bool:
        """Tell whether the first so many of the stored reports are not all in the sums yet."""
        return self._added_reports < stored_reports

    @property
    def pause_seconds(self) -> float:
        """How long to wait for a request before adding up deferred reports."""
        if self._fold is not None:
            return 0.0
        return FOLD_IDLE_SECONDS if self._outage.is_up else FOLD_RETRY_SECONDS

    @property
    def defers_next(self) -> bool:
        """Whether the next commit should defer adding up."""
        if self.lack(self._unfolded_reports) or self._fold is not None:
            return True
        if self.are_behind and self._outage.is_up:  # it would add all of that up as well
            return True
        return time.monotonic() - self._stored_at < BUSY_SECONDS

    def note_unfolded(self, reports: int) -> None:
        """Note the reports that an earlier run stored, and did not add up."""
        self.stored_reports = self._unfolded_reports = reports
        self._deferred_since = time.monotonic()

    def note_commit(self, receipts: Sequence[Receipt], *, is_deferred: bool) -> None:
        """Note a commit: its receipts, and whether adding up its reports is deferred."""
        self._stored_at = time.monotonic()
        if not is_deferred:
            self._note_added_up()
        elif accepted := sum(receipt.accepted for receipt in receipts):
            if not self.are_behind:
                self._deferred_since = self._stored_at
            self.stored_reports += accepted

    @property
    def is_due(self) -> bool:
        """Whether to carry out a step now, though requests keep coming."""
        if self._fold is not None:
            return True
        age_seconds = time.monotonic() - self._deferred_since
        if not self._outage.is_up:
            return age_seconds >= FOLD_RETRY_SECONDS
        deferred_reports = self.stored_reports - self._added_reports
        is_much = deferred_reports >= FOLD_REPORTS
        return is_much or age_seconds >= self._fold_after_seconds or self._ledger.needs_indexing

    def try_add_up(self) -> None:
        """Add up all that is stored, unless it fails; see `try_add_some`."""
        while self.are_behind and self.try_add_some():
            pass

    def try_add_some(self) -> bool:
        """Carry out a step of adding up; return whether that did not fail.

        The first of several failures is logged; it is tried again later. Reports stay stored.
        """
        try:
            self.add_some()
        except Exception as error:  # noqa: BLE001 - logged, and shown in `problems`
            self._deferred_since = time.monotonic()
            defect = None if isinstance(error, NotStoredError) else error
            self._outage.failed(str(error) or type(error).__name__, defect=defect)
            return False
        return True

    def add_some(self) -> None:
        """Carry out a step of adding up what is not in the sums yet; raises as `Ledger.fold`."""
        if not self.are_behind:
            return
        if self._ledger.needs_indexing:
            self._ledger.index_some()
            return
        fold = self._fold or _Fold(self.stored_reports, time.monotonic())
        self._fold = None
        started_at = time.perf_counter()
        goes_on = self._ledger.fold_some()
        fold.took_seconds += time.perf_counter() - started_at
        if goes_on:
            self._fold = fold
            return
        reports = fold.stored_reports - self._added_reports
        self._added_reports = fold.stored_reports
        self._deferred_since = fold.began_at
        self._outage.recovered()
        self._fold_after_seconds = fold_after_seconds(fold.took_seconds)
        self._metrics.fold_seconds.observe(fold.took_seconds)
        self._on_added_up(reports)

    def _note_added_up(self) -> None:
        """Note that all reports are in the sums, after a commit that was not deferred."""
        self._added_reports = self.stored_reports
        self._fold = None
        self._outage.recovered()


def fold_after_seconds(last_fold_seconds: float) -> float:
    """Return how long to defer adding up, given how long it took last time."""
    return min(
        FOLD_MAX_SECONDS, max(FOLD_SECONDS, last_fold_seconds * (1 - FOLD_SHARE) / FOLD_SHARE)
    )
