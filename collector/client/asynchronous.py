"""`AsyncClient`: for asyncio programs; a task empties the spool, the disk is waited for in threads.

Its methods are those of `Client`, to be awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path
from typing import Self

import httpx

from collector.client.async_wire import AsyncWire, deliver_forever
from collector.client.delivery import (
    DEFAULT_BATCH_REPORTS,
    Delivery,
    Empty,
    Progress,
    Setback,
    Step,
)
from collector.client.errors import ClientError, UnauthorizedError
from collector.client.outbox import Backlog, DeadLetter
from collector.client.pace import Pace
from collector.client.receipt import Receipt
from collector.client.report import Report
from collector.client.spool import DEFAULT_MAX_BYTES, REPORTS, Spool, wall_clock_millis
from collector.client.target import DEFAULT_TIMEOUT_SECONDS, OTHERS_SECONDS, Target, undelivered


class AsyncClient:
    """Reports traffic to the collector at `url`; the arguments are those of `Client`.

    The task that empties the spool starts with `async with`, or with the first thing awaited.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        subscription: str | None = None,
        spool: str | Path | None = None,
        max_spool_bytes: int = DEFAULT_MAX_BYTES,
        batch_reports: int = DEFAULT_BATCH_REPORTS,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._target = Target(
            url=url, key=key, subscription=subscription, batch_reports=batch_reports
        )
        self._wire = AsyncWire(url, timeout_seconds=timeout_seconds, transport=transport)
        self._problem: str | None = None
        self._wake = asyncio.Event()
        self._sending = asyncio.Lock()
        self._sender: asyncio.Task[None] | None = None
        self._is_closed = False
        self._spool: Spool | None = None
        if spool is not None:
            self._spool = Spool(Path(spool), max_bytes=max_spool_bytes)
            lane = self._spool.lane(REPORTS)
            self._delivery = Delivery(lane, self._target.parcel(), now_millis=wall_clock_millis)

    async def queue(self, *reports: Report) -> list[str]:
        """Keep reports on disk, to be sent soon; return their ids.

        Raises SpoolFullError when there is no room (nothing was kept) and SpoolError when the disk
        refuses.
        """
        encoded = self._target.encoded(reports)
        await asyncio.to_thread(self._the_spool().put, REPORTS, encoded)
        self._wake.set()
        return [report_id for report_id, _ in encoded]

    async def send(self, *reports: Report, give_up_seconds: float = 60.0) -> Receipt:
        """Send reports past the spool and return what became of them, trying again for so long.

        Raises UnauthorizedError, or NotDeliveredError with what is left; sending that again
        doubles nothing.
        """
        outbox = self._target.outbox(reports)
        delivery = Delivery(outbox, self._target.parcel(), now_millis=wall_clock_millis)
        pace = Pace(chance=random.random)
        now_seconds = asyncio.get_running_loop().time
        deadline = now_seconds() + give_up_seconds
        receipt = Receipt()
        while True:
            step = await self._wire.drive(delivery.attempt())
            if isinstance(step, Empty):
                return receipt
            if isinstance(step, Progress):
                receipt += step.receipt
                pace.succeed()
                continue
            self._check_known(step)
            wait_seconds = pace.wait_seconds(asked_seconds=step.after_seconds)
            if now_seconds() + wait_seconds > deadline:
                raise undelivered(reports, outbox, step, self._told(step))
            await asyncio.sleep(wait_seconds)

    async def flush(self, *, timeout_seconds: float = 30.0) -> Backlog:
        """Deliver what the spool holds, for so long at most; return what is left in it.

        Raises UnauthorizedError; what is spooled stays there.
        """
        pace = Pace(chance=random.random)
        now_seconds = asyncio.get_running_loop().time
        deadline = now_seconds() + timeout_seconds
        while now_seconds() < deadline:
            step = await self._attempt()
            if isinstance(step, Empty):
                if not (await asyncio.to_thread(self._the_spool().backlog, REPORTS)).items:
                    break
                await asyncio.sleep(OTHERS_SECONDS)  # another process sends the rest
                continue
            if isinstance(step, Progress):
                pace.succeed()
                continue
            self._check_known(step)
            wait_seconds = pace.wait_seconds(asked_seconds=step.after_seconds)
            if now_seconds() + wait_seconds > deadline:
                break
            await asyncio.sleep(wait_seconds)
        return await self.backlog()

    async def backlog(self) -> Backlog:
        """Return how much waits in the spool, and since when."""
        return await asyncio.to_thread(self._the_spool().backlog)

    async def dead_letters(self, *, limit: int = 100) -> list[DeadLetter]:
        """Return the reports that were set aside last, with the reason."""
        spool = self._the_spool()
        return await asyncio.to_thread(lambda: spool.dead_letters(limit=limit))

    async def requeue_dead_letters(self) -> int:
        """Queue what was set aside once more; return how many."""
        count = await asyncio.to_thread(self._the_spool().requeue_dead_letters)
        self._wake.set()
        return count

    async def discard_dead_letters(self) -> int:
        """Forget what was set aside, which makes room in the spool; return how many there were."""
        return await asyncio.to_thread(self._the_spool().discard_dead_letters)

    @property
    def problem(self) -> str | None:
        """Why nothing is delivered just now; None while all is well."""
        return self._problem

    async def close(self, *, timeout_seconds: float = 5.0) -> None:
        """Deliver what waits, for so long at most, and end; the rest stays in the spool."""
        if self._is_closed:
            return
        if self._spool is not None and timeout_seconds > 0:
            with contextlib.suppress(ClientError, TimeoutError):  # it stays spooled
                async with asyncio.timeout(timeout_seconds):
                    await self.flush(timeout_seconds=timeout_seconds)
        self._is_closed = True
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait([self._sender])
        await self._wire.close()
        if self._spool is not None:
            self._spool.close()

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _the_spool(self) -> Spool:
        if self._spool is None:
            raise ClientError("this client has no spool: use send(), or give it a file")
        self._start()
        return self._spool

    def _start(self) -> None:
        if self._spool is not None and self._sender is None and not self._is_closed:
            self._sender = asyncio.create_task(
                deliver_forever(self._attempt, self._wake), name="traffic-sender"
            )

    async def _attempt(self) -> Step:
        self._the_spool()
        async with self._sending:
            try:
                step = await self._wire.drive(self._delivery.attempt())
            except ClientError as error:
                self._problem = str(error)
                raise
        self._problem = self._told(step) if isinstance(step, Setback) else None
        return step

    def _check_known(self, step: Setback) -> None:
        if step.is_denied:
            raise UnauthorizedError(self._told(step))

    def _told(self, step: Setback) -> str:
        return f"the collector at {self._target.url} {step.reason}"
