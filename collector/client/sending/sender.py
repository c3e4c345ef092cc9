"""The sender of a client, bound to one event loop; both public clients use it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from collector.client.async_wire import AsyncWire, deliver_forever
from collector.client.errors import ClientError, SpoolError
from collector.client.http_options import HttpOptions
from collector.client.outbox import MemoryOutbox
from collector.client.receipt import Receipt
from collector.client.report import Report
from collector.client.sending.delivery import Delivery, Empty, Progress, Setback, Step
from collector.client.sending.problem_notes import ProblemNotes, log
from collector.client.spool.spool import REPORTS, Spool
from collector.client.target import OTHERS_SECONDS, Target, undelivered
from collector.runtime.pace import Pace
from collector.runtime.wall_clock import wall_clock_millis

LEASE_MARGIN_SECONDS = 30.0
"""How much longer than the request's timeout a claim on its items lasts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """What a client was constructed with; independent of the event loop."""

    target: Target
    options: HttpOptions
    notes: ProblemNotes
    spool: Spool | None


class Sender:
    """Sends reports in the event loop in which it was created."""

    def __init__(self, sending: Sending) -> None:
        self.loop = asyncio.get_running_loop()
        self._sending = sending
        self._wire = AsyncWire(sending.target.url, options=sending.options)
        self.wake = asyncio.Event()
        self._turn = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        if sending.spool is not None:
            lease_seconds = sending.options.timeout_seconds + LEASE_MARGIN_SECONDS
            self._lane = sending.spool.lane(REPORTS, lease_seconds=lease_seconds)
            self._delivery = Delivery(
                self._lane, sending.target.parcel(), now_millis=wall_clock_millis
            )

    def start(self) -> None:
        """Start the task that delivers the spool; again if it has ended."""
        if self._sending.spool is None or (self._task is not None and not self._task.done()):
            return
        if self._task is not None:
            log.error("sender_restarted: the task that sends had ended")
        self._task = self.loop.create_task(self._run(), name="traffic-sender")

    async def _run(self) -> None:
        try:
            await deliver_forever(self._attempt_whatever_comes, self.wake)
        finally:
            self._give_back()
            await self._wire.close()

    async def _attempt_whatever_comes(self) -> Step:
        """Make an attempt; an unexpected error is logged and becomes a setback."""
        try:
            return await self.attempt()
        except ClientError as error:
            return Setback(str(error))
        except Exception as error:  # noqa: BLE001 - logged and told, and it goes on
            log.exception("sending_failed: it is retried")
            said = f"sending failed and is retried: {type(error).__name__}"
            self._sending.notes.fail(ClientError(said, kind="sender"))
            return Setback(said, kind="sender")

    async def attempt(self) -> Step:
        """Make one attempt to deliver the spool, and note its outcome; raises SpoolError."""
        async with self._turn:
            try:
                step = await self._wire.drive(self._delivery.attempt())
            except ClientError as error:
                self._sending.notes.fail(error)
                raise
        self._sending.notes.note(step)
        return step

    async def send(self, reports: Sequence[Report], *, give_up_seconds: float) -> Receipt:
        """Send reports without the spool, for at most so many seconds; see `Client.send`."""
        outbox = self._sending.target.outbox(reports)
        told = [Setback("did not answer before the deadline", kind="timeout")]
        with anyio.move_on_after(give_up_seconds):
            receipt = await self._send(outbox, told)
            if receipt is not None:
                return receipt
        error = self._sending.notes.error_of(told[-1])
        if told[-1].is_denied:
            raise error
        raise undelivered(reports, outbox, error)

    async def _send(self, outbox: MemoryOutbox, told: list[Setback]) -> Receipt | None:
        """Send until all reports are settled; None if the next retry would be after the deadline.

        Setbacks are appended to `told`.
        """
        delivery = Delivery(outbox, self._sending.target.parcel(), now_millis=wall_clock_millis)
        pace = Pace(chance=random.random)
        receipt = Receipt()
        while True:
            step = await self._wire.drive(delivery.attempt())
            if isinstance(step, Empty):
                return receipt
            if isinstance(step, Progress):
                receipt += step.receipt
                pace.succeed()
                continue
            told.append(step)
            if not await self._wait(step, pace):
                return None

    async def flush(self, *, timeout_seconds: float) -> None:
        """Deliver the spool, for at most so many seconds; raises UnauthorizedError."""
        pace = Pace(chance=random.random)
        with anyio.move_on_after(timeout_seconds):
            while True:
                step = await self.attempt()
                if isinstance(step, Progress):
                    pace.succeed()
                elif isinstance(step, Empty):
                    if not await self._is_waiting():
                        return
                    await asyncio.sleep(OTHERS_SECONDS)  # another process sends the rest
                elif not await self._wait(step, pace):
                    break
            if step.is_denied:
                raise self._sending.notes.error_of(step)

    async def _wait(self, step: Setback, pace: Pace) -> bool:
        """Wait after a setback; False if the wait would pass the deadline."""
        if step.is_denied:
            return False
        wait_seconds = pace.wait_seconds(asked_seconds=step.after_seconds)
        if self.loop.time() + wait_seconds > anyio.current_effective_deadline():
            return False
        await asyncio.sleep(wait_seconds)
        return True

    async def _is_waiting(self) -> bool:
        spool = self._sending.spool
        return spool is not None and (await asyncio.to_thread(spool.backlog, REPORTS)).items > 0

    async def stop(self) -> None:
        """Cancel the task, release its claims, and close the connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=1.0)
        self._give_back()
        await self._wire.close()

    def _give_back(self) -> None:
        if self._sending.spool is not None:
            with contextlib.suppress(SpoolError):  # the claim then expires
                self._lane.give_back()
