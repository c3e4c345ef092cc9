"""Everything restarted in any order, the panel down for a while: the right state, by itself."""

from __future__ import annotations

import signal

import pytest

from marzban_bridge.quota.account import GIB
from tests.support.processes import BRIDGE, COLLECTOR, PANEL, Stack, until

USERS = [
    {"username": "alice", "data_limit": 10 * GIB, "used_traffic": 4 * GIB},
    {"username": "outside", "data_limit": 10 * GIB},
]


@pytest.fixture
def stack(tmp_path):
    opened = Stack(tmp_path, USERS)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "order",
    [(COLLECTOR, BRIDGE, PANEL), (BRIDGE, PANEL, COLLECTOR), (PANEL, BRIDGE, COLLECTOR)],
)
def test_every_order_of_starting_ends_in_the_same_state(stack, order):
    stack.start(PANEL, COLLECTOR, BRIDGE)
    stack.until_up(PANEL, COLLECTOR, BRIDGE)
    stack.report("alice", 1 * GIB, "before-1")
    stack.report("outside", 2 * GIB, "before-2")
    until("the bridge has published", lambda: stack.user("alice")["data_limit"] == 9 * GIB)

    # The panel goes first; what is reported and asked for meanwhile must not be lost.
    stack.stop(PANEL, signal.SIGTERM)
    stack.report("alice", 6 * GIB, "while-the-panel-is-down-1")
    stack.report("outside", 8 * GIB, "while-the-panel-is-down-2")
    ready = f"{stack.urls[BRIDGE]}/readyz"
    until("the bridge notices", lambda: stack.client.get(ready).status_code == 503)
    assert "the panel at" in stack.client.get(ready).text
    stack.stop(BRIDGE)
    stack.stop(COLLECTOR)

    for name in order:
        stack.start(name)
        if name != BRIDGE:
            stack.until_up(name)
    stack.until_up(*order)
    until("alice is limited", lambda: stack.user("alice")["status"] == "limited")
    until("outside is disabled", lambda: stack.user("outside")["status"] == "disabled")
    assert stack.user("alice")["data_limit"] == 3 * GIB
    until("the bridge is ready", lambda: stack.client.get(ready).status_code == 200)

    stack.reset_in_panel("alice")
    stack.reset_in_panel("outside")
    for name in ("alice", "outside"):
        until(
            f"{name} has its quota",
            lambda name=name: (
                (stack.user(name)["status"], stack.user(name)["data_limit"]) == ("active", 10 * GIB)
            ),
        )
    assert stack.report("alice", 6 * GIB, "while-the-panel-is-down-1")["duplicates"] == 1
