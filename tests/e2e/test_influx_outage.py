"""InfluxDB is for looking: while it is away limits and resets hold, and afterwards all is there."""

from __future__ import annotations

import pytest

from tests.support.processes import BRIDGE, COLLECTOR, PANEL, Stack, until

GIB = 2**30
EVENTS = 'SELECT "title", "kind" FROM "raw"."events"'
USAGE = 'SELECT last("used_ratio") AS ratio, last("status") AS status FROM "raw"."user_usage"'


@pytest.fixture
def stack(tmp_path, influx):
    users = [{"username": "alice", "data_limit": 10 * GIB, "used_traffic": 4 * GIB}]
    opened = Stack(tmp_path, users, influx.environment())
    opened.start(PANEL, COLLECTOR, BRIDGE)
    opened.until_up(PANEL, COLLECTOR, BRIDGE)
    yield opened
    opened.close()


def used_ratio_and_status(influx) -> tuple[float, str] | None:
    rows = influx.query(USAGE)
    return (rows[0]["ratio"], rows[0]["status"]) if rows else None


def test_limits_and_resets_hold_without_influxdb_and_are_shown_once_it_is_back(stack, influx):
    stack.report("alice", GIB, "1")
    until(
        "alice is shown with 5 of 10 GiB", lambda: (used_ratio_and_status(influx) or (0,))[0] == 0.5
    )
    influx.stop()
    stack.report("alice", 7 * GIB, "2")
    until("alice is limited", lambda: stack.user("alice")["status"] == "limited")
    stack.reset_in_panel("alice")
    until("alice has its quota back", lambda: stack.user("alice")["data_limit"] == 10 * GIB)
    for name in (COLLECTOR, BRIDGE):
        ready = stack.client.get(f"{stack.urls[name]}/readyz")
        assert ready.status_code == 200, ready.text
        assert ready.json()["reasons"] == []
    stack.stop(BRIDGE)
    stack.start(BRIDGE)
    influx.start()
    until(
        "alice is shown with nothing used", lambda: used_ratio_and_status(influx) == (0.0, "active")
    )
    kinds = until(
        "what happened meanwhile is shown",
        lambda: (
            {"limited", "reset"} <= (found := {row["kind"] for row in influx.query(EVENTS)})
            and found
        ),
    )
    assert "adopted" in kinds
