"""A request's body is read within bounds of length and time, by all programs alike."""

from __future__ import annotations

import asyncio

import pytest

from collector.runtime.http.body import (
    LEAST_BYTES_PER_SECOND,
    BodyCutOffError,
    BodyTooLongError,
    BodyTooSlowError,
    read_body,
)

SECOND = b"x" * LEAST_BYTES_PER_SECOND


class Sender:
    """Sends parts of a body, each so many seconds after the one before, by a clock of its own."""

    def __init__(self, *parts: tuple[float, bytes], ends: bool = True) -> None:
        self._left = list(parts)
        self._ends = ends
        self._loop = asyncio.get_running_loop()
        self._now_seconds = self._loop.time()
        self._loop.time = lambda: self._now_seconds
        self.reserved_bytes: list[int] = []

    async def receive(self):
        if not self._left:
            return {"type": "http.disconnect"}
        after_seconds, part = self._left.pop(0)
        self._now_seconds += after_seconds
        for _ in range(3):  # what is due by then is done
            await asyncio.sleep(0)
        is_last = self._ends and not self._left
        return {"type": "http.request", "body": part, "more_body": not is_last}

    async def read(self, *, limit_bytes=2**20, read_seconds=10.0, reserve=None):
        return await read_body(
            self.receive,
            limit_bytes=limit_bytes,
            read_seconds=read_seconds,
            reserve=reserve or self.reserved_bytes.append,
        )


async def test_a_body_is_what_its_parts_are():
    sender = Sender((0, b"ab"), (1, b""), (1, b"c"))
    assert await sender.read() == b"abc"
    assert sender.reserved_bytes == [2, 0, 1]
    assert await Sender((0, b"abc")).read() == b"abc"
    assert await Sender((0, b"")).read() == b""


async def test_one_that_comes_steadily_may_take_longer_than_its_first_seconds():
    assert len(await Sender(*[(1, SECOND)] * 60).read()) == 60 * len(SECOND)


@pytest.mark.parametrize(
    "parts",
    [
        [(10.1, b"x")],
        [(1, b"x")] * 60,
        [(0, SECOND * 100), (10.1, b"x")],
    ],
    ids=["nothing comes", "a byte a second", "fast parts bank no time for slow ones"],
)
async def test_one_that_comes_too_slowly_is_given_up(parts):
    with pytest.raises(BodyTooSlowError):
        await Sender(*parts).read()


async def test_one_that_is_too_long_is_not_kept():
    assert await Sender((0, b"abc"), (0, b"de")).read(limit_bytes=5) == b"abcde"
    with pytest.raises(BodyTooLongError):
        await Sender((0, b"abc"), (0, b"def")).read(limit_bytes=5)
    with pytest.raises(BodyTooLongError):
        await Sender((0, b"abcdef")).read(limit_bytes=5)


async def test_one_that_ends_too_early_is_no_body():
    with pytest.raises(BodyCutOffError):
        await Sender((0, b"abc"), ends=False).read()


async def test_what_there_is_no_memory_for_is_not_kept():
    def refuse(amount_bytes: int) -> None:
        raise MemoryError(amount_bytes)

    with pytest.raises(MemoryError):
        await Sender((0, b"abc")).read(reserve=refuse)
