"""Runs deliveries in an event loop: awaits the requests, and runs file access in threads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

import anyio
import httpx

from collector.client.errors import ClientError
from collector.client.failures import no_answer
from collector.client.http_options import DEFAULT_TIMEOUT_SECONDS, HttpOptions
from collector.client.sending.delivery import (
    Answer,
    Call,
    Empty,
    NoAnswer,
    Post,
    Progress,
    Setback,
    Step,
)
from collector.client.target import IDLE_SECONDS, LINGER_SECONDS, MAX_ANSWER_BYTES, join
from collector.runtime.pace import Pace

T = TypeVar("T")


class AsyncWire:
    """The HTTP connections to one collector; opened on first use, and again after `close`.

    `timeout_seconds` is for a whole request, from the DNS look-up to the last byte of the answer.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        options: HttpOptions | None = None,
    ) -> None:
        self._url = url
        if options is None:
            options = HttpOptions(
                timeout_seconds=timeout_seconds or DEFAULT_TIMEOUT_SECONDS,
                transport=transport,
                is_tls=url.lower().startswith("https:"),
            )
        self._options = options
        self._http: httpx.AsyncClient | None = None

    async def drive(self, asking: Generator[Post | Call, Any, T]) -> T:
        """Carry out each `Post` and `Call` of a delivery; return the delivery's result."""
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
            with anyio.fail_after(self._options.timeout_seconds):
                return await self._ask(post)
        except Exception as error:  # noqa: BLE001 - returned as the reason why there is no answer
            return no_answer(error)

    async def _ask(self, post: Post) -> Answer | NoAnswer:
        if self._http is None:
            self._http = self._options.connect()
        async with self._http.stream(
            "POST", join(self._url, post.path), content=post.content, headers=dict(post.headers)
        ) as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    return NoAnswer("not_a_collector", "answers without end")
        return Answer(response.status_code, response.headers, bytes(body))

    async def close(self) -> None:
        """Close all connections."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()


async def deliver_forever(attempt: Callable[[], Awaitable[Step]], wake: asyncio.Event) -> None:
    """Make attempts until cancelled: at once after a success, after a backoff otherwise.

    `wake` is set when something was queued.
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
            with anyio.move_on_after(IDLE_SECONDS):
                await wake.wait()
            wake.clear()
            await asyncio.sleep(LINGER_SECONDS)
        else:
            await asyncio.sleep(pace.wait_seconds(asked_seconds=step.after_seconds))
