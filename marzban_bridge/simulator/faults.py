"""Faults on demand, and a log of what was asked of the simulated panel."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from marzban_bridge.simulator.panel.database import PanelDatabase

REMEMBERED_REQUESTS = 100_000
FILE_SECONDS = 0.2
LIST_PATH = "/api/users"


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
        self.list_status = 0
        """Each list of users is answered with this status, as by a web server in front of the
        panel that refuses what is asked; 0 lets them through."""
        self.late_put_seconds = 0.0
        """A PUT is answered 504, and carried out so many seconds later, as behind a proxy that has
        given up on a busy panel; 0 carries it out at once."""
        self.requests: deque[SeenRequest] = deque(maxlen=REMEMBERED_REQUESTS)
        self._failures: deque[int] = deque()

    def fail_next(self, times: int = 1, *, status: int = 503) -> None:
        """Answer the next so many requests with this status, without doing what they ask."""
        self._failures.extend([status] * times)

    def take_failure(self, path: str) -> int | None:
        """Return the status that the next request, to this path, is to fail with, if it is."""
        if self.is_down:
            return 502
        if self.list_status and path == LIST_PATH:
            return self.list_status
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
        self._late: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen = SeenRequest(
                    method=scope["method"],
                    path=scope["path"],
                    at=self._clock(),
                    status=message["status"],
                )
                self._faults.requests.append(seen)

        async def remember(message: Message) -> None:
            note(message)
            await send(message)

        if self._faults.delay_seconds:
            await asyncio.sleep(self._faults.delay_seconds)
        status = self._faults.take_failure(scope["path"])
        if status is None and scope["method"] == "PUT" and self._faults.late_put_seconds:
            await self._carry_out_late(scope, receive, note)
            status = 504
        if status is None:
            await self._app(scope, receive, remember)
        else:
            answer = PlainTextResponse("a fault was asked for", status_code=status)
            await answer(scope, receive, remember)

    async def _carry_out_late(
        self, scope: Scope, receive: Receive, note: Callable[[Message], None]
    ) -> None:
        """Read the whole request now and have it carried out later, without an answer."""
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())

        async def replay() -> Message:
            return messages.pop(0)

        async def noted(message: Message) -> None:
            note(message)

        async def carry_out(seconds: float) -> None:
            await asyncio.sleep(seconds)
            await self._app(scope, replay, noted)

        task = asyncio.create_task(carry_out(self._faults.late_put_seconds))
        self._late.add(task)
        task.add_done_callback(self._late.discard)


@contextlib.asynccontextmanager
async def following(
    faults: Faults, path: Path | None, *, database: PanelDatabase
) -> AsyncIterator[None]:
    """Have the faults that a file asks for, from when it is there until it is gone.

    What befalls the database is asked for by a list that grows: `"database": ["dump a", "empty"]`.
    """
    if path is None:
        yield
        return

    async def follow(file: Path) -> None:
        while True:
            wanted = await asyncio.to_thread(_read, file)
            faults.delay_seconds = float(wanted.get("delay_seconds", 0))
            faults.is_down = bool(wanted.get("is_down", False))
            faults.late_put_seconds = float(wanted.get("late_put_seconds", 0))
            faults.list_status = int(wanted.get("list_status", 0))
            database.follow(wanted.get("database", []))
            await asyncio.sleep(FILE_SECONDS)

    following_it = asyncio.ensure_future(follow(path))
    try:
        yield
    finally:
        following_it.cancel()


def _read(path: Path) -> dict[str, Any]:
    """Return what is asked for; nothing while the file is not there or half written."""
    with contextlib.suppress(OSError, ValueError):
        wanted: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return wanted
    return {}
