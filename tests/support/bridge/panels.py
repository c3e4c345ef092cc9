"""A simulated panel and a real one, driven alike: to be arranged, and to be asked."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import httpx

from marzban_bridge.panels.rest_panel import RestPanel
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from tests.support.bridge.in_process import InProcess
from tests.support.clocks import ManualClock

REAL_OF_KIND = {
    kind: {
        name: os.environ.get(f"{kind.upper()}_TEST_{name}", "")
        for name in ("URL", "USERNAME", "PASSWORD", "CONTROL_URL", "VERSION")
    }
    for kind in ("marzban", "pasarguard")
}
REAL = REAL_OF_KIND["marzban"]
FREE_ACCESS = {
    "marzban": {"proxies": {"vless": {}, "shadowsocks": {}}, "inbounds": {}},
    "pasarguard": {"group_ids": [1]},
}
"""What lets a new user in, as each kind spells it."""
CREATED = {"marzban": 200, "pasarguard": 201}
"""How each kind answers a user's creation."""


class SimulatedDriver:
    """Drives the simulated panel; everything about it can be arranged and seen."""

    has_control = True

    def __init__(self, database, kind="marzban") -> None:
        self.clock = ManualClock()
        self.panel = SimulatedPanel(clock=self.clock, database=database, kind=kind)
        self.kind, self.version = self.panel.kind, self.panel.dialect.version
        self.client = httpx.AsyncClient(
            transport=InProcess(create_simulator_app(self.panel)),
            base_url="http://panel",
        )
        self.credentials = {"username": "admin", "password": "admin"}

    def adapter(self, *, password=None):
        """Return the bridge's adapter, signed in to this panel."""
        return RestPanel(
            "http://panel",
            username=self.credentials["username"],
            password=password or self.credentials["password"],
            transport=InProcess(create_simulator_app(self.panel)),
        )

    async def use(self, username, count_bytes):
        self.panel.find(username).used_traffic = count_bytes

    async def age(self, username, days):
        user = self.panel.find(username)
        user.created_at -= timedelta(days=days)
        assert not user.reset_logs, "ageing of logs is not needed yet"

    async def run(self, job):
        died = self.panel.review() if job == "review" else self.panel.reset_periodic()
        return died is None

    async def in_xray(self, username):
        return self.panel.find(username).in_xray

    async def until_xray_listens(self):
        """A simulated xray starts at once."""


class RealDriver:
    """Drives a real panel, and its companion if there is one."""

    def __init__(self, kind="marzban") -> None:
        self.kind = kind
        self._real = REAL_OF_KIND[kind]
        self.version = self._real["VERSION"] or {"marzban": "0.8.4", "pasarguard": "5.2.1"}[kind]
        self.client = httpx.AsyncClient(
            base_url=self._real["URL"],
            timeout=60,
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
        )
        self.has_control = bool(self._real["CONTROL_URL"])
        self.credentials = {
            "username": self._real["USERNAME"],
            "password": self._real["PASSWORD"],
        }

    def adapter(self, *, password=None):
        """Return the bridge's adapter, signed in to this panel."""
        return RestPanel(
            self._real["URL"],
            username=self.credentials["username"],
            password=password or self.credentials["password"],
        )

    async def _control(self, method, path):
        answer = await self.client.request(method, f"{self._real['CONTROL_URL']}{path}")
        return answer.raise_for_status().json()

    async def use(self, username, count_bytes):
        await self._control("POST", f"/used/{username}/{count_bytes}")

    async def age(self, username, days):
        await self._control("POST", f"/age/{username}/{days}")

    async def run(self, job):
        return (await self._control("POST", f"/job/{job}"))["error"] is None

    async def in_xray(self, username):
        return await self._control("GET", f"/xray/{username}")

    async def until_xray_listens(self):
        """Wait for a restart: while xray starts, Marzban's calls to it are lost."""
        body = {"username": "probe_user", **FREE_ACCESS[self.kind]}
        await self.client.post("/api/user", json=body)
        deadline = time.monotonic() + 20
        while not await self.in_xray("probe_user"):
            assert time.monotonic() < deadline, "xray does not start"
            await self.client.put("/api/user/probe_user", json={"note": "again"})
        await self.client.delete("/api/user/probe_user")


PANELS = [
    *("simulated marzban on mysql", "simulated marzban on sqlite"),
    *(["real"] if REAL["URL"] else []),
]
PASARGUARDS = [
    *("simulated pasarguard on mysql", "simulated pasarguard on sqlite"),
    *(["real pasarguard"] if REAL_OF_KIND["pasarguard"]["URL"] else []),
]
PANELS_OF_BOTH_KINDS = PANELS + PASARGUARDS
EARLIER_PASARGUARD = "simulated pasarguard-3.1 on sqlite"


def open_driver(name):
    """Return a driver of the panel of that name."""
    if name.startswith("real"):
        return RealDriver("pasarguard" if "pasarguard" in name else "marzban")
    _, kind, _, database = name.split(" ")
    return SimulatedDriver(database, kind)
