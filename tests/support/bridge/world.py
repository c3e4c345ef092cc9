"""A whole world in one process: a simulated panel, a ledger's feed, a bridge, and accidents."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from marzban_bridge.bridge import Bridge, Bridges
from marzban_bridge.clock import utc_now
from marzban_bridge.config.settings import Settings
from marzban_bridge.opening import open_bridges
from marzban_bridge.quota.account import Account
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from tests.support.bridge.fake_ledger import ADMIN_KEY, FakeLedger
from tests.support.bridge.in_process import InProcess
from tests.support.bridge.panel_kind import PANEL_KIND
from tests.support.bridge.shared_stores import leading
from tests.support.clocks import ManualClock

PASSWORD = "a-panel-password"


class Crashed(BaseException):
    """The bridge's process died at this point."""


class AccidentProneTransport(httpx.AsyncBaseTransport):
    """Carries requests to the panel, and can die right after one was carried out."""

    def __init__(
        self, inner: httpx.AsyncBaseTransport, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._inner = inner
        self._clock = clock
        self.writes: list[tuple[str, str]] = []
        self.crash_after_writes: int | None = None
        self.is_down = False
        self.delayed_writes = 0
        """How many of the next PUTs and resets time out, to be carried out when the test says."""
        self.delay_error: type[httpx.TransportError] = httpx.ReadTimeout
        """What the bridge sees of such a PUT; it sends one again at once after a ReadError."""
        self.before_next_write: Callable[[], Awaitable[Any]] | None = None
        """What happens after the bridge's last look and before the panel takes its write."""
        self._delayed: list[tuple[datetime, httpx.Request]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.is_down:
            raise httpx.ConnectError("the panel is down", request=request)
        is_reset = request.method == "POST" and request.url.path.endswith("/reset")
        if (request.method == "PUT" or is_reset) and self.delayed_writes:
            self.delayed_writes -= 1
            self._delayed.append((self._clock(), request))
            raise self.delay_error("no answer in time", request=request)
        if request.method == "PUT" and self.before_next_write:
            happens, self.before_next_write = self.before_next_write, None
            await happens()
        response = await self._inner.handle_async_request(request)
        is_write = request.method != "GET" and not request.url.path.endswith("/token")
        if is_write:
            self.writes.append((request.method, request.url.path))
            if self.crash_after_writes is not None:
                self.crash_after_writes -= 1
                if self.crash_after_writes <= 0:
                    self.crash_after_writes = None
                    raise Crashed
        return response

    def become(self, app: Any) -> None:
        """Have another program answer at the panel's address from now on."""
        self._inner = InProcess(app)

    async def carry_out_delayed(self, *, newest_first: bool = False) -> int:
        """Have the panel carry out the PUTs that timed out; return how many there were."""
        delayed, self._delayed = self._delayed, []
        for _, request in reversed(delayed) if newest_first else delayed:
            await self._inner.handle_async_request(request)
        return len(delayed)

    def forget_delayed(self, *, before: datetime) -> None:
        """Have the panel never carry out what timed out before a moment."""
        self._delayed = [each for each in self._delayed if each[0] >= before]


class World:
    """Everything a scenario needs; `close` ends it.

    Another bridge on the same panel, or on the same ledger, is made with the first one's.
    """

    def __init__(
        self,
        folder: Path,
        *,
        panel: SimulatedPanel | None = None,
        kind: str = PANEL_KIND,
        ledger: FakeLedger | None = None,
        **settings: Any,
    ) -> None:
        self.clock = panel.clock if panel else ManualClock()
        self.panel = panel or SimulatedPanel(
            kind=kind,
            clock=self.clock,
            admins={"root": (PASSWORD, True)},
            token_minutes=0,  # months pass here, and the bridge counts its sign-ins in real seconds
        )
        self.ledger = ledger or FakeLedger()
        self.transport = AccidentProneTransport(
            InProcess(create_simulator_app(self.panel)), self.clock
        )
        self.settings = Settings(
            marzban_url="http://panel",
            collector_admin_key=ADMIN_KEY,
            webhook_secret="a-webhook-secret",
            **{
                "marzban_username": "root",
                "marzban_password": PASSWORD,
                "store": folder / "bridge.sqlite3",
            }
            | settings,
        )
        self._loop = asyncio.new_event_loop()
        self._stack = contextlib.AsyncExitStack()
        self.bridges = self._open()

    @property
    def bridge(self) -> Bridge:
        """The bridge of the first panel."""
        return self.bridges.first

    def _open(self) -> Bridges:
        opening = open_bridges(
            self.settings,
            clock=self.clock,
            panel_transport=self.transport,
            collector_transport=self.ledger.transport(),
            **leading(self.settings.store, self._stack),
        )
        return self.run(self._stack.enter_async_context(opening))

    def run(self, work: Awaitable[Any]) -> Any:
        """Run a coroutine of the bridge to its end."""
        return self._loop.run_until_complete(work)

    def restart(self) -> None:
        """End the bridge's process and start another on the same store."""
        self.run(self._stack.aclose())
        self._stack = contextlib.AsyncExitStack()
        self.bridges = self._open()

    def lose_store(self) -> None:
        """End the bridge's process and start another, whose store is not there any more."""
        assert isinstance(self.settings.store, Path)
        self.run(self._stack.aclose())
        for each in self.settings.store.parent.glob(f"{self.settings.store.name}*"):
            each.unlink()
        self._stack = contextlib.AsyncExitStack()
        self.bridges = self._open()

    def attempt(self, work: Callable[[], Awaitable[Any]]) -> bool:
        """Run something that may die half-way; restart if it did. Return whether it survived."""
        try:
            self.run(work())
        except Crashed:
            self.restart()
            return False
        return True

    def one_pass(self) -> None:
        """Read the feed and settle everybody, restarting as often as the process dies."""
        self.clock.advance(seconds=1)
        while not self.attempt(self.bridges.run_once):
            pass

    def account(self, username: str) -> Account:
        """Return the bridge's account of a user."""
        account = self.bridge.store.accounts.get(username)
        assert account is not None, f"no account for {username}"
        return account

    def close(self) -> None:
        """End the bridge and the loop."""
        self.run(self._stack.aclose())
        self._loop.close()
