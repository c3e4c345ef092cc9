"""Leaves a panel alone that is away: one request at a time, and none before it wants one.

How long a loop pauses by itself is the loop's business; here is what holds for all of them and for
people's calls together.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from marzban_bridge.errors import PanelFailingError, PanelUnavailableError


class PanelGate:
    """Lets requests through to one panel.

    While the last one found the panel away, one is tried at a time; those that waited for it share
    its failure. `PanelFailingError` is an answer: the panel is there.
    """

    def __init__(self, *, monotonic_seconds: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_seconds = monotonic_seconds
        self._resume_at_seconds = 0.0
        self._failure: PanelUnavailableError | None = None
        self.failures = 0
        """How often the panel was found away."""
        self._probing = asyncio.Lock()

    def _is_away(self) -> bool:
        return self._failure is not None

    @contextlib.asynccontextmanager
    async def passing(self, *, is_own: bool) -> AsyncIterator[None]:
        """Let one request through, and note whether the panel was there.

        Raises PanelUnavailableError instead while the panel wants no request, or when the one this
        waited for failed. A pause that a stranger's request was answered with (`is_own` is False)
        is the stranger's alone.
        """
        is_probe = await self._admit()
        try:
            async with self._noting(is_own=is_own):
                yield
        finally:
            if is_probe:
                self._probing.release()

    async def _admit(self) -> bool:
        """Wait until a request may be sent; return whether others wait for what comes of it."""
        self._refuse_too_early()
        if not self._is_away():
            return False
        failures = self.failures
        await self._probing.acquire()
        try:
            if self.failures != failures and self._is_away():
                raise _copy_of(self._failure)
            self._refuse_too_early()
        except PanelUnavailableError:
            self._probing.release()
            raise
        if self._is_away():
            return True
        self._probing.release()
        return False

    def _refuse_too_early(self) -> None:
        wait_seconds = self._resume_at_seconds - self._monotonic_seconds()
        if wait_seconds > 0:
            reason = "the panel is busy" if self._failure is None else str(self._failure)
            raise PanelUnavailableError(
                f"{reason}; it asks to be left alone for now", retry_after_seconds=wait_seconds
            )

    @contextlib.asynccontextmanager
    async def _noting(self, *, is_own: bool) -> AsyncIterator[None]:
        try:
            yield
        except PanelFailingError:
            self._failure = None
            raise
        except PanelUnavailableError as error:
            self._failure = error
            self.failures += 1
            if is_own and error.retry_after_seconds:
                self._resume_at_seconds = self._monotonic_seconds() + error.retry_after_seconds
            raise
        self._failure = None


def _copy_of(failure: PanelUnavailableError | None) -> PanelUnavailableError:
    seconds = None if failure is None else failure.retry_after_seconds
    return PanelUnavailableError(str(failure), retry_after_seconds=seconds)
