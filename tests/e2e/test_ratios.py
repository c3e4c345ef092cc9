"""What a byte counts for, from a report to the panel: a real collector, a bridge, a panel."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest

from collector.reports.billing import Ratio, parse_ratio
from marzban_bridge.quota.account import MIB
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.bridge_world import BridgeWorld, until
from tests.support.collector.collectors import AS_OTHER, CollectorWorld, running, wire
from tests.support.collector.ledgers import beside

OUTSIDE = {"COLLECTOR_REPORTERS_OUTSIDE_QUOTA": "other"}


class Both:
    """A collector and the bridge that reads it."""

    def __init__(self, collector: CollectorWorld, bridge: BridgeWorld) -> None:
        self.collector, self.bridge = collector, bridge

    async def set_ratio(self, ratio: str) -> None:
        """Do what `ratios set` does, and let its second pass."""
        rule = Ratio("de-1", parse_ratio(ratio), 0)
        beside(self.collector.path).set_ratio(rule)
        rules = self.collector.app.state.collector.rules
        while (await rules.current()).billing.ratio_millis("de-1") != rule.ratio_millis:
            rules._rules = None  # this query, too, may have begun before
            await asyncio.sleep(0)  # it is over only when its task's callback has run

    async def report(self, amount_bytes: int, **options) -> None:
        """Report in pieces: a byte of rounding for each would show in the sums."""
        size = gib(0.5)
        reports = [
            wire("alice", bytes_uploaded=0, bytes_downloaded=size)
            for _ in range(amount_bytes // size)
        ]
        answer = await self.collector.send(reports, **options)
        assert answer.json()["accepted"] == len(reports)
        self.bridge.clock.advance(seconds=1)
        await self.bridge.bridges.run_once()
        self.bridge.panel.review()

    @property
    def status(self) -> str:
        return self.bridge.panel.get_user("alice")["status"]

    async def becomes(self, status: str) -> None:
        """Let the panel cut off; the bridge's own loop may have had the user when a pass came."""

        def is_so() -> bool:
            self.bridge.panel.review()
            return self.status == status

        await until(status, is_so)

    async def external_traffic(self) -> dict[str, int]:
        (user,) = (await self.bridge.get("/v1/users"))["users"]
        return {name: user[name] for name in ("external_bytes", "external_raw_bytes")}


@asynccontextmanager
async def opened(folder):
    collector = CollectorWorld(path=folder / "ledger.sqlite3", environment=OUTSIDE)
    async with running(collector):
        bridge = BridgeWorld(folder)
        async with bridge.serving(httpx.ASGITransport(collector.app)):
            bridge.panel.use_traffic("alice", 2 * MIB)
            yield Both(collector, bridge)


@pytest.fixture
async def both(tmp_path):
    async with opened(tmp_path) as both:
        yield both


async def test_at_ratio_2_five_gib_use_up_a_quota_of_ten(both):
    await both.set_ratio("2")
    await both.report(gib(4.5))
    assert both.status == "active"
    await both.report(gib(0.5))
    await both.becomes("limited")
    assert await both.external_traffic() == {
        "external_bytes": gib(10),
        "external_raw_bytes": gib(5),
    }


async def test_at_ratio_0_no_amount_does(both):
    await both.set_ratio("0")
    await both.report(gib(500))
    assert both.status == "active"
    assert both.bridge.panel.get_user("alice")["data_limit"] == gib(10)
    assert await both.external_traffic() == {"external_bytes": 0, "external_raw_bytes": gib(500)}


async def test_what_a_reporter_outside_the_quota_says_is_stored_and_shown_and_limits_nobody(both):
    await both.report(gib(500), headers=AS_OTHER)
    assert both.status == "active"
    assert await both.external_traffic() == {"external_bytes": 0, "external_raw_bytes": gib(500)}
    detailed = await both.bridge.get("/api/admin/usage/alice/detailed")
    (server,) = detailed["servers"]
    assert (server["download_bytes"], server["billed_bytes"]) == (gib(500), 0)
    await both.report(gib(10))
    await both.becomes("limited")


async def test_a_ratio_that_is_set_later_leaves_what_was_billed_and_a_reset_begins_anew(both):
    await both.report(gib(5))
    await both.set_ratio("2")
    assert await both.external_traffic() == {"external_bytes": gib(5), "external_raw_bytes": gib(5)}
    await both.report(gib(2.5))
    await both.becomes("limited")
    assert await both.external_traffic() == {
        "external_bytes": gib(10),
        "external_raw_bytes": gib(7.5),
    }
    await both.bridge.ask("POST", "/v1/users/alice/reset")
    assert both.status == "active"
    assert await both.external_traffic() == {"external_bytes": 0, "external_raw_bytes": 0}
    await both.report(gib(1))
    assert await both.external_traffic() == {"external_bytes": gib(2), "external_raw_bytes": gib(1)}
    detailed = await both.bridge.get("/api/admin/usage/alice/detailed")
    assert [each["ratio"] for each in detailed["servers"]] == [2.0]
