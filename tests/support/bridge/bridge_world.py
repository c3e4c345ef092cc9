"""A bridge served in this event loop, between a simulated panel and a ledger's feed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx

from marzban_bridge.app import create_app
from marzban_bridge.config.settings import Settings
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.fake_ledger import ADMIN_KEY, FakeLedger
from tests.support.bridge.in_process import InProcess
from tests.support.bridge.panel_kind import PANEL_KIND
from tests.support.clocks import ManualClock

PASSWORD = "the-password-of-the-bridge"
SECRET = "the-webhook-secret"
PASSWORDS = {"root": PASSWORD, "boss": "the-password-of-boss", "shop": "the-password-of-shop"}
RESET_ALL = {"confirm": "reset all users"}
DEADLINE_SECONDS = 120


class WaitingFeed(httpx.AsyncBaseTransport):
    """Lets a reader of the feed wait for news, as the collector does; in small steps."""

    def __init__(self, ledger: FakeLedger) -> None:
        self._ledger = ledger
        self._inner = ledger.transport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if float(request.url.params.get("wait", 0)) and not self._ledger.is_down:
            after = int(request.url.params["after"])
            while self._ledger.seq == after and not self._ledger.is_down:
                await asyncio.sleep(0.01)
        return await self._inner.handle_async_request(request)


class BridgeWorld:
    """A bridge served in this event loop, with its panel, its ledger and its clock.

    `root` is the admin of the panel's environment and the bridge's own, `boss` a sudo admin, and
    `shop` a reseller. `alice` and `bob` are the shop's; `carol` is root's, without an owner.
    """

    def __init__(self, folder: Path, *, kind: str = PANEL_KIND, **settings: Any) -> None:
        self.clock = ManualClock()
        self.panel = SimulatedPanel(clock=self.clock, kind=kind, admins={"root": (PASSWORD, True)})
        self.panel.add_admin("boss", password=PASSWORDS["boss"], is_sudo=True)
        self.panel.add_admin("shop", password=PASSWORDS["shop"])
        for name, owner in (("alice", "shop"), ("bob", "shop"), ("carol", "root")):
            self.panel.create_user(name, by=owner, data_limit=gib(10))
        self.ledger = FakeLedger()
        self.panel_app = create_simulator_app(self.panel)
        self.faults = self.panel_app.state.faults
        self.settings = Settings(
            **{
                "marzban_url": "http://panel.test",
                "marzban_username": "root",
                "marzban_password": PASSWORD,
                "collector_admin_key": ADMIN_KEY,
                "webhook_secret": SECRET,
                "store": folder / "bridge.sqlite3",
            }
            | settings
        )
        self.loop_failures: list[BaseException] = []
        self.client: httpx.AsyncClient
        self.bridges: Any
        self.bridge: Any
        self.callers: Any
        self.own_sign_ins = 0
        """How often the bridge signed in for itself at its start."""

    @contextlib.asynccontextmanager
    async def serving(
        self, collector: httpx.AsyncBaseTransport | None = None
    ) -> AsyncIterator[BridgeWorld]:
        app = create_app(
            self.settings,
            clock=self.clock,
            panel_transport=InProcess(self.panel_app),
            collector_transport=collector or WaitingFeed(self.ledger),
            on_loop_failure=self.loop_failures.append,
        )
        transport = InProcess(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://bridge.test") as client,
        ):
            self.client, self.bridges = client, app.state.bridges
            self.bridge, self.callers = self.bridges.first, app.state.callers
            outage = self.bridge.reconciler.health.outage
            await until("the first look", lambda: outage.reason != "not reached yet")
            self.own_sign_ins = self.faults.count("POST", "/api/admin/token")
            yield self

    def as_(self, admin: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.panel.sign_in(admin, PASSWORDS[admin])}"}

    async def ask(
        self, method: str, path: str, *, by: str | None = "boss", **arguments: Any
    ) -> httpx.Response:
        headers = self.as_(by) if by else {}
        return await self.client.request(
            method, path, headers=headers | arguments.pop("headers", {}), **arguments
        )

    async def get(self, path: str, *, by: str = "boss", **params: Any) -> Any:
        answer = await self.ask("GET", path, by=by, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def deliver(self, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(
            "/webhooks/marzban", content=content, headers={"x-webhook-secret": SECRET} | headers
        )

    async def sign_in(self, username: str, password: str) -> httpx.Response:
        form = {"username": username, "password": password}
        return await self.client.post("/api/admin/token", data=form)

    async def use(self, username: str, *, external_bytes: int, panel_bytes: int = 0) -> None:
        """Let a user use traffic on both sides, and wait until the bridge has looked."""
        if panel_bytes:
            self.panel.use_traffic(username, panel_bytes)
        self.ledger.report(username, external_bytes)
        total_bytes = self.ledger.total_bytes(username)
        self.clock.advance(seconds=1)
        await self.bridges.run_once()
        assert self.bridge.store.usage.total_bytes(username) == total_bytes


async def until(what: str, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        await asyncio.sleep(0.01)
