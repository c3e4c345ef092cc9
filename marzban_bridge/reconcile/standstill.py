"""Has a running bridge stand still while something is done with all of its books.

The loops pass here before each step, and whatever an admin asks for that changes a user. A
standstill begins once the steps under way are over: none is cut short, so that no write to a panel
is left open. After a release the bridge stands still until the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator

from marzban_bridge.errors import ReleasedError, StandingStillError

log = logging.getLogger(__name__)

REST_SECONDS = 300.0
"""A step waits for nothing but panel and collector, each with a timeout; it is over by then."""


class Standstill:
    """Shared by all that works on one process's books."""

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
        """Why the bridge stands still until it is restarted; None where it does not."""
        self.times = 0
        """How many standstills there were: what was read before the last one may be old."""

    @property
    def reason(self) -> str | None:
        """Why nothing is done now; None while the bridge works."""
        if self._doing:
            return f"the bridge stands still: {self._doing} is under way"
        return self.released

    @contextlib.asynccontextmanager
    async def step(self) -> AsyncIterator[None]:
        """Take one step of a loop, once the bridge works; after a release that is never."""
        while not self._may_work.is_set():
            await self._may_work.wait()
        with self._working():
            yield

    def refuse_if_released(self) -> None:
        """Raise ReleasedError where the bridge is to change nobody until it is restarted."""
        if self.released:
            raise ReleasedError(f"nothing was done: {self.released}")

    @contextlib.contextmanager
    def action(self) -> Iterator[None]:
        """Do what an admin asked for. Raises StandingStillError, or ReleasedError."""
        self._refuse_if_held()
        self.refuse_if_released()
        with self._working():
            yield

    def _refuse_if_held(self) -> None:
        if self._doing:
            raise StandingStillError(f"nothing was done: {self.reason}; try again")

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
        """Have everything else stand still meanwhile.

        Raises StandingStillError where it does so already, and where a step does not end.
        """
        self._refuse_if_held()
        self._doing = doing
        self._may_work.clear()
        log.warning("standing still: %s is under way", doing)
        try:
            await self._rest(doing)
            yield
        finally:
            self._doing = None
            self.times += 1
            if self.released:
                log.warning("%s", self.released)
            else:
                log.warning("going on after %s", doing)
                self._may_work.set()
            is_over, self._is_over = self._is_over, asyncio.Event()
            is_over.set()

    async def _rest(self, doing: str) -> None:
        try:
            async with asyncio.timeout(self._rest_seconds):
                await self._is_idle.wait()
        except TimeoutError as error:
            raise StandingStillError(
                f"{doing} was not begun: work under way was not over after "
                f"{self._rest_seconds:g} s; try again, or stop the bridge first"
            ) from error

    async def sleep(self, seconds: float) -> None:
        """Sleep, at most until a standstill is over: it may have mended what was waited for."""
        is_over = self._is_over
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await is_over.wait()
