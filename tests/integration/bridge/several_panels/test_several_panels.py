"""Whose user a reported name is, where there are several panels; each counts for one of them."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest

from marzban_bridge.app import create_app
from marzban_bridge.errors import PanelError, SettingsError
from marzban_bridge.opening import open_bridges
from marzban_bridge.reconcile.trust import duplicate_names
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.bridge_world import WaitingFeed, until
from tests.support.bridge.panels_world import SECRET
from tests.support.bridge.shared_stores import leading


@pytest.fixture
def world(opened):
    return opened("two", "three")


def test_a_name_with_a_panel_is_that_panels_user_and_nobody_elses(world):
    for panel in world.panels:
        world.create(panel)
    world.ledger.report("alice", gib(1))
    world.ledger.report("Two/Alice", gib(2))
    world.ledger.report("default/ALICE", gib(4))
    world.look()
    assert [world.external(panel) for panel in world.panels] == [gib(5), gib(2), None]
    assert world.shown("default") == ("active", 5)
    assert world.shown("two") == ("active", 8)
    assert world.shown("three") == ("active", 10)


def test_a_name_alone_is_the_first_panels_though_others_have_it_too(world):
    for panel in ("default", "three"):
        world.create(panel)
    world.ledger.report("alice", gib(11))
    world.look(3)
    assert world.shown("default")[0] == "disabled"
    assert world.shown("three") == ("active", 10)
    assert world.external("three") is None


def test_a_name_alone_that_only_a_later_panel_has_is_that_panels_from_its_first_byte(world):
    world.create("three", "bob")
    world.ledger.report("Bob", gib(1))
    world.look(3)
    world.ledger.report("Bob", gib(2))
    world.look()
    assert world.external("three", "bob") == gib(3)
    assert world.shown("three", "bob") == ("active", 7)
    assert world.events("default", "orphan") == []
    assert world.bridges.find("bob")[0].panel_settings.name == "three"
    world.restart()
    world.look()
    assert world.external("three", "bob") == gib(3)


def test_a_name_stays_with_its_panel_when_another_creates_a_user_of_it(world):
    world.create("two", "bob")
    world.ledger.report("bob", gib(1))
    world.look(3)
    world.create("default", "bob")
    world.ledger.report("bob", gib(1))
    world.look(3)
    assert world.external("two", "bob") == gib(2)
    assert world.shown("default", "bob") == ("active", 10)


def test_a_name_that_no_panel_has_is_an_orphan_once_and_of_the_first(world):
    world.ledger.report("nobody", gib(1))
    world.look(4)
    assert world.events("default", "orphan") == ["nobody"]
    assert world.events("two", "orphan") == world.events("three", "orphan") == []
    counts = [world.bridge(panel).store.counts()["unknown_names"] for panel in world.panels]
    assert counts == [1, 0, 0]
    assert [each.username for each in world.bridge("default").store.unknown_names.all()] == [
        "nobody"
    ]
    assert world.bridge("two").store.unknown_names.all() == []


def test_a_name_of_a_panel_that_the_panel_does_not_have_is_an_orphan_of_that_panel(world):
    world.create("default", "bob")
    world.ledger.report("two/bob", gib(1))
    world.look(2)
    assert world.events("two", "orphan") == ["bob"]
    assert [each.username for each in world.bridge("two").store.unknown_names.all()] == ["bob"]
    assert world.external("default", "bob") is None


def test_a_name_of_the_first_panel_is_offered_to_no_other(world):
    world.create("two", "bob")
    world.ledger.report("default/bob", gib(11))
    world.look(3)
    assert world.shown("two", "bob") == ("active", 10)
    assert world.account("two", "bob") is None
    assert world.events("default", "orphan") == ["bob"]


def test_what_was_reported_before_a_panel_had_the_user_is_not_that_users_traffic(world):
    world.ledger.report("bob", gib(50))
    world.look(3)
    world.create("two", "bob")
    world.look(2)
    assert world.external("two", "bob") == 0
    world.ledger.report("bob", gib(1))
    world.look()
    assert world.external("two", "bob") == gib(1)


@pytest.mark.parametrize("has_account", [False, True])
def test_a_name_whose_user_was_deleted_passes_to_the_next_panel_without_its_past(
    world, has_account
):
    world.create("default", "bob")
    world.create("two", "bob")
    world.ledger.report("bob", gib(5))
    if has_account:
        world.ledger.report("two/bob", gib(1))
    world.look()
    world.panels["default"].delete_user("bob")
    world.look(3)
    assert world.external("two", "bob") == (gib(1) if has_account else 0)
    world.ledger.report("bob", gib(2))
    world.look()
    assert world.external("two", "bob") == (gib(3) if has_account else gib(2))
    world.panels["two"].delete_user("bob")
    world.create("default", "bob")
    world.look(3)
    world.ledger.report("bob", gib(3))
    world.look(2)
    assert world.external("default", "bob") == gib(3)
    assert world.account("two", "bob") is None
    assert world.shown("default", "bob") == ("active", 7)


def test_a_panel_that_is_down_holds_up_none_of_the_others_and_loses_nothing(world):
    for panel in world.panels:
        world.create(panel)
    world.create("three", "bob")
    world.transports["two"].is_down = True
    for name in ("alice", "two/alice", "three/alice", "bob"):
        world.ledger.report(name, gib(11))
    world.look(3)
    assert world.shown("default")[0] == "disabled"
    assert world.shown("three")[0] == "disabled"
    assert world.shown("three", "bob") == ("active", 10), "panel two may have it: nobody knows yet"
    world.transports["two"].is_down = False
    world.look(3)
    assert world.shown("two")[0] == "disabled"
    assert world.shown("three", "bob")[0] == "disabled"


def test_a_store_of_one_panel_goes_on_unchanged_when_others_are_added(opened):
    world = opened("two", configured=("default",))
    for panel in world.panels:
        world.create(panel)
    world.create("two", "bob")
    world.create("two", "carol")
    world.ledger.report("alice", gib(4))
    world.ledger.report("bob", gib(99))
    world.ledger.report("two/carol", gib(99))
    world.look(2)
    assert sorted(world.events("default", "orphan")) == ["bob", "two/carol"]
    before = world.account("default")
    world.restart(("default", "two"))
    world.look(3)
    after = world.account("default")
    assert (after.quota_bytes, after.baseline_bytes) == (before.quota_bytes, before.baseline_bytes)
    assert world.external("default") == gib(4)
    assert world.external("two") is None
    for name in ("bob", "carol"):
        assert world.external("two", name) == 0, "what was reported when nobody had it is nobody's"
    world.ledger.report("bob", gib(1))
    world.ledger.report("two/carol", gib(1))
    world.look(2)
    assert world.external("two", "bob") == world.external("two", "carol") == gib(1)


def test_a_panel_that_is_taken_out_and_put_back_goes_on_where_it_was(world):
    world.create("two")
    world.ledger.report("two/alice", gib(1))
    world.look()
    world.restart(("default",))
    world.ledger.report("two/alice", gib(2))
    world.ledger.report("two/carol", gib(1))
    world.look(2)
    assert world.account("default") is None
    world.restart(("default", "two"))
    world.look(2)
    assert world.external("two") == gib(3)
    assert world.shown("two") == ("active", 7)


def test_a_panel_under_another_name_is_refused_until_it_has_its_own_again(opened, tmp_path):
    world = opened("two")
    path = tmp_path / "panels.toml"
    as_it_was = path.read_text()
    world.run(world._stack.aclose())

    async def start():
        async with contextlib.AsyncExitStack() as stack:
            led = leading(world.settings.store, stack)
            opening = open_bridges(world.settings, panel_transport=world.transports, **led)
            return list((await stack.enter_async_context(opening)).by_name)

    path.write_text(as_it_was.replace("[two]", "[zwei]"))
    with pytest.raises(SettingsError, match="panel zwei has the address that panel two had"):
        world.run(start())
    path.write_text(as_it_was)
    assert world.run(start()) == ["default", "two"]


def test_a_reset_of_one_panels_user_leaves_its_duplicates_alone(world):
    for panel in world.panels:
        world.create(panel)
        world.use(panel, 1)
    for name in ("default/alice", "two/alice", "three/alice"):
        world.ledger.report(name, gib(2))
    world.look()
    world.panels["two"].reset_user("alice")
    world.panels["three"].reset_all("root")
    world.look(3)
    assert [world.external(panel) for panel in world.panels] == [gib(2), 0, 0]
    assert world.panels["default"].get_user("alice")["used_traffic"] == gib(1)


def test_rebase_is_of_all_panels(world):
    for panel in ("default", "two"):
        world.create(panel)
    world.ledger.report("alice", gib(3))
    world.ledger.report("two/alice", gib(4))
    world.look()
    for name in ("alice", "two/alice"):
        world.ledger.totals[name] = (gib(1), gib(1), world.ledger.seq + 1)
        world.ledger.seq += 1
    world.look()
    assert all(world.account(panel).is_held for panel in ("default", "two"))
    world.run(world.bridges.rebase(actor="test"))
    world.look()
    assert [world.external(panel) for panel in ("default", "two")] == [gib(3), gib(4)]


def test_release_gives_every_panels_users_back(world):
    for panel in ("default", "two"):
        world.create(panel)
    world.ledger.report("alice", gib(3))
    world.ledger.report("two/alice", gib(4))
    world.look()

    async def release():
        return [
            (bridge.store.placement.public_name(account.username), wrote)
            async for bridge, account, wrote in world.bridges.release()
        ]

    assert world.run(release()) == [("alice", True), ("two/alice", True)]
    assert world.shown("default") == world.shown("two") == ("active", 10)


@contextlib.asynccontextmanager
async def served(world):
    """Serve the bridge, its loops running."""
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
        yield client, app.state.bridges


class TestServing:
    """Every route is there for each panel under /panels/NAME, and as before for the first."""

    @pytest.fixture
    def world(self, world):
        for panel in world.panels:
            world.create(panel)
            world.use(panel, 1)
            world.ledger.report(f"{panel}/alice", gib(2))
        world.look()
        world.run(world._stack.aclose())
        return world

    def as_root(self, world, panel):
        token = world.panels[panel].sign_in("root", "a-panel-password")
        return {"authorization": f"Bearer {token}"}

    def test_an_admin_of_one_panel_sees_that_panels_users_and_no_others(self, world):
        async def scenario():
            async with served(world) as (client, _):
                for prefix, panel in (
                    ("", "default"),
                    ("/panels/default", "default"),
                    ("/panels/two", "two"),
                ):
                    found = await client.get(
                        f"{prefix}/v1/users", headers=self.as_root(world, panel)
                    )
                    assert [each["username"] for each in found.json()["users"]] == ["alice"]
                    events = await client.get(
                        f"{prefix}/v1/events", headers=self.as_root(world, panel)
                    )
                    assert len(events.json()) == 2, events.json()
                crossed = await client.get(
                    "/panels/two/v1/users", headers=self.as_root(world, "default")
                )
                unknown = await client.get(
                    "/panels/four/v1/users", headers=self.as_root(world, "two")
                )
                return crossed.status_code, unknown.status_code, unknown.json()["detail"]

        assert world.run(scenario()) == (401, 404, "there is no panel 'four'")

    def test_a_webhook_is_taken_with_its_panels_secret_and_about_its_panels_user(self, world):
        async def scenario():
            async with served(world) as (client, bridges):
                world.panels["two"].use_traffic("alice", gib(1))
                world.panels["two"].reset_user("alice")
                batch = world.panels["two"].take_webhooks()
                wrong = await client.post(
                    "/panels/two/webhooks/marzban", json=batch, headers={"x-webhook-secret": SECRET}
                )
                right = await client.post(
                    "/panels/two/webhooks/marzban",
                    json=batch,
                    headers={"x-webhook-secret": "the-webhook-secret-of-two"},
                )
                store = bridges.by_name["two"].store
                await until(
                    "the reset",
                    lambda: store.accounts.get("alice").baseline_bytes == gib(2),
                )
                return wrong.status_code, right.json()["hints"] > 0

        assert world.run(scenario()) == (401, True)
        assert world.panels["default"].get_user("alice")["used_traffic"] == gib(1)

    def test_a_button_resets_the_user_that_the_dashboard_names(self, world):
        world.settings = world.configure(
            tuple(world.panels),
            spans=False,
            action_token="a-token-of-twenty-characters",
            action_logins=("*",),
        )
        token = {"X-Bridge-Token": "a-token-of-twenty-characters"}

        async def scenario():
            async with served(world) as (client, _):
                done = await client.post("/actions/users/two/alice/reset", headers=token)
                assert done.status_code == 200, done.text
                used = [panel.get_user("alice")["used_traffic"] for panel in world.panels.values()]
                assert used == [gib(1), 0, gib(1)]
                done = await client.post("/actions/users/alice/reset", headers=token)
                assert done.status_code == 200, done.text
                done = await client.post(
                    "/actions/reset-all", json={"confirm": "reset all users"}, headers=token
                )
                return done.json()

        assert world.run(scenario()) == {"users": 3}
        used = [panel.get_user("alice")["used_traffic"] for panel in world.panels.values()]
        assert used == [0, 0, 0]

    def test_a_panel_that_is_down_is_named_in_readyz_and_metrics(self, world):
        world.transports["two"].is_down = True

        async def scenario():
            async with served(world) as (client, bridges):
                third = bridges.by_name["three"].reconciler
                await until("the third panel is reached", lambda: third.health.outage.is_up)
                outage = bridges.by_name["two"].reconciler.health.outage
                await until("the failure", lambda: "does not answer" in (outage.reason or ""))
                ready = await client.get("/readyz")
                metrics = await client.get("/metrics")
                return ready.json()["reasons"], metrics.text

        reasons, metrics = world.run(scenario())
        assert any(each.startswith("panel two: ") for each in reasons)
        assert not any(each.startswith("panel three: ") for each in reasons)
        assert 'bridge_panel_up{panel="two"} 0.0' in metrics
        assert 'bridge_panel_up{panel="three"} 1.0' in metrics
        assert metrics.count("# TYPE bridge_panel_up gauge") == 1
        assert metrics.count("\nbridge_collector_up ") == 1


def test_a_pass_tells_of_a_panel_that_failed_once_the_others_are_done(world):
    world.create("three")
    world.ledger.report("three/alice", gib(11))
    world.create("two")
    world.ledger.report("two/alice", gib(1))
    world.transports["two"].is_down = True
    with pytest.raises(PanelError, match=r"two\.test"):
        world.run(world.bridges.run_once())
    assert world.shown("three")[0] == "disabled"


class Hanging(httpx.AsyncBaseTransport):
    """A panel that takes calls and never answers."""

    async def handle_async_request(self, request):
        await asyncio.Event().wait()
        raise AssertionError


def test_nothing_waits_for_a_panel_that_does_not_answer(world):
    world.run(world._stack.aclose())
    world.transports["default"] = Hanging()
    world.create("two")
    world.ledger.report("two/alice", gib(11))

    async def scenario():
        async with served(world):
            await until("the limit", lambda: world.shown("two")[0] == "disabled")

    world.run(scenario())


def test_two_panels_that_say_the_same_are_both_heard(world):
    """Only the webhook tells of the reset of a user without panel traffic."""
    for panel in ("default", "two"):
        world.create(panel)
        world.ledger.report(f"{panel}/alice", gib(2))
    world.look()
    for panel in ("default", "two"):
        world.panels[panel].reset_user("alice")
        store = world.bridge(panel).store
        assert store.reset_news.announce(
            [(b"the same", "alice")], at=world.clock(), remember_seconds=60
        )
    world.look()
    assert [world.external(panel) for panel in ("default", "two")] == [0, 0]


class TestDuplicateNames:
    """A name alone that is a user of several panels counts for one, and people are told so."""

    def told(self, world):
        found = world.bridge("default").store.events.newest(limit=100)
        return [
            each.event.text for each in found if "reports without a panel's name" in each.event.text
        ]

    def test_they_are_told_once_and_counted_until_there_are_none(self, world):
        for panel in ("default", "three"):
            world.create(panel, "Alice")
        world.create("two", "bob")
        world.ledger.report("Alice", 1)
        world.ledger.report("bob", 1)
        world.look(3)
        world.restart()
        world.look(2)
        (text,) = self.told(world)
        assert "on default, three" in text
        assert "are charged to default: report it as PANEL/Alice" in text
        assert world.bridge("default").store.duplicate_names.count_ambiguous() == 1
        world.panels["three"].delete_user("Alice")
        world.look()
        assert world.bridge("default").store.duplicate_names.count_ambiguous() == 0

    def test_who_is_reported_by_panel_is_not_among_them(self, world):
        for panel in ("default", "three"):
            world.create(panel)
            world.ledger.report(f"{panel}/alice", 1)
        world.look(2)
        assert self.told(world) == []

    def test_one_on_a_panel_that_is_down_stays_known(self, world):
        for panel in ("default", "three"):
            world.create(panel)
        world.ledger.report("alice", 1)
        world.look(2)
        world.restart()
        world.transports["three"].is_down = True
        world.look(2)
        assert world.bridge("default").store.duplicate_names.count_ambiguous() == 1

    def test_pages_are_read_to_the_end_past_a_user_the_panel_fails_at(self, world, monkeypatch):
        monkeypatch.setattr(duplicate_names, "PAGE", 8)
        monkeypatch.setattr(duplicate_names, "PAUSE_SECONDS", 0)
        for number in range(30):
            for panel in ("default", "two"):
                world.create(panel, f"user{number:02}")
        broken = world.panels["two"].find("user05")
        broken.created_at = None
        world.ledger.report("user29", 1)
        world.look()
        names = world.bridges.duplicate_names._names
        assert len(names["default"]) == 30
        assert names["default"] - names["two"] <= {"user05"}
        assert len(self.told(world)) == 1
