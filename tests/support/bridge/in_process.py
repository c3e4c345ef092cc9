"""Requests to an application in this process, as far as they are like those over a network."""

from __future__ import annotations

import asyncio

import httpx


class InProcess(httpx.ASGITransport):
    """Lets others run during each request, as a socket does.

    An application that awaits nothing would be answered without a switch: a loop that asks it again
    and again would keep the event loop, and what the test waits for would never come.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        return await super().handle_async_request(request)
