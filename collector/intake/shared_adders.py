"""The threads that add up this collector's partitions of a shared ledger.

Each partition has one, started when there is something to add up for the first time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable

from collector.errors import NotStoredError
from collector.ledger.ports import SharedLedger
from collector.metrics import Metrics
from collector.runtime.outage import Outage

log = logging.getLogger(__name__)


class SharedAdders:
    """Adds up the partitions that `wake` names; `on_added` is called after each commit."""

    def __init__(
        self, ledger: SharedLedger, *, metrics: Metrics, on_added: Callable[[], None]
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._on_added = on_added
        self._is_stopping = False
        self._threads: dict[int, threading.Thread] = {}
        self._woken: dict[int, threading.Event] = {}
        self._outages: dict[int, Outage] = {}

    @property
    def problem(self) -> str | None:
        """Why reports are not added up here now; None if they are."""
        reasons = (each.reason for each in tuple(self._outages.values()))
        return next((f"adding up fails: {reason}" for reason in reasons if reason), None)

    def wake(self, parts: Iterable[int]) -> None:
        """Have these partitions added up, and forget the problems of others; for one thread.

        What is no longer behind, or another collector's now, is not tried again here.
        """
        parts = tuple(parts)
        for part in self._outages.keys() - set(parts):
            self._outages[part].forget()
        for part in parts:
            if self._is_stopping:
                return
            if part not in self._threads:
                self._start(part)
            self._woken[part].set()

    async def stop(self) -> None:
        """End the threads; what is being added up now is completed."""
        self._is_stopping = True
        for each in self._woken.values():
            each.set()
        for thread in self._threads.values():
            await asyncio.to_thread(thread.join)

    def _start(self, part: int) -> None:
        self._woken[part] = threading.Event()
        self._outages[part] = Outage(
            f"partition {part}", fails="adding up fails: %s", works="adding up works again", log=log
        )
        thread = threading.Thread(
            target=self._run, args=(part,), name=f"ledger-adding-{part}", daemon=True
        )
        self._threads[part] = thread
        thread.start()

    def _run(self, part: int) -> None:
        woken, outage = self._woken[part], self._outages[part]
        while woken.wait() and not self._is_stopping:
            woken.clear()
            try:
                self._add_up(part)
            except NotStoredError as error:
                outage.failed(str(error))
            except Exception as error:  # an unexpected error must not end the thread
                log.exception("unexpected error while adding up partition %d", part)
                outage.failed(str(error))
            else:
                outage.recovered()

    def _add_up(self, part: int) -> None:
        has_more = True
        while has_more and not self._is_stopping:
            started_at = time.perf_counter()
            has_more = self._ledger.add_up(part)
            self._metrics.fold_seconds.observe(time.perf_counter() - started_at)
            self._on_added()
