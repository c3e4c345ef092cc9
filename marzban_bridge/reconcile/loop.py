"""The loops over one panel: some settle queued users at once, one all users in periodic passes.

They run beside each other, so that none waits for another: a pass over many users takes minutes at
a slow panel, and so does writing the limits of many. A failure of the panel is retried with
backoff; state is kept, and the outage is logged once. It does not affect the loops of other panels.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from marzban_bridge.clock import Clock
from marzban_bridge.errors import (
    CollectorUnavailableError,
    PanelError,
    PanelSuspendedError,
)
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.names import FIRST_PANEL
from marzban_bridge.reconcile.panel_health import PanelHealth
from marzban_bridge.reconcile.pass_result import PassResult
from marzban_bridge.reconcile.reseller_watch import ResellerWatch
from marzban_bridge.reconcile.standstill import Standstill
from marzban_bridge.reconcile.trust.panel_trust import PanelTrust
from marzban_bridge.reconcile.trust.rollback_check import RollbackCheck
from marzban_bridge.reconcile.trust.twin_panels import TwinPanels
from marzban_bridge.reconcile.users.batches import BatchSettler, Settled
from marzban_bridge.reconcile.users.evaluation import Evaluator, Preview
from marzban_bridge.reconcile.users.reader import UserReader
from marzban_bridge.reconcile.work_queue import Urgency, WorkQueue
from marzban_bridge.store.metas import PASS_POSITION
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)

PROGRESS_LOG_SECONDS = 10.0
VOUCH_SECONDS = 30.0
"""The longest wait at the start for the collector's record of the store's position."""
BATCHES_AT_ONCE = 3
"""How many batches of an urgency are settled beside each other: one is read, one is written, and of
one the last users are."""
SUSPENDED_SECONDS = 1.0
"""How soon queued users are settled after a suspension has ended."""


class Reconciler:
    """Reconciles one panel with the ledger.

    `run` does so until cancelled; `pass_over_all` makes one pass with the same code.
    """

    def __init__(
        self,
        *,
        store: Store,
        health: PanelHealth,
        batches: BatchSettler,
        reader: UserReader,
        evaluator: Evaluator,
        trust: PanelTrust,
        queue: WorkQueue,
        twins: TwinPanels,
        resellers: ResellerWatch,
        rollback_check: RollbackCheck,
        clock: Clock,
        metrics: Metrics,
        pass_seconds: float,
        standstill: Standstill,
    ) -> None:
        self._store = store
        self._batches = batches
        self._reader = reader
        self._evaluator = evaluator
        self._trust = trust
        self.set_aside = reader.set_aside
        self._queue = queue
        self._rollback_check = rollback_check
        self._clock = clock
        self._metrics = metrics
        self._pass_seconds = pass_seconds
        self._standstill = standstill
        self._pass: AsyncIterator[list[str]] | None = None
        self._pass_started_at = self._next_pass_at = 0.0
        self._pass_was_asked = asyncio.Event()
        self.health = health
        self.resellers = resellers
        self._twins = twins
        is_first = store.panel == FIRST_PANEL
        self._position = PASS_POSITION if is_first else f"{PASS_POSITION}:{store.panel}"

    def begin_pass(self) -> None:
        """Begin a pass now; one that is under way is ended."""
        self._pass, self._next_pass_at = None, time.monotonic()
        self._pass_was_asked.set()

    async def previews(self) -> AsyncIterator[Preview]:
        """Yield what a pass would do for each user of the panel; changes and stores nothing."""
        with contextlib.suppress(CollectorUnavailableError):  # a preview does not depend on it
            await self._rollback_check.check()
        self._trust.refuse_suspended()
        async for keys in self._reader.chunks():
            read_at = time.monotonic()
            users = await self._reader.read(keys)
            for key, user in users.items():
                if text := await self._trust.preview(key, user, read_at=read_at):
                    raise PanelSuspendedError(text)
                if user is not None:
                    yield self._evaluator.preview(key, user)

    async def run(self) -> None:
        """Settle users until cancelled."""
        self._show_counts()
        await asyncio.gather(
            self.health.greet(), self._rollback_check.wait_checked(longest_seconds=VOUCH_SECONDS)
        )
        self._next_pass_at = time.monotonic()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._run_passes())
                for urgency in Urgency:
                    for _ in range(BATCHES_AT_ONCE):
                        tasks.create_task(self._run_queue(urgency))
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def _run_passes(self) -> None:
        """Settle all users in passes, and watch a panel or a store that is suspended."""
        while True:
            if self._store.suspended:
                await self._wait_while_store_suspended()
                continue
            pause_seconds = await self._try(self._continue_pass)
            if pause_seconds is None:
                await self._wait_for_pass()
            else:
                await self._standstill.sleep(pause_seconds)

    async def _run_queue(self, urgency: Urgency) -> None:
        """Settle queued users of an urgency, batch by batch."""
        while True:
            pause_seconds = await self._try(lambda: self._settle_next(urgency))
            if pause_seconds is None:
                await self._queue.wait(urgency)
            elif pause_seconds:
                await self._standstill.sleep(pause_seconds)

    async def _try(self, step: Callable[[], Awaitable[float | None]]) -> float | None:
        """Make a step, unless the panel is left alone after a failure; return the next pause."""
        if pause_seconds := self.health.seconds_until_retry():
            return pause_seconds
        try:
            async with self._standstill.step():
                return await step()
        except PanelError as error:
            return self.health.note_outage(error)

    async def _continue_pass(self) -> float | None:
        """Settle a chunk of a pass; return the seconds to pause after it, None until a pass is due.

        Raises PanelError when the panel as a whole cannot be reached.
        """
        if self._store.suspended:
            return 0.0
        if self._store.suspension.reasons:
            return await self._check_suspended_panel()
        if self._pass is None and time.monotonic() < self._next_pass_at:
            return None
        try:
            await self._settle_chunk()
        except PanelError:
            self._leave_pass()
            raise
        return 0.0

    async def _settle_chunk(self) -> None:
        if self._pass is None:
            await self.health.check()
            await self.resellers.begin_pass()
            self._pass, self._pass_started_at = self._lap(), time.monotonic()
            self._batches.online.take()
        keys = await anext(self._pass, None)
        if keys is None:
            self._pass = None
            self._next_pass_at = self._finish_pass(self._pass_started_at)
        else:
            self._note_settled(await self._batches.settle_pass(keys, leaves_queued=True))

    async def _wait_for_pass(self) -> None:
        """Return when a pass is due, or was asked for."""
        self._pass_was_asked.clear()
        pause_seconds = max(0.01, self._next_pass_at - time.monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_seconds):
                await self._pass_was_asked.wait()

    async def _settle_next(self, urgency: Urgency) -> float | None:
        """Settle a batch of queued users; return the seconds to pause, None if none is queued."""
        if self._trust.is_suspended:
            return min(SUSPENDED_SECONDS, self._pass_seconds)
        if not self._queue.has(urgency):
            return None
        await self._settle_batch(urgency)
        return 0.0

    async def _settle_batch(self, urgency: Urgency) -> int:
        """Settle the next batch of an urgency; return how many users failed."""
        batch = self._batches.get_queued(urgency)
        try:
            settled = await self._batches.settle_queued(batch)
        except PanelError:
            self._queue.put_back(batch)
            raise
        for waited_seconds in self._queue.done(batch):
            self._metrics.reaction_seconds.observe(waited_seconds)
        self._note_settled(settled)
        return settled.failures

    def _note_settled(self, settled: Settled) -> None:
        self.resellers.note_changes()
        if settled.evaluated:
            self.health.note_up()

    def _leave_pass(self) -> None:
        """End a pass early: the next one begins at once and continues after the last user.

        The duration of an unfinished pass is not recorded.
        """
        self._pass, self._next_pass_at = None, time.monotonic()

    async def _wait_while_store_suspended(self) -> None:
        """Wait until the operator accepts a suspended store."""
        self._leave_pass()
        self._metrics.held.set(self._store.counts()["held"])
        await self._standstill.sleep(self._pass_seconds)
        await self.health.greet()

    async def _check_suspended_panel(self) -> float:
        """Check whether a suspended panel is as before; return the seconds until the next check.

        The queue is cleared; the next pass covers its users.
        """
        pause_seconds = self._pass_seconds
        self._leave_pass()
        self._queue.clear()
        try:
            await self._twins.check(self._store.panel)
            is_over = not await self._trust.evaluate_again(self._reader.all_users())
        except PanelError as error:
            pause_seconds = self.health.note_outage(error)
        else:
            self.health.note_up()
            pause_seconds = 0.0 if is_over else pause_seconds
        return pause_seconds

    async def pass_over_all(self) -> PassResult:
        """Settle every user once. Raises the panel's error when it cannot be reached."""
        self._queue.clear()
        if self._store.suspension.reasons:
            await self._twins.check(self._store.panel)
        if self._store.suspension.reasons and await self._trust.evaluate_again(
            self._reader.all_users()
        ):
            return PassResult(
                users=0, failures=0, seconds=0.0, suspension_text=self._store.suspension.text
            )
        self._trust.refuse_suspended()
        await self.health.check()
        await self.resellers.begin_pass()
        started_at = logged_at = time.monotonic()
        users = failures = 0
        async for keys in self._reader.chunks():
            settled = await self._batches.settle_pass(keys)
            self._note_settled(settled)
            failures += settled.failures
            users += len(keys)
            if time.monotonic() - logged_at >= PROGRESS_LOG_SECONDS:
                logged_at = time.monotonic()
                log.info("pass: %d users so far, %d failures", users, failures)
        while (urgency := self._queue.most_urgent()) is not None:
            failures += await self._settle_batch(urgency)
        self._finish_pass(started_at)
        if self._store.suspension.reasons:
            await self._trust.evaluate_again(self._reader.all_users())
        seconds = time.monotonic() - started_at
        return PassResult(
            users=users,
            failures=failures,
            seconds=seconds,
            suspension_text=self._store.suspension.text,
        )

    def _finish_pass(self, started_at: float) -> float:
        """Update metrics after a pass; return when the next one begins.

        After a pass that took longer than the interval the pause is as long as the pass.
        """
        self.health.note_up()
        seconds = time.monotonic() - started_at
        self._show_counts()
        self._metrics.online_users.set(self._batches.online.take())
        self._metrics.last_pass_timestamp_seconds.set(self._clock().timestamp())
        self._metrics.pass_seconds.set(seconds)
        return started_at + max(self._pass_seconds, 2 * seconds)

    def _show_counts(self) -> None:
        """Set the gauges that the store knows, at the start too: zero would end their alerts."""
        counts = self._store.counts()
        self._metrics.accounts.set(counts["accounts"])
        self._metrics.unknown_names.set(counts["unknown_names"])
        self._metrics.held.set(counts["held"])

    async def _lap(self) -> AsyncIterator[list[str]]:
        """Yield all users in chunks, beginning after the last chunk of an unfinished pass.

        A chunk counts as done when the next one is requested. The position is stored, so that a
        pass continues after a crash.
        """
        begins_after = self._store.meta(self._position) or ""
        async for keys in self._reader.chunks(after=begins_after):
            yield keys
            self._store.set_meta(self._position, keys[-1])
        async for keys in self._reader.chunks():
            if left := [key for key in keys if key <= begins_after]:
                yield left
                self._store.set_meta(self._position, left[-1])
            if len(left) < len(keys):
                return
