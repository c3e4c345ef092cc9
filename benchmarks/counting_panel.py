"""A simulated panel that counts what it is asked, route by route, and when each user was written.

Beside the panel's own paths it answers `GET /counted`, and `PUT /answers?after=SECONDS`: from then
on each answer takes so much longer. Times are `time.monotonic`, which on Linux is one clock for all
processes.
"""

from __future__ import annotations

import asyncio
import copy
import gc
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from marzban_bridge.reconcile.users.reader import CHUNK
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel

PASSWORD = "the-panel-password-of-the-benchmark"  # noqa: S105 - of a panel that guards nothing
GIB = 2**30
QUOTA_BYTES = 100 * GIB
USED_BYTES = GIB
AGE = timedelta(days=10)


class Counting:
    """The panel's application with a counter in front."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._requests: Counter[str] = Counter()
        self._written_at: dict[str, float] = {}
        self._answer_seconds = 0.0
        self._in_flight = self._most_in_flight = 0
        self._lists: list[str] = []
        """Who was the first in each list of several users since the last sign-in."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one request and have it answered."""
        path: str = scope.get("path", "")
        if path == "/counted":
            await JSONResponse(self._counted())(scope, receive, send)
            return
        if path == "/answers":
            self._answer_seconds = float(parse_qs(scope["query_string"].decode())["after"][0])
            self._most_in_flight = 0
            await JSONResponse({})(scope, receive, send)
            return
        if scope["type"] == "http":
            self._note(scope["method"], path, scope["query_string"].decode())
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        try:
            if self._answer_seconds:
                await asyncio.sleep(self._answer_seconds)
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1

    def _note(self, method: str, path: str, query: str) -> None:
        if path.startswith("/api/user/"):
            if method == "PUT":
                self._written_at[path.removeprefix("/api/user/")] = time.monotonic()
            path = "/api/user/{name}"
        if path == "/api/users":
            names = parse_qs(query).get("username", [])
            self._lists += names[:1] if len(names) == CHUNK else []
            path += "?username=…" if names else "?offset=…"
        if path == "/api/admin/token":
            self._lists.clear()
        self._requests[f"{method} {path}"] += 1

    def _counted(self) -> dict[str, object]:
        return {
            "requests": self._requests,
            "written_at": self._written_at,
            "most_in_flight": self._most_in_flight,
            "lists": (self._lists[:1], self._lists[-1:]),
        }


def name_of(number: int) -> str:
    """Return the name of a user of the panel."""
    return f"user{number:06}"


def serve(*, users: int, port: int) -> None:
    """Serve a panel with so many users until killed."""
    began_at = datetime.now(UTC) - AGE
    is_seeded = False
    panel = SimulatedPanel(
        clock=lambda: datetime.now(UTC) if is_seeded else began_at,
        admins={"admin": (PASSWORD, True)},
        sends_webhooks=False,
    )
    fill(panel, users=users)
    is_seeded = True
    config = uvicorn.Config(
        Counting(create_simulator_app(panel)), port=port, log_config=None, access_log=False
    )
    asyncio.run(uvicorn.Server(config).serve())


def fill(panel: SimulatedPanel, *, users: int) -> None:
    """Give the panel so many users, who are alike; a million takes seconds and 0.5 GB."""
    panel.create_user(name_of(0), data_limit=QUOTA_BYTES)
    panel.use_traffic(name_of(0), USED_BYTES)
    first = panel.find(name_of(0))
    gc.disable()
    for number in range(1, users):
        user = copy.copy(first)
        user.id, user.username = panel.next_id(), name_of(number)
        panel.users[panel.key(user.username)] = user
    gc.enable()
    gc.freeze()
