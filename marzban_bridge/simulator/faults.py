"""Faults on demand, and a log of what was asked of the simulated panel."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REMEMBERED_REQUESTS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRequest:
    """One request the panel answered."""

    method: str
    path: str
    at: datetime
    status: int


class Faults:
    """What is to go wrong, and what was asked; every attribute may be set at any time."""

    def __init__(self) -> None:
        self.is_down = False
        """Every request is answered 502, as by the web server in front of a dead panel."""
        self.delay_seconds = 0.0
        self.requests: deque[SeenRequest] = deque(maxlen=REMEMBERED_REQUESTS)
        self._failures: deque[int] = deque()

    def fail_next(self, times: int = 1, *, status: int = 503) -> None:
        """Answer the next so many requests with this status, without doing what they ask."""
        self._failures.extend([status] * times)

    def take_failure(self) -> int | None:
        """Return the status that the next request is to fail with, if it is."""
        if self.is_down:
            return 502
        return self._failures.popleft() if self._failures else None

    def count(self, method: str, path_prefix: str = "") -> int:
        """Return how many remembered requests had this method and began with this path."""
        return sum(
            1
            for request in self.requests
            if request.method == method and request.path.startswith(path_prefix)
        )


class FaultsMiddleware:
    """Delays and fails requests as told, and remembers them all."""

    def __init__(self, app: ASGIApp, *, faults: Faults, clock: Callable[[], datetime]) -> None:
        self._app = app
        self._faults = faults
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def remember(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen = SeenRequest(
                    method=scope["method"],
                    path=scope["path"],
                    at=self._clock(),
                    status=message["status"],
                )
                self._faults.requests.append(seen)
            await send(message)

        if self._faults.delay_seconds:
            await asyncio.sleep(self._faults.delay_seconds)
        status = self._faults.take_failure()
        if status is None:
            await self._app(scope, receive, remember)
        else:
            answer = PlainTextResponse("a fault was asked for", status_code=status)
            await answer(scope, receive, remember)
