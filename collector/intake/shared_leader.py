"""The leader's work on a shared ledger, and the wake-up of adders and readers on every collector.

A thread polls the ledger several times a second and takes the lease if it is free. The collector
with the lease leads: it numbers what all collectors stored, and purges. Every collector wakes the
threads that add up its partitions, and its feed readers when the sums have changed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from collector.errors import NotStoredError
from collector.intake.commit_signal import CommitSignal
from collector.intake.purge import Purge
from collector.intake.shared_adders import SharedAdders
from collector.ledger.ports import SharedLedger, SharedReader
from collector.metrics import Metrics
from collector.runtime.outage import Outage

log = logging.getLogger(__name__)

POLL_SECONDS = 0.25
BUSY_POLL_SECONDS = 0.1
BUSY_SECONDS = 1.0
"""It is polled more often until the sums have not changed for so long."""
LONGEST_PAUSE_SECONDS = 1.0
"""The longest pause: the longer numbering takes, the less often the leader does it."""
GATHER_SECONDS = 0.1
"""The pause after a commit of this collector, so that others' reports are added up as well."""
AWAITED_SECONDS = 0.02
"""The same where a reader waits for the sums."""
SETTLED_SECONDS = 0.25
"""The pause after the sums changed, once they are complete: reports are numbered in rounds, so they
do not change again at once."""


class SharedLeader:
    """The thread that polls a shared ledger; call `start` in the event loop."""

    def __init__(
        self,
        ledger: SharedLedger,
        reader: SharedReader,
        *,
        adders: SharedAdders,
        commits: CommitSignal,
        purge: Purge,
        metrics: Metrics,
        on_recovery: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._reader = reader
        self._adders = adders
        self._commits = commits
        self._purge = purge
        self._metrics = metrics
        self._on_recovery = on_recovery
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = threading.Event()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="ledger-leading", daemon=True)
        self._known: tuple[int, bool] | None = None
        self._changed_at = 0.0
        self._awaited = threading.Event()
        """Set while a reader waits for the sums."""
        self._outage = Outage(
            "ledger",
            fails="the ledger cannot be polled: %s",
            works="the ledger can be reached again",
            log=log,
        )

    @property
    def problem(self) -> str | None:
        """Why the ledger cannot be polled now; None if it can."""
        return self._outage.reason

    def start(self) -> None:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        """End the thread; closing the ledger releases the lease."""
        self._is_stopping = True
        self._woken.set()
        self._awaited.set()
        await asyncio.to_thread(self._thread.join)

    def wake(self) -> None:
        """Poll soon, since something was stored."""
        if self._ledger.leads:
            self._woken.set()

    def look_again(self) -> None:
        """Poll soon, since something was added up here."""
        self._woken.set()

    async def catch_up(self) -> None:
        """Return once every stored report is in the sums, whichever collector leads.

        Raises NotStoredError if no leader adds them up in time.
        """
        self._awaited.set()
        self.wake()
        await asyncio.to_thread(self._reader.await_sums)

    def _run(self) -> None:
        while not self._is_stopping:
            started_at = time.monotonic()
            try:
                self._poll()
            except NotStoredError as error:
                self._note(error)
            except Exception as error:  # an unexpected error must not end the thread
                log.exception("unexpected error in the leader's thread")
                self._note(error)
            took_seconds = min(LONGEST_PAUSE_SECONDS, time.monotonic() - started_at)
            is_busy = started_at - self._changed_at < BUSY_SECONDS
            poll_seconds = BUSY_POLL_SECONDS if is_busy else POLL_SECONDS
            least_seconds = max(took_seconds, self._settled_seconds)
            pause_seconds = min(LONGEST_PAUSE_SECONDS, max(poll_seconds, least_seconds))
            if self._woken.wait(pause_seconds) and not self._is_stopping:
                gather_seconds = max(GATHER_SECONDS, took_seconds, self._settled_seconds)
                if self._awaited.wait(gather_seconds):
                    time.sleep(AWAITED_SECONDS)
            self._woken.clear()

    @property
    def _settled_seconds(self) -> float:
        """For how long the sums stay as they are."""
        if not self._ledger.is_settled:
            return 0.0
        return self._changed_at + SETTLED_SECONDS - time.monotonic()

    def _poll(self) -> None:
        is_awaited = self._awaited.is_set()
        self._awaited.clear()
        head = self._ledger.lead(defers_sums=True, is_awaited=is_awaited)
        self._adders.wake(self._ledger.behind)
        self._outage.recovered()
        self._on_recovery()
        losses = self._ledger.losses
        self._metrics.lacks_commits.set(losses.text is not None)
        self._metrics.lost_reports.set(losses.reports)
        leads = self._ledger.leads
        if self._known != (head, leads):
            if self._known is not None and head != self._known[0]:
                self._changed_at = time.monotonic()
            self._known = (head, leads)
            self._metrics.leads.set(leads)
            self._tell()
        if not leads:
            self._purge.skip_time()  # the leader counts the running time
        elif self._purge.is_due:
            self._purge.run()

    def _note(self, error: Exception) -> None:
        self._outage.failed(str(error))
        self._metrics.leads.set(0)

    def _tell(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._commits.notify)
