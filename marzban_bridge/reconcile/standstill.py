"""Pauses the loops of a running bridge while a rebase or a release works on all accounts.

Each step of a loop, and each action of an admin that changes a user, first waits here or is
refused. A standstill begins when the steps under way have ended: none is cancelled, so that no
write to a panel is left open. After a release the pause lasts until the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator

from marzban_bridge.errors import PausedError, ReleasedError

log = logging.getLogger(__name__)

REST_SECONDS = 300.0
"""The longest wait for steps under way; all that a step waits for has a shorter timeout."""


class Standstill:
    """Shared by all loops and actions of one process."""

    def __init__(self, *, rest_seconds: float = REST_SECONDS) -> None:
        self._rest_seconds = rest_seconds
        self._workers = 0
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._may_work = asyncio.Event()
        self._may_work.set()
        self._is_over = asyncio.Event()
        self._doing: str | None = None
        self.released: str | None = None
        """After a release: why the bridge changes nothing until it is restarted; else None."""
        self.times = 0
        """The number of standstills so far; data read before the last one may be stale."""

    @property
    def reason(self) -> str | None:
        """Why the loops are paused now; None while they run."""
        if self._doing:
            return f"the bridge is paused: {self._doing} is under way"
        return self.released

    @contextlib.asynccontextmanager
    async def step(self) -> AsyncIterator[None]:
        """Run the block as one step of a loop, after waiting for a pause to end.

        After a release it waits until cancelled.
        """
        while not self._may_work.is_set():
            await self._may_work.wait()
        with self._working():
            yield

    def refuse_if_released(self) -> None:
        """Raise ReleasedError after a release."""
        if self.released:
            raise ReleasedError(f"nothing was done: {self.released}")

    @contextlib.contextmanager
    def action(self) -> Iterator[None]:
        """Run the block as an admin's action. Raises PausedError or ReleasedError."""
        self._refuse_if_held()
        self.refuse_if_released()
        with self._working():
            yield

    def _refuse_if_held(self) -> None:
        if self._doing:
            raise PausedError(f"nothing was done: {self.reason}; try again")

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        self._workers += 1
        self._is_idle.clear()
        try:
            yield
        finally:
            self._workers -= 1
            if not self._workers:
                self._is_idle.set()

    @contextlib.asynccontextmanager
    async def hold(self, doing: str) -> AsyncIterator[None]:
        """Run the block while all steps and actions are paused.

        Raises PausedError during another pause, and where a step under way does not end.
        """
        self._refuse_if_held()
        self._doing = doing
        self._may_work.clear()
        log.warning("paused: %s is under way", doing)
        try:
            await self._rest(doing)
            yield
        finally:
            self._doing = None
            self.times += 1
            if self.released:
                log.warning("%s", self.released)
            else:
                log.warning("continuing after %s", doing)
                self._may_work.set()
            is_over, self._is_over = self._is_over, asyncio.Event()
            is_over.set()

    async def _rest(self, doing: str) -> None:
        try:
            async with asyncio.timeout(self._rest_seconds):
                await self._is_idle.wait()
        except TimeoutError as error:
            raise PausedError(
                f"{doing} was not begun: work under way had not ended after "
                f"{self._rest_seconds:g} s; try again, or stop the bridge first"
            ) from error

    async def sleep(self, seconds: float) -> None:
        """Sleep, but return when a pause ends: it may have removed the cause of the wait."""
        is_over = self._is_over
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await is_over.wait()
