""" "Reset all" over several panels resets each user of each panel once."""

from __future__ import annotations

import contextlib

import httpx
import pytest

from marzban_bridge.app import create_app
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.bridge_world import WaitingFeed, until
from tests.support.bridge.panels_world import PASSWORD, PanelsWorld

NAMES = ("alice", "bob", "carol")
TOKEN = "a-token-of-twenty-characters"


@pytest.fixture(params=[False, True], ids=["apart", "spanning"])
def world(tmp_path, store_place, request):
    world = PanelsWorld(tmp_path, "two", "three", spans=request.param, store=store_place.setting)
    for panel in world.panels:
        for name in NAMES:
            world.create(panel, name)
            world.use(panel, 1, name)
            world.ledger.report(f"{panel}/{name}", gib(1))
        world.clock.advance(seconds=5)
    world.look(2)
    world.run(world._stack.aclose())
    world.settings = world.configure(
        tuple(world.panels), spans=request.param, action_token=TOKEN, action_logins=("*",)
    )
    yield world
    world._stack = contextlib.AsyncExitStack()
    world.close()


async def everybody_has_begun_anew(bridges):
    def is_done():
        return all(
            account.reset_request is None
            and bridge.store.usage.total_bytes(account.key) == account.baseline_bytes
            and account.sighting.used_bytes == 0
            for bridge in bridges.by_name.values()
            for account in bridge.store.accounts.all()
        )

    await until("everybody begins anew", is_done)


def resets(world):
    """Return the panels' calls of resets: of single users, and of all."""
    paths = [
        path
        for each in world.transports.values()
        for method, path in each.writes
        if "reset" in path
    ]
    return sum("/api/user/" in path for path in paths), sum("/api/users/" in path for path in paths)


def serve(world, ask):
    """Ask the bridge while its loops run, until all have begun anew and a pass is over."""
    app = create_app(
        world.settings,
        clock=world.clock,
        panel_transport=world.transports,
        collector_transport=WaitingFeed(world.ledger),
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)

    async def scenario():
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://bridge.test") as client,
        ):
            await until("it leads", lambda: app.state.bridges)
            answer = await ask(client)
            await everybody_has_begun_anew(app.state.bridges)
            for bridge in app.state.bridges.by_name.values():
                bridge.reconciler.begin_pass()
                await until(
                    "the pass is over",
                    lambda it=bridge.reconciler: it._next_pass_at and not it._pass,
                )
            await everybody_has_begun_anew(app.state.bridges)
            return answer

    return world.run(scenario())


def test_the_button_for_all_panels_presses_one_reset_a_panel_and_none_a_user(world):
    async def press(client):
        body, headers = {"confirm": "reset all users"}, {"X-Bridge-Token": TOKEN}
        return await client.post("/actions/reset-all", json=body, headers=headers)

    assert serve(world, press).json() == {"users": 9}
    assert resets(world) == (0, 3)


def test_the_api_resets_all_panels_when_told_so(world):
    token = world.panels["default"].sign_in("root", PASSWORD)

    async def ask(client):
        body = {"confirm": "reset all users", "all_panels": True}
        headers = {"authorization": f"Bearer {token}"}
        return await client.post("/v1/reset-all", json=body, headers=headers)

    assert serve(world, ask).json() == {"users": 9}
    assert resets(world) == (0, 3)


def test_a_panel_that_is_down_is_told_and_the_others_are_reset(world):
    world.transports["three"].is_down = True
    spans = world.settings.quotas_span_panels

    async def press(client):
        body, headers = {"confirm": "reset all users"}, {"X-Bridge-Token": TOKEN}
        answer = await client.post("/actions/reset-all", json=body, headers=headers)
        world.transports["three"].is_down = False
        if not spans:
            for name in NAMES:
                world.panels["three"].reset_user(name)
        return answer

    answer = serve(world, press)
    assert answer.status_code == 503
    assert "three.test" in answer.json()["detail"]
    assert resets(world) == (3 if spans else 0, 2), "its users follow one by one"


def test_no_user_is_reset_by_itself_while_a_panel_is_asked_to_reset_all(world):
    """A pass that is under way finds the stored requests, and leaves them to the panel's call."""
    spans = world.settings.quotas_span_panels
    world._stack = contextlib.AsyncExitStack()
    world.bridges = world.open(tuple(world.panels), spans=spans)
    for bridge in world.bridges.by_name.values():

        async def call_late(*, bearer=None, call=bridge.panel.reset_all):
            for each in world.bridges.by_name.values():
                await each.reconciler.pass_over_all()
            await call(bearer=bearer)

        bridge.panel.reset_all = call_late
    results = world.run(world.bridges.reset_everybody(actor="test"))
    assert list(results.values()) == [3, 3, 3]
    world.look(3)
    assert resets(world) == (0, 3)
    assert {world.external(panel, name) for panel in world.panels for name in NAMES} == {0}
    world.run(world._stack.aclose())
