"""BRIDGE_ENFORCEMENT=observe: nothing in the panel is changed, by whatever way, unless told to."""

from __future__ import annotations

import contextlib
import html
import re
from dataclasses import replace

import pytest

from marzban_bridge.errors import ObservingError
from marzban_bridge.quota.account import Enforcement
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.bridge_world import PASSWORDS, RESET_ALL, BridgeWorld
from tests.support.bridge.world import World

TOKEN = "the-action-token-of-grafana"
PLAN = {"data_limit": gib(5), "expire": 0, "add_remaining_traffic": True, "fire_on_either": True}
FORM = {"username": "boss", "password": PASSWORDS["boss"]}


@contextlib.contextmanager
def opened(folder, **settings):
    world = World(folder, **settings)
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
async def served(tmp_path):
    settings = {"enforcement": Enforcement.OBSERVE, "action_token": TOKEN}
    settings |= {"action_logins": ("*",)}
    async with BridgeWorld(tmp_path, **settings).serving() as world:
        await world.use("alice", external_bytes=gib(7), panel_bytes=gib(1))
        world.before = world.panel.get_user("alice")
        yield world


def is_unchanged(world):
    writes = [
        each
        for each in world.faults.requests
        if each.method != "GET" and each.path != "/api/admin/token"
    ]
    return not writes and world.panel.get_user("alice") == world.before


WAYS = [
    ("POST", "/v1/users/alice/reset", {}),
    ("POST", "/v1/reset-all", {"json": RESET_ALL}),
    ("POST", "/api/admin/usage/reset/alice", {}),
    ("POST", "/api/admin/usage/reset/shop?kind=admin", {}),
    ("POST", "/actions/users/alice/reset", {"headers": {"x-bridge-token": TOKEN}}),
    ("POST", "/actions/reset-all", {"headers": {"x-bridge-token": TOKEN}, "json": RESET_ALL}),
    ("POST", "/confirm/users/alice/reset", {"data": FORM}),
    ("POST", "/confirm/reset-all", {"data": FORM | RESET_ALL}),
]


@pytest.mark.parametrize(("method", "path", "arguments"), WAYS, ids=[each[1] for each in WAYS])
async def test_each_way_to_reset_is_refused_with_words(served, method, path, arguments):
    answer = await served.ask(method, path, **arguments)
    assert answer.status_code == 409
    said = html.unescape(re.sub(r"<[^>]*>", "", answer.text))
    assert "BRIDGE_ENFORCEMENT=observe forbids that" in said
    assert is_unchanged(served)
    assert served.bridge.store.accounts.get("alice").baseline_bytes == 0
    assert served.bridge.store.accounts.get("alice").reset_request is None


FORCED = [
    ("POST", "/v1/users/alice/reset?change_panel=true", {}),
    ("POST", "/v1/reset-all?change_panel=true", {"json": RESET_ALL}),
    ("POST", "/api/admin/usage/reset/alice?change_panel=true", {}),
    ("POST", "/confirm/users/alice/reset", {"data": FORM | {"change_panel": "true"}}),
]


@pytest.mark.parametrize(("method", "path", "arguments"), FORCED, ids=[each[1] for each in FORCED])
async def test_told_to_it_resets_and_publishes_nothing(served, method, path, arguments):
    served.panel.find("alice").owner = "boss"
    answer = await served.ask(method, path, **arguments)
    assert answer.status_code == 200, answer.text
    await served.bridges.run_once()
    assert served.panel.get_user("alice")["used_traffic"] == 0
    assert served.panel.get_user("alice")["data_limit"] == gib(10)
    assert served.bridge.store.accounts.get("alice").baseline_bytes == gib(7)
    assert [each.method for each in served.faults.requests if each.method == "PUT"] == []


async def test_the_confirm_page_offers_the_box_only_once_it_is_known_who_asks(served):
    asked = await served.client.get("/confirm/users/alice/reset")
    assert "change_panel" not in asked.text
    refused = await served.client.post("/confirm/users/alice/reset", data=FORM)
    assert 'type="checkbox" name="change_panel"' in refused.text


async def test_readyz_and_metrics_say_which_mode_it_is(served):
    assert (await served.client.get("/readyz")).json()["enforcement"] == "observe"
    assert 'enforcement="observe"' in (await served.client.get("/metrics")).text


def test_nothing_that_falls_due_changes_the_panel(tmp_path):
    """A crossing, a disabling, its schedule, a next plan, a dropped one, and what was begun."""
    with opened(tmp_path) as world:
        for name in ("limited", "disabled", "planned", "dropped", "asked"):
            world.panel.create_user(name, data_limit=gib(10), data_limit_reset_strategy="day")
            world.ledger.report(name, gib(1))
        world.panel.use_traffic("limited", gib(2))
        world.panel.use_traffic("dropped", gib(1))
        world.ledger.report("disabled", gib(12))
        world.one_pass()
        assert world.panel.get_user("disabled")["status"] == "disabled"
        settler = world.bridge.settler
        settler.resets.request(world.account("asked"), cause="asked for", actor="somebody")
        world.settings = replace(world.settings, enforcement=Enforcement.OBSERVE)
        world.restart()
        world.transport.writes.clear()
        for name in ("planned", "dropped"):
            world.panel.modify_user(name, {"next_plan": PLAN})
        world.ledger.report("limited", gib(12))
        world.ledger.report("planned", gib(12))
        world.one_pass()
        world.panel.reset_user("dropped")
        world.clock.advance(days=2)
        for _ in range(3):
            world.one_pass()
        assert world.transport.writes == []
        assert world.account("asked").reset_request is not None
        world.settings = replace(world.settings, enforcement=Enforcement.LIMIT)
        world.restart()
        world.one_pass()
        assert world.account("asked").reset_request is None, "it goes on with enforcement"
        assert world.panel.get_user("limited")["status"] == "limited"


def test_a_reset_that_it_was_told_to_make_puts_back_what_that_took(tmp_path):
    with opened(tmp_path, enforcement=Enforcement.OBSERVE) as world:
        world.panel.create_user("alice", data_limit=gib(10))
        world.ledger.report("alice", gib(7))
        world.panel.use_traffic("alice", gib(1))
        world.panel.modify_user("alice", {"status": "disabled"})
        world.one_pass()
        world.run(world.bridge.actions.reset_user("alice", actor="root", changes_panel=True))
        user = world.panel.get_user("alice")
        assert (user["used_traffic"], user["status"]) == (0, "disabled")
        assert user["data_limit"] == gib(10)
        assert not user["note"], "a line is about a limit that is published"


def test_a_release_is_refused_and_made_when_told_to(tmp_path):
    async def release(world, **arguments):
        return [each async for each in world.bridges.release(**arguments)]

    with opened(tmp_path) as world:
        world.panel.create_user("alice", data_limit=gib(10))
        world.ledger.report("alice", gib(7))
        world.one_pass()
        assert world.panel.get_user("alice")["data_limit"] == gib(3)
        world.settings = replace(world.settings, enforcement=Enforcement.OBSERVE)
        world.restart()
        with pytest.raises(ObservingError, match="--change-the-panel"):
            world.run(release(world))
        assert world.panel.get_user("alice")["data_limit"] == gib(3)
        world.run(release(world, changes_panel=True))
        assert world.panel.get_user("alice")["data_limit"] == gib(10)
