"""Leaves a panel alone that is away: one request at a time, and none before it wants one.

How long a loop pauses by itself is the loop's business; here is what holds for all of them and for
people's calls together.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from marzban_bridge.errors import PanelBusyError, PanelFailingError, PanelUnavailableError


class _Lane:
    """Requests of one kind of asker: those that wait for one of them share its failure."""

    def __init__(self) -> None:
        self.failure: PanelUnavailableError | None = None
        self.failures = 0
        self.probing = asyncio.Lock()

    def share_failure(self, *, since: int) -> None:
        """Raise the last failure if it is one of those after the first `since`."""
        if self.failure is not None and self.failures > since:
            raise PanelUnavailableError(
                str(self.failure), retry_after_seconds=self.failure.retry_after_seconds
            )


class PanelGate:
    """Lets requests through to one panel.

    While the last one found the panel away, one is tried at a time, and those that waited for it
    share its failure: one of the bridge's own, and one of the people and programs that call the
    bridge, who so hold up only each other. `PanelFailingError` is an answer: the panel is there.
    """

    def __init__(self, *, monotonic_seconds: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_seconds = monotonic_seconds
        self._resume_at_seconds = 0.0
        self._own, self._strangers = _Lane(), _Lane()

    @property
    def failures(self) -> int:
        """How often a request of the bridge's own found the panel away."""
        return self._own.failures

    @contextlib.asynccontextmanager
    async def passing(self, *, is_own: bool) -> AsyncIterator[None]:
        """Let one request through, and note whether the panel was there.

        Raises PanelUnavailableError instead while the panel wants no request, or when the one this
        waited for failed. What a stranger's request was answered (`is_own` is False) keeps none of
        the bridge's own, and a `429` to it nobody.
        """
        lane = self._own if is_own else self._strangers
        is_probe = await self._admit(lane)
        try:
            async with self._noting(lane):
                yield
        finally:
            if is_probe:
                lane.probing.release()

    def _is_away(self, lane: _Lane) -> bool:
        return lane.failure is not None or self._own.failure is not None

    async def _admit(self, lane: _Lane) -> bool:
        """Wait until a request may be sent; return whether others wait for what comes of it."""
        self._refuse_too_early()
        if not self._is_away(lane):
            return False
        failures = lane.failures
        await lane.probing.acquire()
        try:
            lane.share_failure(since=failures)
            self._refuse_too_early()
        except PanelUnavailableError:
            lane.probing.release()
            raise
        if self._is_away(lane):
            return True
        lane.probing.release()
        return False

    def _refuse_too_early(self) -> None:
        wait_seconds = self._resume_at_seconds - self._monotonic_seconds()
        if wait_seconds > 0:
            reason = "the panel is busy" if self._own.failure is None else str(self._own.failure)
            raise PanelUnavailableError(
                f"{reason}; it asks to be left alone for now", retry_after_seconds=wait_seconds
            )

    @contextlib.asynccontextmanager
    async def _noting(self, lane: _Lane) -> AsyncIterator[None]:
        try:
            yield
        except PanelFailingError:
            self._note_there()
            raise
        except PanelUnavailableError as error:
            is_own = lane is self._own
            if is_own or not isinstance(error, PanelBusyError):
                lane.failure, lane.failures = error, lane.failures + 1
            if is_own and error.retry_after_seconds:
                self._resume_at_seconds = self._monotonic_seconds() + error.retry_after_seconds
            raise
        self._note_there()

    def _note_there(self) -> None:
        self._own.failure = self._strangers.failure = None
