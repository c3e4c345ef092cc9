"""Driving deliveries in an event loop: requests are awaited, the disk is waited for in threads."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

import httpx

from collector.client.delivery import Answer, Call, Empty, NoAnswer, Post, Progress, Setback, Step
from collector.client.errors import ClientError
from collector.client.failures import no_answer
from collector.client.pace import Pace
from collector.client.target import IDLE_SECONDS, LINGER_SECONDS, MAX_ANSWER_BYTES, join

T = TypeVar("T")


class AsyncWire:
    """The connections to one collector."""

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url
        self._http = httpx.AsyncClient(timeout=timeout_seconds, transport=transport)

    async def drive(self, asking: Generator[Post | Call, Any, T]) -> T:
        """Do what a delivery asks for until it is done, and return what it returns."""
        result: Any = None
        while True:
            try:
                asked = asking.send(result)
            except StopIteration as end:
                done: T = end.value
                return done
            if isinstance(asked, Call):
                result = await asyncio.to_thread(asked.run)
            else:
                result = await self._post(asked)

    async def _post(self, post: Post) -> Answer | NoAnswer:
        try:
            async with self._http.stream(
                "POST",
                join(self._url, post.path),
                content=post.content,
                headers=dict(post.headers),
            ) as response:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER_BYTES:
                        return NoAnswer("not_a_collector", "answers without end")
        except httpx.HTTPError as error:
            return no_answer(error)
        return Answer(response.status_code, response.headers, bytes(body))

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()


async def deliver_forever(attempt: Callable[[], Awaitable[Step]], wake: asyncio.Event) -> None:
    """Make attempts until cancelled: at once while they succeed, after a wait when they do not.

    `wake` says that something was queued.
    """
    pace = Pace(chance=random.random)
    while True:
        try:
            step = await attempt()
        except ClientError as error:
            step = Setback(str(error))
        if isinstance(step, Progress):
            pace.succeed()
        elif isinstance(step, Empty):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_SECONDS):
                    await wake.wait()
            wake.clear()
            await asyncio.sleep(LINGER_SECONDS)
        else:
            await asyncio.sleep(pace.wait_seconds(asked_seconds=step.after_seconds))
