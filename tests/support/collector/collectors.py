"""A whole collector in this process: real ledger file, scripted panel, a clock that stands still."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from collector.app import create_app
from collector.reports.report import DAY_MILLIS, Limits, kept_millis
from collector.settings import Settings
from tests.support.collector.ledgers import NOON_MILLIS

ADMIN_KEY = "an-admin-key-for-tests"
KEY = "rk_a-reporter-key-for-tests"
OTHER_KEY = "rk_another-reporter-key-for-tests"
AS_ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}
AS_REPORTER = {"authorization": f"Bearer {KEY}"}
AS_OTHER = {"authorization": f"Bearer {OTHER_KEY}"}
ALICE_TOKEN = "YWxpY2UsMTc5NTQzMzM4NQ3PDaZWi-hR"
BOB_TOKEN = "Ym9iLDE3OTU0MzMzODU3PDaZWi-hR"


def wire(user_token: str = "alice", **changes: Any) -> dict[str, Any]:
    """Return a report as it is sent."""
    return {
        "user_token": user_token,
        "server": "de-1",
        "port": 443,
        "protocol": "vless",
        "bytes_uploaded": 10,
        "bytes_downloaded": 20,
    } | changes


@dataclass(kw_only=True)
class CollectorWorld:
    """A collector, its panel and its clock."""

    path: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    now_millis: int = NOON_MILLIS
    monotonic_seconds: Callable[[], float] = time.monotonic
    users: dict[str, str] = field(default_factory=lambda: {ALICE_TOKEN: "alice", BOB_TOKEN: "bob"})
    is_panel_down: bool = False
    panel_transport: httpx.AsyncBaseTransport | None = None
    """What answers as the panels, in place of `users`."""
    on_damage: Callable[[Exception], None] = lambda _: None
    asked: list[str] = field(default_factory=list)
    app: FastAPI = field(init=False)
    client: httpx.AsyncClient = field(init=False)

    def __post_init__(self) -> None:
        settings = Settings.from_env(
            {
                "LEDGER_URL": f"sqlite:///{self.path}",
                "COLLECTOR_ADMIN_KEY": ADMIN_KEY,
                "COLLECTOR_REPORTER_KEYS": f"r:{KEY},other:{OTHER_KEY}",
                "MARZBAN_URL": "http://panel.test",
                "COLLECTOR_MIN_FREE_DISK_BYTES": "0",
            }
            | self.environment
        )
        self.app = create_app(
            settings,
            now_millis=lambda: self.now_millis,
            monotonic_seconds=self._read_monotonic_clock,
            panel_transport=self.panel_transport or httpx.MockTransport(self._answer),
            on_damage=self.on_damage,
        )

    def _read_monotonic_clock(self) -> float:
        return self.monotonic_seconds()

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if self.is_panel_down:
            raise httpx.ConnectError("the panel is down", request=request)
        username = self.users.get(request.url.path.split("/")[-2])
        if username is None:
            return httpx.Response(404, json={"detail": "Not Found"})
        return httpx.Response(200, json={"username": username})

    async def send(
        self, body: Any, *, path: str = "/v1/reports", headers: Mapping[str, str] = AS_REPORTER
    ) -> httpx.Response:
        """Send reports, by default as the reporter `r`."""
        if isinstance(body, bytes):
            return await self.client.post(path, content=body, headers=dict(headers))
        return await self.client.post(path, json=body, headers=dict(headers))

    async def get(self, path: str, **params: Any) -> Any:
        """Return what an admin reads."""
        response = await self.client.get(path, params=params, headers=AS_ADMIN)
        assert response.status_code == 200, response.text
        return response.json()

    async def let_days_pass(self, days: int) -> None:
        """Move the clock, and the time that collectors of the ledger ran."""
        self.now_millis += days * DAY_MILLIS
        for _ in range(2):
            await self.app.state.collector.ingest.run(
                lambda ledger: ledger.age(
                    ran_millis=days * DAY_MILLIS, kept_millis=kept_millis(Limits())
                )
            )

    async def totals(self) -> dict[str, int]:
        """Return all users' bytes since for ever."""
        page = await self.get("/v1/usage/changes")
        return {
            each["username"]: each["upload_bytes"] + each["download_bytes"]
            for each in page["changes"]
        }


@asynccontextmanager
async def running(world: CollectorWorld) -> AsyncIterator[CollectorWorld]:
    """Run a collector within this event loop."""
    transport = httpx.ASGITransport(app=world.app)
    async with (
        world.app.router.lifespan_context(world.app),
        httpx.AsyncClient(transport=transport, base_url="http://collector.test") as client,
    ):
        world.client = client
        yield world
