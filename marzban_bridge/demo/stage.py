"""The demo's traffic, and its own sums, with which those of the product are compared."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from marzban_bridge.bridge import Bridges
from marzban_bridge.demo.cast import CAST, UNKNOWN_NAME, Role
from marzban_bridge.quota.account import GIB
from marzban_bridge.simulator.panel.panel import SimulatedPanel

TICK_SECONDS = 0.1
PATIENCE_SECONDS = 240.0
"""How much longer traffic flows, at most, while there are stories that have not ended."""
SERVERS = ("de-1.example.com", "nl-2.example.com", "сервер-3 🚀")
RESEND_SHARE = 0.1
SERVED = frozenset({"active", "on_hold"})
GARBAGE: tuple[dict[str, object], ...] = (
    {"user_token": "alice", "server": "x", "port": 443, "protocol": "vless", "bytes_uploaded": -5},
    {"user_token": "alice", "server": "", "port": 1, "bytes_uploaded": 5, "bytes_downloaded": 5},
    {"user_token": "alice\n", "server": "x", "port": "443"},
)


def http_client(base_url: str = "", headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
    """Return a client whose requests each have a connection of their own.

    A server closes one that is idle for seconds, and a slow machine sends in that very moment.
    """
    return httpx.AsyncClient(
        base_url=base_url,
        headers=headers,
        timeout=30,
        limits=httpx.Limits(max_keepalive_connections=0),
        trust_env=False,
    )


@dataclass(slots=True)
class UserSums:
    """The demo's sums of one user: acknowledged bytes, and those of before the period."""

    acknowledged_bytes: int = 0
    before_period_bytes: int = 0

    @property
    def period_bytes(self) -> int:
        """External bytes of the current period."""
        return self.acknowledged_bytes - self.before_period_bytes


@dataclass(slots=True, kw_only=True)
class Stage:
    """What all tasks of the demo share."""

    panel: SimulatedPanel
    bridges: Bridges
    collector_url: str
    bridge_url: str
    reporter_key: str
    random: random.Random
    ends_at: float
    """When traffic ends, by time.monotonic, unless a story has not ended by then."""
    untold: set[str] = field(default_factory=set)
    """The stories that have not ended."""
    books: dict[str, UserSums] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    on_their_way: Counter[str] = field(default_factory=Counter)
    """Reports that were sent and are not in the demo's sums yet, by user."""
    counts: Counter[str] = field(default_factory=Counter)
    news: deque[str] = field(default_factory=lambda: deque(maxlen=200))
    started_at: float = field(default_factory=time.monotonic)

    @property
    def is_over(self) -> bool:
        """Whether traffic has ended: all stories have, or the time to wait for them is over."""
        waits_seconds = PATIENCE_SECONDS if self.untold else 0.0
        return time.monotonic() >= self.ends_at + waits_seconds

    def tell(self, text: str) -> None:
        """Add a line for people."""
        self.news.append(f"{time.monotonic() - self.started_at:5.1f} s  {text}")

    def user(self, username: str) -> dict[str, Any]:
        """Return a user as the panel shows it."""
        return self.panel.get_user(username)

    def begin_period(self, username: str) -> None:
        """Note that the user's period begins now; its traffic must be paused."""
        line = self.books[username]
        line.before_period_bytes = line.acknowledged_bytes

    def is_served(self, username: str) -> bool:
        """Tell whether the user can use servers: a cut-off user's subscription lists none."""
        return username not in self.paused and self.user(username)["status"] in SERVED

    async def pause(self, username: str) -> None:
        """Stop a user's traffic; return when the bridge has read all of it, or the demo is over."""
        self.paused.add(username)
        while not self._is_all_known(username) and not self.is_over:
            await asyncio.sleep(TICK_SECONDS)

    def _is_all_known(self, username: str) -> bool:
        known_bytes = self.bridges.store.usage.total_bytes(username)
        return (
            not self.on_their_way[username]
            and known_bytes == self.books[username].acknowledged_bytes
        )


async def use_panel_nodes(stage: Stage) -> None:
    """Have users use the panel's own nodes."""
    while not stage.is_over:
        for role in CAST:
            if role.panel_rate and role.username not in stage.paused:
                amount = int(role.panel_rate * TICK_SECONDS * GIB * stage.random.uniform(0.5, 1.5))
                stage.panel.use_traffic(role.username, amount)
        await asyncio.sleep(TICK_SECONDS)


async def report_with_key(stage: Stage, client: httpx.AsyncClient, name: str) -> None:
    """Report as an agent with a key does: batches with ids, some of them sent twice."""
    roles = [role for role in CAST if role.external_rate and role.username != "mallory"]
    headers = {"authorization": f"Bearer {stage.reporter_key}"}
    number = 0
    while not stage.is_over:
        batch: list[dict[str, object]] = []
        for role in roles:
            if stage.is_served(role.username):
                number += 1
                batch.append(_report(stage, role, f"{name}/{number}"))
        if stage.random.random() < RESEND_SHARE:
            batch.append(
                _report(stage, Role(username=UNKNOWN_NAME, shows="", quota_gib=None), None)
            )
        garbage = list(GARBAGE) if stage.random.random() < RESEND_SHARE else []
        await _post(stage, client, headers, batch, garbage)
        if stage.random.random() < RESEND_SHARE:
            again = [each for each in batch if "report_id" in each]
            await _post(stage, client, headers, again, [], is_repeat=True)
        await asyncio.sleep(TICK_SECONDS)


async def report_for_oneself(stage: Stage, client: httpx.AsyncClient) -> None:
    """Report as a user's own app does: its subscription URL is the only secret."""
    (role,) = (role for role in CAST if role.username == "mallory")
    url = stage.user("mallory")["subscription_url"]
    number = 0
    while not stage.is_over:
        number += 1
        report = _report(stage, role, f"app/{number}") | {"user_token": f"http://panel{url}"}
        await _post(stage, client, {}, [report], [], username="mallory")
        await asyncio.sleep(5 * TICK_SECONDS)


async def report_without_key(stage: Stage, client: httpx.AsyncClient) -> None:
    """Report without a key, which the collector has to refuse."""
    report = _report(stage, CAST[0], None)
    while not stage.is_over:
        answer = await client.post(f"{stage.collector_url}/api/xpert/traffic-webhook", json=report)
        stage.counts[f"strangers turned away ({answer.status_code})"] += 1
        await asyncio.sleep(2)


def _report(stage: Stage, role: Role, report_id: str | None) -> dict[str, object]:
    rate = role.external_rate or 0.05
    amount = int(rate * TICK_SECONDS * GIB * stage.random.uniform(0.5, 1.5))
    report: dict[str, object] = {
        "user_token": role.username,
        "server": stage.random.choice(SERVERS),
        "port": 443,
        "protocol": "vless",
        "bytes_uploaded": amount // 10,
        "bytes_downloaded": amount - amount // 10,
    }
    return report | ({"report_id": report_id} if report_id else {})


async def _post(
    stage: Stage,
    client: httpx.AsyncClient,
    headers: dict[str, str],
    batch: Sequence[dict[str, Any]],
    garbage: Sequence[dict[str, object]],
    *,
    username: str | None = None,
    is_repeat: bool = False,
) -> None:
    """Post until acknowledged, then add it to the demo's own sums."""
    names = [username or report["user_token"] for report in batch]
    stage.on_their_way.update(names)
    while batch:
        url = f"{stage.collector_url}/v1/reports"
        answer = await client.post(url, json=[*batch, *garbage], headers=headers)
        stage.counts["requests"] += 1
        if answer.status_code == 200:
            break
        stage.counts[f"answers of {answer.status_code}, sent again"] += 1
        await asyncio.sleep(0.2)
    else:
        return
    result = answer.json()
    stage.counts["reports counted"] += result["accepted"]
    stage.counts["repeated reports not counted again"] += result["duplicates"]
    stage.counts["bad reports refused"] += len(result["rejected"])
    stage.on_their_way.subtract(names)
    if is_repeat:
        return
    for name, report in zip(names, batch, strict=True):
        line = stage.books.setdefault(name, UserSums())
        line.acknowledged_bytes += report["bytes_uploaded"] + report["bytes_downloaded"]
