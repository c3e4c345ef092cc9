"""Runs the simulated panel's jobs by the clock on the wall."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

import httpx

from marzban_bridge.simulator.http.delivery import deliver_webhooks
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.panel.rules import JobDiedError
from marzban_bridge.simulator.panel.webhook_settings import WebhookReceiver

log = logging.getLogger(__name__)

WEBHOOK_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """How often the panel's jobs run; the defaults are Marzban 0.8.4's."""

    review_seconds: float = 10
    periodic_reset_seconds: float = 3600
    webhook_seconds: float = 30


@contextlib.asynccontextmanager
async def jobs_running(
    panel: SimulatedPanel,
    *,
    intervals: Intervals | None = None,
    receiver: WebhookReceiver | None = None,
) -> AsyncIterator[None]:
    """Run the panel's jobs for as long as the context lasts.

    A receiver takes the place of those in the panel's settings; PasarGuard's can be set by request.
    """
    intervals = intervals or Intervals()
    if receiver:
        panel.webhook_settings = replace(panel.webhook_settings, enable=True, receivers=(receiver,))

    async def review() -> None:
        _tell("review", panel.review())

    async def reset_periodic() -> None:
        _tell("periodic reset", panel.reset_periodic())

    async def deliver() -> None:
        await deliver_webhooks(panel, client)

    async with (
        httpx.AsyncClient(timeout=WEBHOOK_TIMEOUT_SECONDS) as client,
        asyncio.TaskGroup() as group,
    ):
        jobs = [
            every(intervals.review_seconds, review),
            every(intervals.periodic_reset_seconds, reset_periodic),
            every(intervals.webhook_seconds, deliver),
        ]
        tasks = [group.create_task(job) for job in jobs]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def every(seconds: float, job: Callable[[], Awaitable[None]]) -> None:
    """Run a job again and again, for ever."""
    while True:
        await asyncio.sleep(seconds)
        await job()


def _tell(job: str, death: JobDiedError | None) -> None:
    if death:
        log.error("the simulated panel's %s died, as the real one's would: %s", job, death)
