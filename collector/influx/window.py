"""The pages of one stream that are being written: several at a time, acknowledged in their order.

While InfluxDB stores one page the next ones are read, encoded and sent, so that it never waits for
the ledger. Two pages are under way together only if neither overwrites a point of the other: which
of two requests InfluxDB carries out first is not known.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from collector.influx.delivery import Result
from collector.influx.points import Page


@dataclass(frozen=True, slots=True, eq=False)
class Flight:
    """A page that is sent; `from_seq` is the position before it."""

    from_seq: int
    page: Page
    result: asyncio.Future[Result]


class Window:
    """The pages of one stream that are sent and not acknowledged yet, oldest first.

    `read` starts to read the page after a position, `send` to write one. To be used by one task.
    """

    def __init__(
        self,
        *,
        read: Callable[[int], asyncio.Future[Page | None]],
        send: Callable[[Page], asyncio.Future[Result]],
    ) -> None:
        self._read = read
        self._send = send
        self._flights: deque[Flight] = deque()
        self._ahead: tuple[int, asyncio.Future[Page | None]] | None = None
        """A position, and the page after it, which is read before it can be sent."""
        self._ending: list[asyncio.Future[Result]] = []
        """Writes that are not to be acknowledged any more."""

    async def oldest(self, cursor: Callable[[], Awaitable[int]], *, most: int) -> Flight | None:
        """Have up to `most` pages under way; return the oldest one, written, or None without any.

        The first page is the one after `cursor`. The oldest page stays in the window until
        `acknowledge` or `abandon`.
        """
        if self._ending:
            await asyncio.wait(self._ending)
            self._ending.clear()
        seq = self._flights[-1].page.to_seq if self._flights else await cursor()
        while len(self._flights) < most and (page := await self._next(seq)) is not None:
            self._ahead = None
            self._flights.append(Flight(seq, page, _quiet(self._send(page))))
            seq = page.to_seq
            if page.is_full:
                self._ahead = (seq, _quiet(self._read(seq)))
        if not self._flights:
            return None
        await asyncio.wait([self._flights[0].result])
        return self._flights[0]

    async def _next(self, seq: int) -> Page | None:
        """Return the page after a position, if it may be written now.

        A page that is not full ends the backlog: more may have been stored since it was read, so it
        is written alone, and read again for that.
        """
        ahead = await self._ahead[1] if self._ahead and self._ahead[0] == seq else None
        is_full = ahead is not None and ahead.is_full
        if self._flights:
            return ahead if is_full and self._may_join(ahead) else None
        return ahead if is_full else await _quiet(self._read(seq))

    def _may_join(self, page: Page | None) -> bool:
        """Tell whether a page overwrites no point of a page that is under way."""
        return (
            page is not None
            and page.rewrites_seq <= self._flights[0].from_seq
            and all(page.keys.isdisjoint(each.page.keys) for each in self._flights)
        )

    def acknowledge(self) -> None:
        """Take the oldest page out: the cursor is behind it."""
        self._flights.popleft()

    def abandon(self) -> None:
        """Take all pages out, to begin at the cursor again once their writes have ended."""
        self._ending += [each.result for each in self._flights]
        self._flights.clear()
        self._ahead = None


def _quiet(future: asyncio.Future[Any]) -> asyncio.Future[Any]:
    """Return a future whose exception is not logged where it is abandoned."""
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future
