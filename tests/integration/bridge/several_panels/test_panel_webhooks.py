"""Whose reset a webhook tells of, where there are several panels."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from marzban_bridge.api import health, webhooks
from marzban_bridge.api.access.callers import Callers
from marzban_bridge.api.errors import install_error_handlers
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.panels_world import PASSWORD, SECRET, PanelsWorld

WITHOUT_SECRET = f'[two]\nurl = "http://two.test"\nusername = "root"\npassword = "{PASSWORD}"\n'


@pytest.fixture
def world(tmp_path, store_place):
    world = PanelsWorld(tmp_path, "two", store=store_place.setting)
    (tmp_path / "panels.toml").write_text(WITHOUT_SECRET)
    for panel in world.panels:
        world.create(panel)
        world.ledger.report(f"{panel}/alice", gib(2))
        world.clock.advance(seconds=5)
    yield world
    world.close()


@pytest.fixture
def opened(world, monkeypatch):
    """The world with a table for panel two that says nothing of a webhook's secret."""
    monkeypatch.setattr(
        "tests.support.bridge.panels_world.panels_text", lambda _names: WITHOUT_SECRET
    )
    world.restart()
    world.look()
    return world


def post(world, panel, batch, *, secret):
    """Deliver a batch at a panel's path; return the answer, and what `/readyz` warns of."""
    app = FastAPI()
    install_error_handlers(app)
    app.include_router(webhooks.router)
    app.include_router(webhooks.router, prefix="/panels/{panel}")
    app.include_router(health.router)
    app.state.bridges, app.state.callers = world.bridges, Callers()
    app.state.settings = world.settings

    async def deliver():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://bridge") as client:
            path = "" if panel == "default" else f"/panels/{panel}"
            answer = await client.post(
                f"{path}/webhooks/marzban", json=batch, headers={"x-webhook-secret": secret}
            )
            return answer, (await client.get("/readyz")).json()["warnings"]

    return world.run(deliver())


def own_secret(world, panel):
    return world.bridge(panel).panel_settings.webhook_secret


def reset_in_panel(world, panel):
    world.panels[panel].take_webhooks()
    world.panels[panel].reset_user("alice")
    return world.panels[panel].take_webhooks()


def test_an_event_with_the_panels_own_secret_resets_its_user_without_panel_traffic(opened):
    answer, warnings = post(
        opened, "two", reset_in_panel(opened, "two"), secret=own_secret(opened, "two")
    )
    opened.look()
    assert answer.status_code == 200
    assert [opened.external(panel) for panel in ("default", "two")] == [gib(2), 0]
    assert not warnings


def test_an_event_with_a_secret_that_another_panel_has_too_resets_nobody(opened):
    batch = reset_in_panel(opened, "two")
    answer, warnings = post(opened, "two", batch, secret=SECRET)
    opened.look()
    assert answer.json() == {"events": 1, "hints": 1}, "the user is looked at"
    assert [opened.external(panel) for panel in ("default", "two")] == [gib(2), gib(2)]
    assert any("marzban-bridge panels webhook two" in each for each in warnings)
    post(opened, "two", batch, secret=own_secret(opened, "two"))
    opened.look()
    assert opened.external("two") == 0, "the same event with the right secret is no redelivery"


@pytest.mark.parametrize(("told_by", "at"), [("default", "two"), ("two", "default")])
def test_an_event_of_another_panels_duplicate_resets_nobody(opened, told_by, at):
    batch = reset_in_panel(opened, told_by)
    answer, _ = post(opened, at, batch, secret=own_secret(opened, at))
    opened.look()
    assert answer.json()["hints"] == 1
    assert opened.external(at) == gib(2)


@pytest.mark.parametrize("user", [None, {}, {"username": "alice"}, [], "alice"])
def test_an_event_that_does_not_say_which_user_it_is_of_resets_nobody(opened, user):
    (event,) = reset_in_panel(opened, "two")
    without = {name: value for name, value in event.items() if name != "user"}
    batch = [without, without | {"user": user, "tries": 1}]
    answer, _ = post(opened, "two", batch, secret=own_secret(opened, "two"))
    opened.look()
    assert answer.json() == {"events": 2, "hints": 2}
    assert opened.external("two") == gib(2)


def test_one_panels_secret_is_refused_at_anothers_path(opened):
    answer, _ = post(opened, "default", [], secret=own_secret(opened, "two"))
    assert answer.status_code == 401
    answer, _ = post(opened, "two", [], secret="wrong")
    assert answer.status_code == 401
    assert "marzban-bridge panels webhook two" in answer.json()["detail"]
