"""`rebase --panel`: a panel that was restored, moved or emptied is accepted as it is."""

from __future__ import annotations

import asyncio

import pytest

from marzban_bridge.cli.recovery import rebase_panel as panel_commands
from marzban_bridge.errors import SettingsError
from marzban_bridge.quota.account import FLOOR_BYTES
from marzban_bridge.quota.trust.acceptance import Fate
from marzban_bridge.quota.trust.suspension import SuspensionReason
from marzban_bridge.reconcile.trust.panel_rebase import REBASE_PANEL_PHRASE
from marzban_bridge.simulator.panel.database import PanelDatabase
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.bridge_world import BridgeWorld
from tests.support.bridge.world import World

NAMES = ("alice", "bob", "carol", "dave")


@pytest.fixture(
    params=[
        {"uses_notes": True},
        {"uses_notes": False},
        {"uses_notes": False, "quotas_span_panels": True},
    ],
    ids=["notes", "no notes", "shared quota"],
)
def world(tmp_path, request):
    opened = World(tmp_path, **request.param)
    for name in NAMES:
        opened.panel.create_user(name, data_limit=gib(10))
        opened.panel.use_traffic(name, gib(3))
        opened.ledger.report(name, gib(3))
    opened.one_pass()
    yield opened
    opened.close()


def suspensions(world):
    return [each.kind for each in world.bridge.store.suspension.reasons]


def plan(world):
    return world.run(world.bridge.panel_rebase.plan())


def accept(world):
    return world.run(world.bridge.panel_rebase.apply(actor="root"))


def fates(plan):
    return {each.before.username: each.fate for each in plan.accounts}


def shown(world, name="alice"):
    user = world.panel.get_user(name)
    return user["status"], user["data_limit"]


def settle(world):
    world.one_pass()
    world.panel.review()
    world.one_pass()
    writes = list(world.transport.writes)
    world.one_pass()
    assert world.transport.writes == writes, "a settled panel is not written to again"
    assert suspensions(world) == []


def test_a_restored_panel_gets_the_limits_of_now_and_nothing_is_forgiven(world):
    database = PanelDatabase(world.panel)
    database.dump()
    for name in NAMES[:3]:
        world.panel.use_traffic(name, gib(2))
        world.ledger.report(name, gib(1))
    world.one_pass()
    database.restore()
    world.one_pass()
    assert suspensions(world) == ["went_back"]
    before = list(world.bridge.store.accounts.all())
    planned = plan(world)
    assert planned.suspension_text
    assert fates(planned) == dict.fromkeys(NAMES[:3], Fate.IN_STEP) | {"dave": Fate.KEPT}
    assert list(world.bridge.store.accounts.all()) == before, "a plan changes nothing"
    accept(world)
    settle(world)
    assert [shown(world, name) for name in NAMES] == [
        ("active", gib(6)),
        ("active", gib(6)),
        ("active", gib(6)),
        ("active", gib(7)),
    ]
    assert {world.account(name).quota_bytes for name in NAMES} == {gib(10)}
    events = [each.event.kind for each in world.bridge.store.events.newest()]
    assert "quota_changed" not in events
    assert "reset" not in events


def test_a_limit_of_the_backup_is_taken_away_where_the_quota_is_unlimited_by_now(world):
    database = PanelDatabase(world.panel)
    database.dump()
    for name in NAMES:
        world.panel.use_traffic(name, gib(2))
    world.panel.modify_user("alice", {"data_limit": 0})
    world.one_pass()
    assert shown(world) == ("active", None)
    database.restore()
    world.one_pass()
    assert suspensions(world) == ["went_back"]
    accept(world)
    settle(world)
    assert shown(world) == ("active", None)
    assert world.account("alice").quota_bytes is None


def test_no_limit_in_the_backup_is_no_word_where_the_quota_was_set_since(world):
    world.panel.create_user("erin")
    world.panel.use_traffic("erin", gib(1))
    world.ledger.report("erin", 1)
    world.one_pass()
    database = PanelDatabase(world.panel)
    database.dump()
    world.panel.modify_user("erin", {"data_limit": gib(5)})
    for name in NAMES:
        world.panel.use_traffic(name, gib(2))
    world.one_pass()
    assert world.account("erin").published_bytes is None
    database.restore()
    world.one_pass()
    assert suspensions(world) == ["went_back"]
    accept(world)
    settle(world)
    assert world.account("erin").quota_bytes == gib(5)
    assert shown(world, "erin") == ("active", pytest.approx(gib(5), abs=2))


def test_users_we_had_disabled_at_the_time_of_the_backup_are_ours(world):
    world.panel.create_user("erin", data_limit=gib(5))
    world.ledger.report("erin", gib(6))
    world.one_pass()
    assert world.panel.get_user("erin")["status"] == "disabled"
    database = PanelDatabase(world.panel)
    database.dump()
    world.run(world.bridge.actions.reset_user("erin", actor="root"))
    for name in NAMES:
        world.panel.use_traffic(name, gib(2))
    world.one_pass()
    assert shown(world, "erin") == ("active", gib(5))
    database.restore()
    world.one_pass()
    assert suspensions(world) == ["went_back"]
    accept(world)
    settle(world)
    assert shown(world, "erin") == ("active", gib(5))


def test_users_we_have_disabled_since_the_backup_are_disabled_again(world):
    world.panel.create_user("erin", data_limit=gib(5))
    world.ledger.report("erin", gib(1))
    world.one_pass()
    database = PanelDatabase(world.panel)
    database.dump()
    world.ledger.report("erin", gib(5))
    for name in NAMES:
        world.panel.use_traffic(name, gib(2))
    world.one_pass()
    database.restore()
    world.one_pass()
    accept(world)
    settle(world)
    assert shown(world, "erin") == ("disabled", FLOOR_BYTES)
    assert world.account("erin").is_disabled_by_us
    assert world.account("erin").quota_bytes == gib(5)


def test_an_admins_disabling_is_left_alone(world):
    world.panel.modify_user("alice", {"status": "disabled"})
    world.one_pass()
    database = PanelDatabase(world.panel)
    database.dump()
    for name in NAMES[1:]:
        world.panel.use_traffic(name, gib(2))
    world.one_pass()
    database.restore()
    world.one_pass()
    accept(world)
    settle(world)
    assert shown(world)[0] == "disabled"


def test_users_who_were_created_anew_keep_their_accounts_where_most_were(world):
    world.clock.advance(days=1)
    for user in world.panel.users.values():
        user.created_at = world.clock()
    world.one_pass()
    assert suspensions(world) == ["users_recreated"]
    accept(world)
    settle(world)
    assert {world.account(name).quota_bytes for name in NAMES} == {gib(10)}
    assert shown(world) == ("active", gib(7))


def test_users_who_are_gone_are_put_aside_and_the_others_go_on(world):
    for name in NAMES[:3]:
        world.panel.delete_user(name)
    world.one_pass()
    assert suspensions(world) == ["users_gone"]
    planned = accept(world)
    assert fates(planned) == dict.fromkeys(NAMES[:3], Fate.PUT_ASIDE) | {"dave": Fate.KEPT}
    settle(world)
    assert [each.username for each in world.bridge.store.accounts.all()] == ["dave"]
    assert world.bridge.store.gone_accounts.get("alice").account.quota_bytes == gib(10)


def test_a_user_whom_the_backup_still_has_is_back(world):
    database = PanelDatabase(world.panel)
    database.dump()
    world.panel.delete_user("alice")
    for name in NAMES[1:]:
        world.panel.use_traffic(name, gib(2))
        world.ledger.report(name, gib(1))
    world.one_pass()
    database.restore()
    world.one_pass()
    accept(world)
    settle(world)
    assert world.account("alice").quota_bytes == gib(10)
    assert shown(world) == ("active", gib(7))


def test_there_is_nothing_to_accept_of_a_panel_that_is_not_in_doubt(world):
    world.panel.modify_user("alice", {"data_limit": gib(20)})
    planned = accept(world)
    assert planned.suspension_text is None
    assert planned.accounts == ()
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(20)


def test_a_panel_that_nobody_has_looked_at_since_is_found_to_be_in_doubt(world):
    world.clock.advance(seconds=60)
    for user in world.panel.users.values():
        user.created_at = world.clock()
    assert plan(world).suspension_text
    accept(world)
    settle(world)
    assert world.account("alice").quota_bytes == gib(10)


class TestOverTheApi:
    @pytest.fixture
    def served(self, tmp_path):
        world = BridgeWorld(tmp_path)

        async def run(test):
            async with world.serving():
                for name in ("alice", "bob", "carol"):
                    await world.use(name, external_bytes=gib(3), panel_bytes=gib(1))
                PanelDatabase(world.panel).empty()
                world.clock.advance(seconds=1)
                await world.bridge.reconciler.pass_over_all()
                await test(world)

        return lambda test: asyncio.run(run(test))

    def test_why_is_said_everywhere_and_a_reset_is_refused(self, served):
        async def test(world):
            ready = await world.client.get("/readyz")
            assert ready.status_code == 503
            assert "rebase --panel default" in ready.text
            metrics = (await world.client.get("/metrics")).text
            assert 'bridge_panel_in_doubt{reason="users_gone"} 1.0' in metrics
            world.panel.create_user("alice", data_limit=gib(10))
            answer = await world.ask("POST", "/v1/users/alice/reset")
            assert answer.status_code == 503
            assert "are missing" in answer.json()["detail"]
            planned = await world.ask("GET", "/v1/plan")
            assert planned.status_code == 503

        served(test)

    def test_the_panel_is_accepted_with_a_typed_confirmation_by_a_sudo_admin(self, served):
        async def test(world):
            found = await world.get("/v1/rebase-panel")
            assert {each["what"] for each in found["accounts"]} == {Fate.PUT_ASIDE.value}
            refused = await world.ask("POST", "/v1/rebase-panel", by="shop", json={})
            assert refused.status_code == 403
            unconfirmed = await world.ask("POST", "/v1/rebase-panel", json={"confirm": "yes"})
            assert unconfirmed.status_code == 422
            body = {"confirm": REBASE_PANEL_PHRASE}
            done = await world.ask("POST", "/v1/rebase-panel", json=body)
            assert len(done.json()["accounts"]) == 3
            assert world.bridge.store.suspension.reasons == ()
            event = world.bridge.store.events.newest(limit=1)[0].event
            assert (event.kind, event.actor) == ("doubt_over", "boss")

        served(test)


class TestCommand:
    @pytest.mark.parametrize("is_confirmed", [False, True])
    def test_it_shows_first_and_accepts_once_confirmed(
        self, tmp_path, monkeypatch, capsys, is_confirmed
    ):
        world = World(tmp_path)
        try:
            for name in NAMES:
                world.panel.create_user(name, data_limit=gib(10))
                world.ledger.report(name, gib(3))
            world.one_pass()
            PanelDatabase(world.panel).empty()
            world.one_pass()

            async def alone(settings, act):
                return await act(world.bridges)

            monkeypatch.setattr(panel_commands, "with_bridges", alone)
            monkeypatch.setattr(panel_commands.asyncio, "run", world.run)
            code = panel_commands.rebase_panel(world.settings, None, confirmed=lambda: is_confirmed)
        finally:
            left = len(list(world.bridge.store.accounts.all()))
            world.close()
        assert (code, left) == ((0, 0) if is_confirmed else (1, 4))
        said = capsys.readouterr().out
        assert "What accepting the panel would do" in said
        assert ("is accepted as it is" in said) is is_confirmed

    def test_a_panel_that_is_none_is_named(self, tmp_path):
        world = World(tmp_path)
        try:
            with pytest.raises(SettingsError, match="name one of default"):
                panel_commands.rebase_panel(world.settings, "two", confirmed=lambda: True)
        finally:
            world.close()


def test_a_panel_that_another_bridge_writes_to_is_not_accepted_by_it(world):
    reason = SuspensionReason(kind="second_bridge", text="another bridge", since=world.clock())
    world.bridge.store.suspension.begin(reason, at=world.clock())
    planned = accept(world)
    assert (planned.suspension_text, planned.accounts) == (None, ())
    assert suspensions(world) == ["second_bridge"]
