"""Copies the ledger to InfluxDB: two streams, each with a stored cursor that moves on success.

InfluxDB is only for dashboards: an outage affects neither reporters nor limits. The cursor then
stays, and the ledger keeps the reports after it. Several pages are under way at a time (`window`),
and the cursor moves over what is written in order. After a crash between a write and its cursor the
same points are written again, which overwrites them with the same values.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from collector.errors import NotStoredError
from collector.influx.client import Influx
from collector.influx.delivery import Delivered, PageDelivery, Result, merge
from collector.influx.outcome import Halt, Outcome, Retry
from collector.influx.pages import REQUEST_LINES, PageReader
from collector.influx.points import Page
from collector.influx.storage_watch import Storage, StorageWatch
from collector.influx.window import Flight, Window
from collector.intake.ingest import Ingest
from collector.ledger import DeadLetter, Progress
from collector.ledger.ports import LedgerReader
from collector.metrics import Metrics
from collector.runtime.daemon_executor import DaemonExecutor
from collector.runtime.outage import Outage
from collector.runtime.pace import Pace
from collector.schema import Policy

log = logging.getLogger(__name__)

T = TypeVar("T")

PAGE_ROWS = REQUEST_LINES
"""A page is one request, …"""
MOST_PAGE_ROWS = 200_000
"""… and in a long backlog several, with the reports of each series together."""
PAGES_UNDER_WAY = 3
"""How many pages of a stream are written at a time: two keep InfluxDB busy, and a third one takes
the place of a page whose cursor is being stored."""
REQUESTS_UNDER_WAY = 3
"""How many requests of a stream, of one page or of several, are under way at a time."""
GATHER_SECONDS: Mapping[Policy, float] = {Policy.RAW: 1.0, Policy.DAILY: 5.0}
"""The pause between pages. A day's point is rewritten with every page, so a longer pause saves
writes."""
IDLE_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
HALT_PAUSE_SECONDS = 30.0
DEFECT_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one step of a stream."""

    has_more: bool = False
    pause_seconds: float = 0.0
    is_stored: bool = False
    """Whether the cursor moved."""


class PageSize:
    """How many rows a page may have: one request's after a fault, twice as many after each page.

    So an InfluxDB that refuses every few requests nevertheless gets further with each of them.
    """

    def __init__(self, least_rows: int, most_rows: int) -> None:
        self._least_rows = least_rows
        self._most_rows = most_rows
        self.rows = least_rows

    def grow(self) -> None:
        """Note that a page is stored."""
        self.rows = min(2 * self.rows, self._most_rows)

    def reset(self) -> None:
        """Note that a page was not stored."""
        self.rows = self._least_rows


class Exporter:
    """Exports one ledger to one InfluxDB, or to another database that takes line protocol.

    `run` exports until cancelled; `step` moves the cursor of a stream by a page. `warnings` has the
    present problems. A fault of one stream, such as its bucket being gone, does not stop the other.
    """

    def __init__(
        self,
        *,
        reader: LedgerReader,
        ingest: Ingest,
        influx: Influx,
        storage: Storage | None,
        retention_seconds: Mapping[Policy, int],
        now_millis: Callable[[], int],
        metrics: Metrics,
        page_rows: int = PAGE_ROWS,
        most_page_rows: int = MOST_PAGE_ROWS,
    ) -> None:
        self._reader = reader
        self._ingest = ingest
        self._influx = influx
        self._watch = StorageWatch(
            storage,
            retention_seconds=retention_seconds,
            monotonic_seconds=time.monotonic,
            log=log,
        )
        self._now_millis = now_millis
        self._metrics = metrics
        self._pages = PageReader(
            reader,
            kept_seconds=self._watch.kept_seconds,
            now_millis=now_millis,
            page_rows=page_rows,
            overwrites=influx.kind.overwrites,
        )
        self._readers = DaemonExecutor(len(Policy) + 1, thread_name_prefix="export-reader")
        self._writers = {
            each: DaemonExecutor(REQUESTS_UNDER_WAY, thread_name_prefix=f"export-writer-{each}")
            for each in Policy
        }
        self._sizes = {each: PageSize(page_rows, most_page_rows) for each in Policy}
        self._outages = {each: _outage(each) for each in Policy}
        self._windows = {each: self._window(each) for each in Policy}
        self._checking = asyncio.Lock()

    def _window(self, policy: Policy) -> Window:
        return Window(
            read=lambda seq: self._in_reader(
                lambda: self._pages.after(policy, seq, most_rows=self._sizes[policy].rows)
            ),
            send=lambda page: self._send(policy, page),
        )

    @property
    def warnings(self) -> list[str]:
        """Return why points are not written now, and drift of the database."""
        outages = [each for each in self._outages.values() if not each.is_up]
        problems = [self._watch.problem, *(f"{each.name}: {each.reason}" for each in outages)]
        return [each for each in problems if each]

    async def run(self) -> None:
        """Prepare the database, then export until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for policy in self._influx.kind.policies:
                tasks.create_task(self._follow(policy), name=f"export-{policy}")

    async def close(self) -> None:
        """Close the connections; a write in progress ends by itself or with the process."""
        for each in (self._readers, *self._writers.values()):
            each.shutdown(wait=False, cancel_futures=True)
        self._influx.close()

    async def prepare(self) -> None:
        """Correct the database, as far as the token may, if a check is due.

        Drift that remains is a warning, and the running export checks again.
        """
        async with self._checking:
            if self._watch.is_due and await self._in_reader(self._watch.check):
                self._show_outages()

    async def _follow(self, policy: Policy) -> None:
        commits = self._ingest.commits
        while not commits.is_closed:
            signal = commits.subscribe()
            if not self._ingest.leads:
                self._outages[policy].forget()
                self._watch.forget()
                await _wait_for(signal)
                continue
            try:
                await self.prepare()
                step = await self.step(policy)
            except Exception as error:  # noqa: BLE001 - logged, and the collector goes on
                reason = f"unexpected {error!r}, see the log"
                self._outages[policy].failed(reason, defect=error, is_told_if_new=True)
                self._show_outages()
                step = Step(pause_seconds=DEFECT_PAUSE_SECONDS)
            if step.has_more:
                continue
            if not step.pause_seconds:
                await _wait_for(signal)  # `export rebuild` may reset the cursor meanwhile
            pause_seconds = step.pause_seconds or GATHER_SECONDS[policy]
            await asyncio.sleep(pause_seconds)

    async def step(self, policy: Policy) -> Step:
        """Write the next pages of a stream, if there are any; store the cursor after the first."""
        window, outage = self._windows[policy], self._outages[policy]
        try:
            flight = await window.oldest(
                lambda: self._in_reader(lambda: self._reader.export_state(policy).seq),
                most=PAGES_UNDER_WAY if outage.is_up else 1,
            )
            if flight is None:
                return Step()
            step = await self._finish(policy, flight)
        except BaseException:
            window.abandon()
            raise
        if step.is_stored:
            window.acknowledge()
        else:
            window.abandon()
        return step

    async def _finish(self, policy: Policy, flight: Flight) -> Step:
        """Store the cursor after a page that is written, unless it was moved meanwhile."""
        page, result = flight.page, flight.result.result()
        if not self._ingest.leads:
            return Step()
        if not isinstance(result, Delivered):
            return await self._wait(policy, result)
        of_reports = [each for each in result.refused if each.line not in page.sums]
        refused = [*page.refused, *of_reports]
        expired = [each for each in result.expired if each not in page.sums]
        points = page.points - len(of_reports) - len(expired)
        now_millis = self._now_millis()
        progress = Progress(
            policy,
            flight.from_seq,
            page.to_seq,
            points,
            [DeadLetter(policy, each.line, each.reason, now_millis) for each in refused],
        )
        try:
            is_moved = await self._ingest.run(
                lambda ledger: ledger.note_progress(progress, at_millis=now_millis)
            )
        except NotStoredError as error:
            return await self._wait(policy, Retry(f"the cursor was not stored: {error}"))
        self._recovered(policy)
        self._sizes[policy].grow()
        if is_moved:
            self._metrics.export_points.labels(policy).inc(points)
            self._metrics.export_dead_letters.labels(policy).inc(len(refused))
            self._metrics.export_expired.labels(policy).inc(page.expired + len(expired))
        if refused:
            log.warning(
                "InfluxDB refused %d points of %s for good, the first because: %s",
                len(refused),
                policy.bucket,
                refused[0].reason,
            )
        return Step(has_more=True, is_stored=is_moved)

    def _send(self, policy: Policy, page: Page) -> asyncio.Future[Result]:
        loop = asyncio.get_running_loop()
        delivery = PageDelivery(lambda lines: self._write(policy, lines))
        sent = [
            loop.run_in_executor(self._writers[policy], delivery.deliver, lines)
            for lines in page.requests
        ]
        return asyncio.ensure_future(_merged(sent))

    def _write(self, policy: Policy, lines: Sequence[str]) -> Outcome:
        if not self._ingest.leads:  # this process may have been suspended, and another leads now
            return Retry("another collector exports now")
        outcome = self._influx.write(policy.bucket, lines)
        name = type(outcome).__name__.lower()
        self._metrics.export_requests.labels(policy, name).inc()
        return outcome

    async def _wait(self, policy: Policy, why: Retry | Halt) -> Step:
        """Note why the stream is stopped, and wait."""
        outage = self._outages[policy]
        self._sizes[policy].reset()
        known = outage.reason
        pause_seconds = outage.failed(
            why.reason,
            asked_seconds=why.after_seconds if isinstance(why, Retry) else None,
            is_told_if_new=isinstance(why, Halt),
        )
        self._show_outages()
        if known is None or (isinstance(why, Halt) and known != why.reason):
            with contextlib.suppress(NotStoredError):  # only `export status` shows it
                await self._ingest.run(
                    lambda ledger: ledger.note_export_problem(policy, why.reason)
                )
        if isinstance(why, Halt):
            self._influx.close()  # so that the next try reads the token again
            self._watch.hasten()
            return Step(pause_seconds=HALT_PAUSE_SECONDS)
        return Step(pause_seconds=pause_seconds)

    def _recovered(self, policy: Policy) -> None:
        self._outages[policy].recovered()
        self._show_outages()

    def _show_outages(self) -> None:
        self._metrics.influx_up.set(all(each.is_up for each in self._outages.values()))
        for policy, outage in self._outages.items():
            self._metrics.export_up.labels(policy).set(outage.is_up)

    def _in_reader(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._readers, work)


async def _merged(sent: Sequence[asyncio.Future[Result]]) -> Result:
    """Return the result of a page once all of its requests have ended."""
    await asyncio.wait(sent)
    faults = [each.exception() for each in sent]  # all are asked, or the others would be logged
    for fault in filter(None, faults):
        raise fault
    return merge(each.result() for each in sent)


async def _wait_for(signal: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(IDLE_SECONDS):
            await signal.wait()


def _outage(policy: Policy) -> Outage:
    """Return the Outage of one stream, with jitter, so that collectors do not retry together."""
    name = f"export to {policy.bucket}"
    pace = Pace(
        chance=random.random,
        first_seconds=FIRST_PAUSE_SECONDS,
        longest_seconds=LONGEST_PAUSE_SECONDS,
    )
    return Outage(name, works=f"{name} goes on", pace=pace, log=log)
