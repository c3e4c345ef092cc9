"""Pages under way at a time: acknowledged in their order, and never two that share a point."""

from __future__ import annotations

import asyncio

import pytest

from collector.influx.delivery import Delivered
from collector.influx.outcome import Retry
from collector.influx.points import Page
from collector.influx.window import Flight, Window

STORED = Delivered()


def page(to_seq: int, **changes) -> Page:
    return Page([], [], 0, to_seq=to_seq, **({"is_full": True} | changes))


class Stand:
    """A window over pages that are there already; each write ends when the test says so."""

    def __init__(self, *pages: Page) -> None:
        self.pages = dict(zip([0, *(each.to_seq for each in pages)], pages, strict=False))
        self.cursor_seq = 0
        self.read_after: list[int] = []
        self.sent: dict[int, asyncio.Future] = {}
        self.window = Window(read=self._read, send=self._send)

    def _read(self, seq: int) -> asyncio.Future:
        self.read_after.append(seq)
        future = asyncio.get_running_loop().create_future()
        future.set_result(self.pages.get(seq))
        return future

    def _send(self, sent: Page) -> asyncio.Future:
        self.sent[sent.to_seq] = asyncio.get_running_loop().create_future()
        return self.sent[sent.to_seq]

    async def _cursor(self) -> int:
        return self.cursor_seq

    def oldest(self, most: int = 2) -> asyncio.Task:
        return asyncio.create_task(self.window.oldest(self._cursor, most=most))

    async def acknowledge(self, oldest: asyncio.Task) -> Flight:
        """Store the cursor behind a page, as the exporter does."""
        flight = await oldest
        self.cursor_seq = flight.page.to_seq
        self.window.acknowledge()
        return flight

    async def sending(self, *to_seqs: int) -> None:
        """Return once exactly these pages were sent so far."""
        async with asyncio.timeout(60):
            while set(self.sent) != set(to_seqs):
                await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0)
        assert set(self.sent) == set(to_seqs)


async def test_so_many_pages_are_under_way_and_the_oldest_comes_first():
    stand = Stand(page(10), page(20), page(30))
    oldest = stand.oldest()
    await stand.sending(10, 20)
    stand.sent[20].set_result(STORED)
    await asyncio.sleep(0)
    assert not oldest.done(), "the second page may be stored, the cursor waits for the first"
    stand.sent[10].set_result(STORED)
    flight = await stand.acknowledge(oldest)
    assert (flight.from_seq, flight.page.to_seq, flight.result.result()) == (0, 10, STORED)
    oldest = stand.oldest()
    await stand.sending(10, 20, 30)
    assert (await oldest).from_seq == 10
    assert stand.read_after == [0, 10, 20, 30], "each page is read once"


async def test_a_page_that_rewrites_a_point_of_another_waits_until_that_is_acknowledged():
    stand = Stand(page(10), page(20), page(30, rewrites_seq=15), page(40))
    oldest = stand.oldest(most=4)
    await stand.sending(10, 20)
    stand.sent[10].set_result(STORED)
    await stand.acknowledge(oldest)
    oldest = stand.oldest(most=4)
    await stand.sending(10, 20)
    stand.sent[20].set_result(STORED)
    await stand.acknowledge(oldest)
    oldest = stand.oldest(most=4)
    await stand.sending(10, 20, 30, 40)
    oldest.cancel()


async def test_pages_with_a_point_in_common_are_not_under_way_together():
    stand = Stand(
        page(10, keys=frozenset({("alice", 1)})),
        page(20, keys=frozenset({("bob", 1)})),
        page(30, keys=frozenset({("alice", 1)})),
    )
    oldest = stand.oldest(most=3)
    await stand.sending(10, 20)
    stand.sent[10].set_result(STORED)
    await stand.acknowledge(oldest)
    oldest = stand.oldest(most=3)
    await stand.sending(10, 20, 30)
    oldest.cancel()


async def test_the_end_of_a_backlog_is_written_alone_and_as_it_is_then():
    stand = Stand(page(10), page(12, is_full=False))
    oldest = stand.oldest()
    await stand.sending(10)
    stand.pages[10] = page(15, is_full=False)  # more was stored meanwhile
    stand.sent[10].set_result(STORED)
    await stand.acknowledge(oldest)
    oldest = stand.oldest()
    await stand.sending(10, 15)
    stand.sent[15].set_result(STORED)
    await stand.acknowledge(oldest)
    assert await stand.oldest() is None


async def test_after_a_failure_it_begins_at_the_cursor_once_the_other_writes_have_ended():
    """So that nothing is skipped, and no older write can come after a newer one."""
    stand = Stand(page(10), page(20))
    oldest = stand.oldest()
    await stand.sending(10, 20)
    stand.sent[10].set_result(Retry("away"))
    assert (await oldest).result.result() == Retry("away")
    stand.window.abandon()
    first_writes = dict(stand.sent)
    stand.sent.clear()
    oldest = stand.oldest()
    await stand.sending()
    first_writes[20].set_result(STORED)
    await stand.sending(10, 20)
    stand.sent[10].set_result(STORED)
    assert (await oldest).from_seq == 0


async def test_a_read_that_fails_is_raised_and_made_again():
    stand = Stand(page(10), page(20))
    failing = asyncio.get_running_loop().create_future()
    failing.set_exception(ZeroDivisionError())
    read = stand.window._read
    stand.window._read = lambda seq: failing if seq else read(seq)
    with pytest.raises(ZeroDivisionError):
        await stand.oldest()
    stand.window.abandon()
    stand.sent[10].set_result(STORED)
    stand.window._read = read
    stand.sent.clear()
    oldest = stand.oldest()
    await stand.sending(10, 20)
    oldest.cancel()
