"""`POST /v1/rebase` and `/v1/release`: a running bridge stands still for them."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from marzban_bridge.app import create_app
from marzban_bridge.bridge import Bridges
from marzban_bridge.quota.account import Enforcement
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.bridge_world import BridgeWorld, WaitingFeed, until
from tests.support.bridge.panels_world import PanelsWorld
from tests.support.bridge.shared_stores import POSTGRESQL, give_back, lead

REBASE = {"confirm": "rebase"}
RELEASE = {"confirm": "release"}


@pytest.fixture
async def world(tmp_path):
    async with BridgeWorld(tmp_path, pass_seconds=0.05).serving() as served:
        yield served


def limit(world, name="alice"):
    return world.panel.get_user(name)["data_limit"]


async def lose_ledger(world):
    """Have another ledger in the place of the one that was read."""
    world.ledger.restore(
        {"seq": 0, "totals": {}, "positions": {}, "runs": [], "reports": [], "lines": []}
    )
    world.ledger.ledger_id = "ledger-2"
    for name in ("carol", "carol", "bob"):
        world.ledger.report(name, gib(1))
    await until(
        "the refusal", lambda: "another ledger" in (world.bridges.feed_reader.outage.reason or "")
    )


class TestRebase:
    async def test_another_ledger_is_accepted_and_the_loops_go_on(self, world):
        await world.use("alice", external_bytes=gib(3))
        await lose_ledger(world)
        answer = await world.ask("POST", "/v1/rebase", json=REBASE)
        assert answer.status_code == 200, answer.text
        (moved,) = answer.json()["users"]
        assert (moved["username"], moved["external_bytes"]) == ("alice", gib(3))
        assert not moved["is_held"]
        world.ledger.report("alice", gib(1))
        await until("what is reported since", lambda: limit(world) == gib(6))
        event = next(
            each for each in world.bridge.store.events.newest() if each.event.kind == "rebased"
        )
        assert event.event.actor == "boss"
        await until(
            "a bridge that is ready", lambda: world.bridges.feed_reader.outage.reason is None
        )
        assert (await world.client.get("/readyz")).status_code == 200
        assert world.loop_failures == []

    async def test_a_restored_store_is_put_in_step_when_told_so(self, world):
        await world.use("alice", external_bytes=gib(3))
        answer = await world.ask("POST", "/v1/rebase", json=REBASE | {"restored": True})
        assert answer.status_code == 200, answer.text
        assert [each["username"] for each in answer.json()["users"]] == ["alice"]
        assert world.bridge.store.suspended is None
        world.ledger.report("alice", gib(1))
        await until("what is reported since", lambda: limit(world) == gib(6))

    async def test_a_store_in_doubt_is_worked_with_at_once_and_not_a_pass_later(self, tmp_path):
        async with BridgeWorld(tmp_path, pass_seconds=3600).serving() as world:
            await world.use("alice", external_bytes=gib(3))
            world.bridges.rollback_check.suspend("it is an older one")
            world.bridge.reconciler.begin_pass()
            world.ledger.report("alice", gib(1))
            answer = await world.ask("POST", "/v1/rebase", json=REBASE)
            assert answer.status_code == 200, answer.text
            world.ledger.report("alice", gib(1))
            await until("a limit of now", lambda: limit(world) == gib(5))

    @pytest.mark.parametrize("path", ["/v1/rebase", "/v1/release"])
    async def test_it_wants_a_sudo_admin_and_the_word(self, world, path):
        await world.use("alice", external_bytes=gib(3))
        phrase = {"confirm": path.removeprefix("/v1/")}
        assert (await world.ask("POST", path, by=None, json=phrase)).status_code == 401
        assert (await world.ask("POST", path, by="shop", json=phrase)).status_code == 403
        assert (await world.ask("POST", path, json={"confirm": "yes"})).status_code == 422
        assert limit(world) == gib(7)

    async def test_nothing_is_settled_and_no_reset_is_made_meanwhile(self, world, monkeypatch):
        await world.use("alice", external_bytes=gib(3))
        begun, may_end = asyncio.Event(), asyncio.Event()
        rebase = Bridges.rebase

        async def slowly(*arguments, **options):
            begun.set()
            await may_end.wait()
            return await rebase(*arguments, **options)

        monkeypatch.setattr(Bridges, "rebase", slowly)
        asked = asyncio.create_task(world.ask("POST", "/v1/rebase", json=REBASE))
        await begun.wait()
        cursor = world.bridge.store.usage.cursor
        world.ledger.report("alice", gib(1))
        ready = await world.client.get("/readyz")
        assert ready.status_code == 503
        assert "a rebase is under way" in ready.text
        for path, body in (
            ("/v1/users/alice/reset", None),
            ("/v1/reset-all", {"confirm": "reset all users"}),
            ("/v1/rebase-panel", {"confirm": "rebase panel"}),
            ("/v1/rebase", REBASE),
            ("/v1/release", RELEASE),
        ):
            refused = await world.ask("POST", path, json=body)
            assert refused.status_code == 503, path
            assert "a rebase is under way" in refused.json()["detail"]
            assert "retry-after" in refused.headers
        assert world.bridge.store.usage.cursor == cursor
        assert limit(world) == gib(7)
        may_end.set()
        assert (await asked).status_code == 200
        await until("what was reported meanwhile", lambda: limit(world) == gib(6))

    async def test_one_that_fails_is_over_and_the_bridge_goes_on(self, world):
        await world.use("alice", external_bytes=gib(3))
        world.ledger.is_down = True
        failed = await world.ask("POST", "/v1/rebase", json=REBASE)
        assert failed.status_code == 503
        world.ledger.is_down = False
        world.ledger.report("alice", gib(1))
        await until("what is reported since", lambda: limit(world) == gib(6))


class TestRelease:
    async def test_all_is_given_back_and_nothing_is_published_again(self, world):
        for name in ("alice", "bob"):
            await world.use(name, external_bytes=gib(3))
        await world.use("carol", external_bytes=gib(11))
        assert world.panel.get_user("carol")["status"] == "disabled"
        answer = await world.ask("POST", "/v1/release", json=RELEASE)
        assert answer.status_code == 200, answer.text
        assert sorted(answer.json()["usernames"]) == ["alice", "bob", "carol"]
        assert "until it is restarted" in answer.json()["state"]
        world.ledger.report("alice", gib(1))
        world.bridge.queue.add(["alice", "bob", "carol"])
        again = await world.ask("POST", "/v1/release", json=RELEASE)
        assert again.json()["usernames"] == []
        refused = await world.ask("POST", "/v1/users/alice/reset")
        assert refused.status_code == 409
        assert "restarted" in refused.json()["detail"]
        assert (await world.ask("POST", "/v1/rebase", json=REBASE)).status_code == 409
        ready = await world.client.get("/readyz")
        assert ready.status_code == 503
        assert any("all users have their quotas back" in each for each in ready.json()["reasons"])
        event = world.bridge.store.events.newest(limit=1)[0].event
        assert (event.kind, event.actor) == ("released", "boss")
        assert {limit(world, name) for name in ("alice", "bob", "carol")} == {gib(10)}
        assert world.panel.get_user("carol")["status"] == "active"

    async def test_after_a_restart_it_begins_as_after_any_release(self, tmp_path):
        world = BridgeWorld(tmp_path, pass_seconds=0.05)
        async with world.serving():
            await world.use("alice", external_bytes=gib(3))
            assert (await world.ask("POST", "/v1/release", json=RELEASE)).status_code == 200
            assert limit(world) == gib(10)
        async with world.serving():
            await until("a limit", lambda: limit(world) == gib(7))
            await until("readiness", lambda: world.bridges.feed_reader.outage.reason is None)
            assert (await world.client.get("/readyz")).status_code == 200

    async def test_one_that_observes_gives_back_when_told_so(self, tmp_path):
        world = BridgeWorld(tmp_path, enforcement=Enforcement.OBSERVE, pass_seconds=0.05)
        async with world.serving():
            await world.use("alice", external_bytes=gib(3))
            refused = await world.ask("POST", "/v1/release", json=RELEASE)
            assert refused.status_code == 409
            assert world.bridges.standstill.reason is None
            told = await world.ask(
                "POST", "/v1/release", params={"change_panel": True}, json=RELEASE
            )
            assert told.status_code == 200

    async def test_one_that_fails_before_anybody_is_written_to_has_no_consequences(self, world):
        await world.use("alice", external_bytes=gib(3))
        world.faults.is_down = True
        assert (await world.ask("POST", "/v1/release", json=RELEASE)).status_code == 503
        world.faults.is_down = False
        assert world.bridges.standstill.reason is None
        world.ledger.report("alice", gib(1))
        await until("what is reported since", lambda: limit(world) == gib(6))

    async def test_one_that_fails_half_way_stands_still_and_is_finished_later(
        self, world, monkeypatch
    ):
        for name in ("alice", "bob"):
            await world.use(name, external_bytes=gib(3))
        settler = world.bridge.settler
        release = settler.release

        async def only_alice(account):
            if account.key == "bob":
                await world.bridge.panel.get_user("nobody")
            return await release(account)

        monkeypatch.setattr(settler, "release", only_alice)
        assert (await world.ask("POST", "/v1/release", json=RELEASE)).status_code == 404
        assert "is not finished" in (await world.client.get("/readyz")).text
        monkeypatch.undo()
        finished = await world.ask("POST", "/v1/release", json=RELEASE)
        assert finished.json()["usernames"] == ["bob"]
        assert (limit(world), limit(world, "bob")) == (gib(10), gib(10))


class TestSeveralPanels:
    """With a store in a file and one in PostgreSQL, which a bridge leads meanwhile."""

    @pytest.fixture
    def world(self, tmp_path, store_place):
        world = PanelsWorld(tmp_path, "two", store=store_place.setting)
        for panel in world.panels:
            world.create(panel)
            world.ledger.report(f"{panel}/alice", gib(2))
        world.look()
        world.run(world._stack.aclose())
        yield world
        world.close()

    @contextlib.asynccontextmanager
    async def served(self, world):
        app = create_app(
            world.settings,
            clock=world.clock,
            panel_transport=world.transports,
            collector_transport=WaitingFeed(world.ledger),
        )
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://bridge.test") as client,
        ):
            await until("it leads", lambda: app.state.bridges)
            self.app = app
            token = world.panels["default"].sign_in("root", "a-panel-password")
            client.headers["authorization"] = f"Bearer {token}"
            yield client

    def test_both_are_about_all_panels(self, world):
        async def scenario():
            async with self.served(world) as client:
                moved = await client.post("/v1/rebase", json=REBASE | {"restored": True})
                names = [each["username"] for each in moved.json()["users"]]
                assert names == ["alice", "two/alice"]
                for panel in world.panels:
                    world.ledger.report(f"{panel}/alice", gib(1))
                await until(
                    "what is reported since",
                    lambda: {world.shown(panel)[1] for panel in world.panels} == {7},
                )
                given = await client.post("/v1/release", json=RELEASE)
                assert given.json()["usernames"] == ["alice", "two/alice"]
                assert {world.shown(panel) for panel in world.panels} == {("active", 10)}
                assert (await client.get("/readyz")).status_code == 503
                assert (
                    await client.post("/panels/two/v1/release", json=RELEASE)
                ).status_code == 404

        world.run(scenario())

    @pytest.mark.parametrize("store_place", [POSTGRESQL], indirect=True)
    def test_after_a_release_one_that_leads_again_still_stands_still(self, world):
        async def scenario():
            async with self.served(world) as client:
                assert (await client.post("/v1/release", json=RELEASE)).status_code == 200
                other = lead(world.settings.store.value)
                await until("it follows", lambda: self.app.state.bridges is None)
                for path, body in (("/v1/rebase", REBASE), ("/v1/release", RELEASE)):
                    refused = await client.post(path, json=body)
                    assert refused.status_code == 503
                    assert "this bridge follows" in refused.json()["detail"]
                give_back(world.settings.store.value, other)
                await until("it leads again", lambda: self.app.state.bridges)
                bridge = self.app.state.bridges.first
                await until("the panel", lambda: bridge.reconciler.health.last_check)
                assert "all users have their quotas back" in (await client.get("/readyz")).text
                assert (await client.post("/v1/rebase", json=REBASE)).status_code == 409
                assert {world.shown(panel) for panel in world.panels} == {("active", 10)}

        world.run(scenario())
