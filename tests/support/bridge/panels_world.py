"""A bridge between one ledger and several simulated panels, in one process, with accidents."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from marzban_bridge.bridge import Bridge, Bridges
from marzban_bridge.config.settings import Settings, StoreUrl
from marzban_bridge.errors import PanelError
from marzban_bridge.opening import open_bridges
from marzban_bridge.quota.account import Account
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.fake_ledger import ADMIN_KEY, FakeLedger
from tests.support.bridge.in_process import InProcess
from tests.support.bridge.panel_kind import PANEL_KIND
from tests.support.bridge.shared_stores import leading
from tests.support.bridge.world import AccidentProneTransport, Crashed
from tests.support.clocks import ManualClock

PASSWORD = "a-panel-password"
SECRET = "a-webhook-secret"


def panels_text(names: Sequence[str]) -> str:
    """Return the panels file for panels of these names beside the first."""
    return "\n".join(
        f'[{name}]\nurl = "http://{name}.test"\nusername = "root"\npassword = "{PASSWORD}"\n'
        f'webhook_secret = "the-webhook-secret-of-{name}"\n'
        for name in names
        if name != "default"
    )


class PanelsWorld:
    """Panels by name, of a kind each, the first of which is `default`; `close` ends it."""

    def __init__(
        self,
        folder: Path,
        *names: str,
        spans: bool = False,
        configured: Sequence[str] = (),
        store: Path | StoreUrl | None = None,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.store = store or folder / "bridge.sqlite3"
        self.clock = ManualClock()
        self.ledger = FakeLedger()
        self.panels = {
            name: SimulatedPanel(
                kind=(kinds or {}).get(name, PANEL_KIND),
                clock=self.clock,
                admins={"root": (PASSWORD, True)},
                secret=f"of {name}",
            )
            for name in ("default", *names)
        }
        self.apps = {name: create_simulator_app(panel) for name, panel in self.panels.items()}
        self.transports = {
            name: AccidentProneTransport(InProcess(app)) for name, app in self.apps.items()
        }
        self._loop = asyncio.new_event_loop()
        self._stack = contextlib.AsyncExitStack()
        self.bridges = self.open(configured or tuple(self.panels), spans=spans)

    def configure(self, names: Sequence[str], *, spans: bool, **settings: Any) -> Settings:
        path = self.folder / "panels.toml"
        path.write_text(panels_text(names))
        return Settings(
            marzban_url="http://default.test",
            marzban_username="root",
            marzban_password=PASSWORD,
            collector_admin_key=ADMIN_KEY,
            webhook_secret=SECRET,
            store=self.store,
            panels_file=path if len(names) > 1 else None,
            quotas_span_panels=spans,
            **settings,
        )

    def open(self, names: Sequence[str], *, spans: bool, **settings: Any) -> Bridges:
        self.settings = self.configure(names, spans=spans, **settings)
        opening = open_bridges(
            self.settings,
            clock=self.clock,
            panel_transport=self.transports,
            collector_transport=self.ledger.transport(),
            **leading(self.settings.store, self._stack),
        )
        self._opened = names, spans, settings
        return self.run(self._stack.enter_async_context(opening))

    def run(self, work: Awaitable[Any]) -> Any:
        return self._loop.run_until_complete(work)

    def restart(
        self, names: Sequence[str] | None = None, *, spans: bool | None = None, **changed: Any
    ) -> None:
        """End the bridge's process and start another on the same store, perhaps set up anew."""
        old_names, old_spans, settings = self._opened
        self.run(self._stack.aclose())
        self._stack = contextlib.AsyncExitStack()
        self.bridges = self.open(
            names or old_names, spans=old_spans if spans is None else spans, **settings | changed
        )

    def attempt(self, work: Callable[[], Awaitable[Any]]) -> bool:
        """Run something that may die half-way; restart if it did. Return whether it survived."""
        try:
            self.run(work())
        except Crashed:
            self.restart()
            return False
        return True

    def look(self, times: int = 1) -> None:
        """Read the feed and settle everybody, restarting as often as the process dies.

        Panels that are down are left out.
        """
        for _ in range(times):
            self.clock.advance(seconds=1)
            with contextlib.suppress(PanelError):
                while not self.attempt(self.bridges.run_once):
                    pass

    def bridge(self, panel: str) -> Bridge:
        return self.bridges.by_name[panel]

    def account(self, panel: str, username: str = "alice") -> Account | None:
        return self.bridge(panel).store.accounts.get(username)

    def external(self, panel: str, username: str = "alice") -> int | None:
        account = self.account(panel, username)
        if account is None:
            return None
        total_bytes = self.bridge(panel).store.usage.total_bytes(account.key)
        return total_bytes - account.baseline_bytes

    def create(self, panel: str, username: str = "alice", *, limit: float | None = 10, **fields):
        self.panels[panel].create_user(
            username, data_limit=None if limit is None else gib(limit), **fields
        )

    def use(self, panel: str, amount: float, username: str = "alice") -> None:
        self.panels[panel].use_traffic(username, gib(amount))

    def shown(self, panel: str, username: str = "alice") -> tuple[str, float | None]:
        user = self.panels[panel].get_user(username)
        limit = user["data_limit"]
        return user["status"], None if limit is None else limit / gib(1)

    def events(self, panel: str, kind: str) -> list[str]:
        found = self.bridge(panel).store.events.newest(limit=1000)
        return [each.username for each in found if each.event.kind == kind]

    def close(self) -> None:
        self.run(self._stack.aclose())
        self._loop.close()
