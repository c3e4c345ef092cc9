"""Whose turn it is to read a list of users that are written right after its answer.

A list that is read while many users of the one before it wait for places is old when its own get
them. So a turn lasts from the request of a list until half of its users have begun: what the others
wait for is a place or two that a crossing has.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class ListTurn:
    """The turn; one task at a time has it."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[UsersToBegin]:
        """Run the block when it is its turn, which ends with the block at the latest."""
        await self._lock.acquire()
        to_begin = UsersToBegin(self._lock)
        try:
            yield to_begin
        finally:
            to_begin.end()


class UsersToBegin:
    """The users of a list of whom half have to begin before the next list is read."""

    def __init__(self, turn: asyncio.Lock) -> None:
        self._turn: asyncio.Lock | None = turn
        self._left = 1

    def listed(self, users: int) -> None:
        """Note how many there are."""
        self._left = (users + 1) // 2

    def begin(self) -> None:
        """Note that one of them begins."""
        self._left -= 1
        if self._left <= 0:
            self.end()

    def end(self) -> None:
        """End the turn, if it has not ended."""
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.release()
