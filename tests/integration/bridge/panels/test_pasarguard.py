"""A bridge on a PasarGuard: limits, next plans, resets, who it is there, and the day of the move."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import AsyncMock

import httpx
import pytest

from marzban_bridge.cli import commands
from marzban_bridge.errors import NotThePanelError, PanelLoginError, PanelUnavailableError
from marzban_bridge.panels.dialect import PASARGUARD, PanelKind
from marzban_bridge.panels.pasarguard import BESIDES, OF_ALL_USERS
from marzban_bridge.quota.account import GIB
from marzban_bridge.quota.typed_limits import TypedLimit, TypedLimits
from marzban_bridge.simulator.dialog import dialog_body
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel import pasarguard
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.snapshot import restore_snapshot, to_snapshot
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.panels_world import PanelsWorld
from tests.support.bridge.webhook_delivery import deliver
from tests.support.bridge.world import PASSWORD, World
from tests.support.clocks import ManualClock

PLAN = {"data_limit": gib(50), "expire": 0, "add_remaining_traffic": True}


@pytest.fixture
def world(tmp_path):
    opened = World(tmp_path, kind="pasarguard")
    yield opened
    opened.close()


def user_of(world, username="alice"):
    return world.panel.get_user(username)


def used_up(world, *, panel_bytes=gib(4), external_bytes=gib(7), **fields):
    """Make a user, spend its quota and 1 GiB more on both sides, and let the bridge look."""
    world.panel.create_user("alice", data_limit=gib(10), **fields)
    world.ledger.report("alice", 1)
    world.one_pass()
    if panel_bytes:
        world.panel.use_traffic("alice", panel_bytes)
    world.ledger.report("alice", external_bytes - 1)
    world.one_pass()


class TestNextPlans:
    @pytest.mark.parametrize(("adds_remaining", "quota"), [(True, gib(49)), (False, gib(50))])
    def test_a_plan_fires_at_the_crossing_and_adds_what_remained_as_its_flag_says(
        self, world, adds_remaining, quota
    ):
        used_up(world, next_plan=PLAN | {"add_remaining_traffic": adds_remaining})
        world.one_pass()
        account, user = world.account("alice"), user_of(world)
        assert (account.quota_bytes, account.baseline_bytes) == (quota, gib(7))
        assert (user["status"], user["used_traffic"], user["next_plan"]) == ("active", 0, None)
        assert 0 <= user["data_limit"] - quota <= gib(4)

    @pytest.mark.parametrize("panel_bytes", [gib(4), 0], ids=["used on both", "outside alone"])
    def test_a_plan_without_limit_fires_too_and_the_user_is_unlimited(self, world, panel_bytes):
        plan = PLAN | {"data_limit": 0, "add_remaining_traffic": False}
        used_up(world, panel_bytes=panel_bytes, external_bytes=gib(11), next_plan=plan)
        world.one_pass()
        user = user_of(world)
        assert (user["status"], user["used_traffic"], user["next_plan"]) == ("active", 0, None)
        assert not user["data_limit"]
        assert world.account("alice").quota_bytes is None

    def test_a_plan_that_the_panel_fires_itself_is_known_by_its_expiry_from_then_on(self, world):
        plan = PLAN | {"expire": 30 * 86400, "data_limit": gib(20), "add_remaining_traffic": False}
        world.panel.create_user("alice", data_limit=gib(10), next_plan=plan)
        world.ledger.report("alice", gib(1))
        world.one_pass()
        world.panel.use_traffic("alice", gib(10))
        world.panel.review()
        world.panel.review()
        world.one_pass()
        account = world.account("alice")
        assert (account.quota_bytes, account.baseline_bytes) == (gib(20), gib(1))
        assert account.restoration is None
        assert user_of(world)["data_limit"] == gib(20)

    def test_a_plan_of_a_template_takes_its_limit_from_there_and_comes_back_whole(self, world):
        template = {
            "name": "big",
            "data_limit": gib(30),
            "expire_duration": 86400,
            "group_ids": [1],
        }
        number = pasarguard.add_template(world.panel, template).id
        plan = {"user_template_id": number, "add_remaining_traffic": True}
        world.panel.create_user("alice", data_limit=gib(10), next_plan=plan)
        world.ledger.report("alice", gib(3))
        world.one_pass()
        assert user_of(world)["data_limit"] == gib(7)  # written with the plan sent back
        assert user_of(world)["next_plan"]["user_template_id"] == number
        world.panel.use_traffic("alice", gib(2))
        world.one_pass()
        world.panel.fire_next_plan("alice")
        world.one_pass()
        # 30 GiB of the template and the 5 GiB that remained of 10 after 3 and 2.
        assert world.account("alice").quota_bytes == gib(35)
        assert world.account("alice").baseline_bytes == gib(3)

    def test_a_plan_of_a_template_that_gives_the_same_again_fires_once(self, world):
        template = {"name": "same", "data_limit": gib(10), "group_ids": [1]}
        number = pasarguard.add_template(world.panel, template).id
        world.panel.create_user("alice", data_limit=gib(10), next_plan={"user_template_id": number})
        world.ledger.report("alice", 1)
        world.one_pass()
        world.panel.use_traffic("alice", gib(10))
        world.panel.review()
        world.one_pass()
        world.one_pass()
        user = user_of(world)
        assert (user["status"], user["used_traffic"], user["next_plan"]) == ("active", 0, None)
        assert world.account("alice").quota_bytes == gib(10)


class TestResets:
    def test_a_user_whom_an_admin_disabled_stays_so_and_nothing_is_written_for_it(self, world):
        used_up(world, external_bytes=gib(2))
        pasarguard.set_disabled(world.panel, world.panel.find("alice"), is_disabled=True)
        world.one_pass()
        before = len(world.transport.writes)
        world.run(world.bridge.actions.reset_user("alice", actor="test"))
        assert [path for _, path in world.transport.writes[before:]][:1] == [
            "/api/user/alice/reset"
        ]
        assert user_of(world)["status"] == "disabled"
        assert world.account("alice").baseline_bytes == gib(2)

    def test_a_user_the_bridge_disabled_is_let_in_after_the_button(self, world):
        used_up(world, panel_bytes=0, external_bytes=gib(11))
        assert user_of(world)["status"] == "disabled"
        world.panel.reset_user("alice", by="root")
        deliver(world, world.panel.take_webhooks())
        world.one_pass()
        assert user_of(world)["status"] == "active"
        assert user_of(world)["data_limit"] == gib(10)

    def test_the_webhook_of_a_periodic_reset_that_was_seen_is_its_echo(self, world):
        used_up(world, external_bytes=gib(2), data_limit_reset_strategy="day")
        world.clock.advance(days=1, minutes=1)
        world.panel.take_webhooks()
        world.panel.reset_periodic()
        world.one_pass()
        assert world.account("alice").baseline_bytes == gib(2)
        world.ledger.report("alice", gib(1))
        world.one_pass()
        deliver(world, world.panel.take_webhooks())
        world.one_pass()
        assert world.account("alice").baseline_bytes == gib(2)

    def test_a_reset_of_many_at_once_tells_of_each_and_forgives_each_once(self, world):
        names = [f"user{number}" for number in range(55)]
        for name in names:
            world.panel.create_user(name, data_limit=gib(10))
            world.ledger.report(name, gib(1))
        for name in names[::2]:
            world.panel.use_traffic(name, gib(1))
        world.one_pass()
        while world.panel.take_webhooks():
            pass

        async def press():
            transport = httpx.ASGITransport(create_simulator_app(world.panel))
            headers = {"authorization": f"Bearer {world.panel.sign_in('root', PASSWORD)}"}
            async with httpx.AsyncClient(transport=transport, base_url="http://panel") as client:
                ids = [world.panel.find(name).id for name in names]
                return await client.post(
                    "/api/users/bulk/reset", json={"ids": ids}, headers=headers
                )

        world.clock.advance(seconds=30)
        assert world.run(press()).json()["count"] == len(names)
        world.clock.advance(seconds=2)
        batches = [world.panel.take_webhooks() for _ in range(2)]
        assert [len(batch) for batch in batches] == [50, 5]
        for batch in (*batches, *batches):
            deliver(world, batch)
            world.one_pass()
        assert {world.account(name).baseline_bytes for name in names} == {gib(1)}
        resets = [
            e for e in world.bridge.store.events.newest(limit=1000) if e.event.kind == "reset"
        ]
        assert sorted(each.username for each in resets) == sorted(names)

    def test_a_reset_of_everybody_is_of_every_owners_users(self, world):
        world.panel.add_admin("shop", password="x", is_sudo=False)
        world.panel.create_user("alice", data_limit=gib(10), by="shop")
        world.ledger.report("alice", gib(2))
        world.one_pass()
        caller = world.run(world.bridge.panel.whoami())
        assert world.run(world.bridge.actions.reset_all(bearer=None, caller=caller)) == 1
        world.one_pass()
        assert world.account("alice").baseline_bytes == gib(2)


@pytest.mark.parametrize("kind", ["marzban", "pasarguard"])
def test_external_traffic_ends_no_hold_and_counts_from_its_end(tmp_path, kind):
    world = World(tmp_path, kind=kind)
    hold = {"status": "on_hold", "on_hold_expire_duration": 86400}
    world.panel.create_user("alice", data_limit=gib(10), **hold)
    world.ledger.report("alice", gib(3))
    for _ in range(2):
        world.one_pass()
        world.panel.review()
    assert (user_of(world)["status"], user_of(world)["data_limit"]) == ("on_hold", gib(10))
    assert world.transport.writes == []
    world.panel.use_traffic("alice", gib(1))
    world.panel.review()
    world.one_pass()
    assert (user_of(world)["status"], user_of(world)["data_limit"]) == ("active", gib(7))
    world.close()


class TestWhoItIs:
    def test_what_it_is_shows_in_the_check(self, world):
        check = world.run(world.bridge.reconciler.health.check())
        assert (check.kind, check.panel) == (PanelKind.PASARGUARD, "PasarGuard 5.2.1")
        assert check.is_sudo
        assert check.warnings == ()

    def test_a_role_that_lacks_something_is_told_which(self, tmp_path):
        panel = SimulatedPanel(
            kind="pasarguard", clock=ManualClock(), admins={"root": (PASSWORD, True)}
        )
        permissions = {
            "users": {
                "read": {"scope": 2},
                "read_simple": {"scope": 2},
                "reset_usage": {"scope": 2},
                "activate_next_plan": {"scope": 2},
            },
            "admins": {"read": True},
        }
        role = pasarguard.add_role(panel, {"name": "bridge", "permissions": permissions})
        admin = {"username": "less", "password": PASSWORD, "role_id": role.id}
        pasarguard.create_admin(panel, admin)
        world = World(tmp_path, panel=panel, marzban_username="less")
        check = world.run(world.bridge.panel.check())
        assert check.missing_permissions == ("users.update", "system.read")
        assert not check.is_sudo
        (warning,) = check.warnings
        assert "less, or its API key, lacks users.update, system.read" in warning
        panel.create_user("alice", data_limit=gib(10), by="root")
        world.ledger.report("alice", gib(3))
        world.one_pass()
        assert panel.get_user("alice")["data_limit"] == gib(10)
        newest, *_ = world.bridge.store.events.newest(username="alice")
        assert "Permission denied: users.update" in newest.event.text
        world.close()

    def test_an_admin_who_was_disabled_is_told_what_the_panel_says(self, tmp_path):
        panel = SimulatedPanel(
            kind="pasarguard", clock=ManualClock(), admins={"root": (PASSWORD, True)}
        )
        role = pasarguard.add_role(panel, {"name": "bridge", "permissions": {}})
        admin = {"username": "bridge", "password": PASSWORD, "role_id": role.id}
        made = pasarguard.create_admin(panel, admin)
        world = World(tmp_path, panel=panel, marzban_username="bridge")
        world.run(world.bridge.panel.check())
        pasarguard.modify_admin(panel, made, {"status": "disabled"})
        with pytest.raises(PanelLoginError, match="your account has been disabled") as caught:
            world.run(world.bridge.panel.check())
        assert "is MARZBAN_URL" not in str(caught.value)
        newcomer = World(tmp_path / "other", panel=panel, marzban_username="bridge")
        with pytest.raises(PanelLoginError, match=r"'bridge' \(.*has been disabled.*\): check"):
            newcomer.run(newcomer.bridge.panel.check())
        newcomer.close()
        pasarguard.modify_admin(panel, made, {"status": "active"})
        assert world.run(world.bridge.panel.check()).admin == "bridge"
        world.close()

    def test_the_role_of_the_recipe_suffices(self, tmp_path):
        """docs/pasarguard.md: limits, resets and next plans, by a key of an admin with that role."""
        panel = SimulatedPanel(
            kind="pasarguard", clock=ManualClock(), admins={"root": (PASSWORD, True)}
        )
        permissions = {}
        for each in (*OF_ALL_USERS, *BESIDES):
            resource, _, action = each.partition(".")
            allowed = {"scope": 2} if resource == "users" else True
            permissions.setdefault(resource, {})[action] = allowed
        role = pasarguard.add_role(panel, {"name": "bridge", "permissions": permissions})
        admin = {"username": "bridge", "password": PASSWORD, "role_id": role.id}
        owner = pasarguard.create_admin(panel, admin)
        body = {"name": "bridge", "inherit_permissions": True}
        key = pasarguard.add_api_key(panel, body, by=owner)
        world = World(tmp_path, panel=panel, marzban_api_key=key.key)
        assert world.run(world.bridge.panel.check()).warnings == ()
        used_up(world, next_plan=PLAN, note="paid", by="root")
        world.one_pass()
        assert world.account("alice").quota_bytes == gib(49)
        world.run(world.bridge.actions.reset_user("alice", actor="test"))
        assert user_of(world)["data_limit"] == gib(49)
        assert user_of(world)["note"].startswith("paid")
        world.close()

    def test_another_program_is_refused_with_what_was_seen(self, tmp_path, monkeypatch):
        world = World(tmp_path, kind="pasarguard")
        monkeypatch.setattr(SimulatedPanel, "show_admin", lambda *_: {"id": 7, "name": "x"})
        with pytest.raises(NotThePanelError, match="'id', 'name'"):
            world.run(world.bridge.panel.check())
        world.close()


class TestApiKey:
    def test_a_key_alone_suffices(self, tmp_path):
        panel_world = World(tmp_path / "maker", kind="pasarguard")
        root = panel_world.panel.admins["root"]
        key = pasarguard.add_api_key(
            panel_world.panel, {"name": "bridge", "inherit_permissions": True}, by=root
        )
        world = World(
            tmp_path,
            panel=panel_world.panel,
            marzban_api_key=key.key,
            marzban_username="",
            marzban_password="",
        )
        used_up(world)
        world.panel.review()
        assert user_of(world)["status"] == "limited"
        assert not any(path.endswith("/token") for _, path in world.transport.writes)
        pasarguard.revoke_api_key(panel_world.panel, key.id, by=root)
        with pytest.raises(PanelLoginError, match="MARZBAN_API_KEY"):
            world.run(world.bridge.panel.check())
        world.close()
        panel_world.close()


class TestMovingOver:
    def test_the_same_accounts_go_on_and_nobody_is_reset(self, tmp_path):
        world = World(tmp_path, kind="marzban")
        for name in ("alice", "bob", "carol"):
            world.panel.create_user(name, data_limit=gib(10))
            world.panel.use_traffic(name, gib(4))
            world.ledger.report(name, gib(3))
        world.panel.create_user("dora", data_limit=gib(10))
        world.ledger.report("dora", gib(11))
        world.one_pass()
        world.ledger.report("bob", gib(4))
        world.one_pass()
        world.panel.review()
        names = ("alice", "bob", "carol", "dora")
        before = {name: world.account(name) for name in names}
        assert [user_of(world, name)["status"] for name in names] == [
            *("active", "limited", "active", "disabled")
        ]
        moved = SimulatedPanel(
            clock=world.clock, kind="pasarguard", admins={"root": (PASSWORD, True)}
        )
        restore_snapshot(moved, to_snapshot(world.panel))
        for place, user in enumerate(moved.users.values()):
            user.id = 100 + place
        world.panel = moved
        world.transport.become(create_simulator_app(moved))
        world.ledger.report("alice", gib(1))
        world.one_pass()
        world.one_pass()
        for name, account in before.items():
            after = world.account(name)
            assert after.baseline_bytes == account.baseline_bytes, name
            assert after.quota_bytes == account.quota_bytes, name
            assert after.is_disabled_by_us == account.is_disabled_by_us, name
            assert not after.is_held
        assert user_of(world, "alice")["data_limit"] == gib(6)
        assert not world.bridge.store.suspension.reasons
        assert world.bridge.panel.dialect.kind is PanelKind.PASARGUARD
        kinds = {each.event.kind for each in world.bridge.store.events.newest(limit=50)}
        assert not kinds & {"reset", "recreated", "deleted", "quota_changed", "conflict"}
        world.close()


class TestEdits:
    """Whose a limit is, by the time of the last edit and by what the dialog sends back."""

    @pytest.fixture(params=[True, False], ids=["notes", "no notes"])
    def world(self, tmp_path, request):
        opened = World(tmp_path, kind="pasarguard", uses_notes=request.param)
        opened.panel.create_user("alice", data_limit=gib(10))
        opened.ledger.report("alice", gib(10) - gib(6.8773) - 5)
        opened.one_pass()
        assert user_of(opened)["data_limit"] == gib(6.8773) + 5
        yield opened
        opened.close()

    def test_an_admin_who_edits_a_note_changes_no_quota(self, world):
        world.panel.edit_in_dialog("alice", by="root", note="paid")
        assert user_of(world)["data_limit"] == round(6.88 * GIB)
        for _ in range(3):
            world.one_pass()
        assert world.account("alice").quota_bytes == gib(10)
        assert user_of(world)["note"].startswith("paid")
        world.ledger.report("alice", gib(1))
        world.one_pass()
        assert user_of(world)["data_limit"] == gib(5.8773) + 5

    def test_nor_does_one_whose_dialog_was_open_for_a_while(self, world):
        opened = dict(world.panel.get_user("alice"))
        world.ledger.report("alice", gib(1.237))
        world.one_pass()
        body = dialog_body(opened, {"note": opened["note"] or "paid"}, dialect=world.panel.dialect)
        world.panel.modify_user("alice", body, by="root")
        world.one_pass()
        assert world.account("alice").quota_bytes == gib(10)
        assert user_of(world)["data_limit"] < gib(5.65)

    def test_a_quota_that_is_typed_is_the_quota(self, world):
        world.panel.edit_in_dialog("alice", by="root", data_limit=gib(20))
        world.one_pass()
        assert world.account("alice").quota_bytes == gib(20)

    @pytest.mark.parametrize("more", [5, -2])
    def test_limits_that_change_in_bulk_change_the_quotas_by_as_much(self, world, more):
        for name in ("bob", "carol", "dora", "eve"):
            world.panel.create_user(name, data_limit=gib(10))
            world.ledger.report(name, gib(3))
        world.one_pass()
        while world.panel.take_webhooks():
            pass
        pasarguard.change_limits(world.panel, gib(more))
        assert world.panel.take_webhooks() == [], "nothing but the next pass shows it"
        world.one_pass()
        world.one_pass()
        quota = gib(10 + more)
        assert not world.bridge.store.suspension.reasons
        assert world.account("alice").quota_bytes == quota
        assert world.account("bob").quota_bytes == quota
        assert user_of(world, "bob")["data_limit"] == quota - gib(3)
        newest, *_ = world.bridge.store.events.newest(username="bob")
        assert (newest.event.kind, newest.event.after) == ("quota_changed", str(quota))

    def test_what_typed_limits_mean_is_not_asked_of_a_change_in_bulk(self, tmp_path):
        left = TypedLimits(otherwise=TypedLimit.LEFT)
        world = World(tmp_path / "left", kind="pasarguard", typed_limits=left)
        world.panel.create_user("alice", data_limit=gib(10))
        world.ledger.report("alice", gib(3))
        world.one_pass()
        pasarguard.change_limits(world.panel, gib(5))
        world.one_pass()
        assert world.account("alice").quota_bytes == gib(15)
        world.close()

    def test_our_own_writes_within_a_second_are_no_change_in_bulk(self, world):
        """Some databases keep the time of an edit in whole seconds."""
        world.run(world.bridge.actions.reset_user("alice", actor="test"))
        assert world.account("alice").quota_bytes == user_of(world)["data_limit"] == gib(10)
        kinds = [each.event.kind for each in world.bridge.store.events.newest(username="alice")]
        assert not {"quota_changed", "conflict"} & set(kinds)

    def test_a_switch_turned_in_the_dashboard_is_no_edit(self, world):
        pasarguard.set_disabled(world.panel, world.panel.find("alice"), is_disabled=True)
        world.one_pass()
        pasarguard.set_disabled(world.panel, world.panel.find("alice"), is_disabled=False)
        world.one_pass()
        assert world.account("alice").quota_bytes == gib(10)
        assert user_of(world)["status"] == "active"


class TestAdminsWithLimits:
    """A reseller over its own quota is the panel's to stop, and the bridge's to show."""

    @pytest.fixture
    def shop(self, world):
        shop = world.panel.add_admin("shop", password="pw")
        pasarguard.modify_admin(world.panel, shop, {"data_limit": gib(2)})
        world.panel.create_user("alice", by="shop", data_limit=gib(10))
        world.ledger.report("alice", gib(1))
        world.panel.use_traffic("alice", gib(2))
        world.panel.review()
        world.one_pass()
        return shop

    def warnings(self, world):
        return world.bridge.reconciler.health.stopped_admins.warnings

    def test_it_is_shown_with_what_it_does_to_its_users_and_nothing_is_written(self, world, shop):
        writes = len(world.transport.writes)
        world.panel.review()
        world.one_pass()
        text = (
            "the admin 'shop' has used up its own data limit (2.00 GiB): the panel keeps its users "
            "off the nodes, whatever is left of their quotas"
        )
        assert self.warnings(world) == (text,)
        assert world.bridge.store.meta("stopped_admins:default") == text
        assert user_of(world)["status"] == "active"
        assert len(world.transport.writes) == writes
        [sample] = next(iter(world.bridge.metrics.stopped_admins.collect())).samples
        assert (sample.labels, sample.value) == ({"admin": "shop", "reason": "limited"}, 1)
        pasarguard.reset_admin(world.panel, shop)
        world.one_pass()
        assert self.warnings(world) == ()
        assert next(iter(world.bridge.metrics.stopped_admins.collect())).samples == []
        assert world.bridge.store.meta("stopped_admins:default") == ""

    def test_the_command_that_shows_users_names_it(self, world, shop, capsys):
        assert commands.users(world.settings) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert f"panel default: {self.warnings(world)[0]}" in said

    def test_its_users_quotas_are_held_all_the_same(self, world, shop):
        world.ledger.report("alice", gib(8))
        world.one_pass()
        assert user_of(world)["status"] == "limited"
        world.panel.reset_user("alice")
        world.one_pass()
        assert (user_of(world)["status"], user_of(world)["data_limit"]) == ("active", gib(10))
        assert not world.panel.use_traffic("alice", 1), "the reseller is still stopped"

    @pytest.mark.parametrize("cuts_off", [True, False])
    def test_one_who_is_disabled_is_shown_too(self, world, shop, cuts_off):
        shop.role = replace(shop.role, disconnect_users_when_disabled=cuts_off)
        pasarguard.modify_admin(world.panel, shop, {"status": "disabled"})
        world.one_pass()
        [warning] = self.warnings(world)
        assert warning.startswith("the admin 'shop' is disabled: the panel")
        assert ("off the nodes" in warning) is cuts_off

    def test_what_is_known_stays_where_the_admins_are_not_shown(self, world, shop, monkeypatch):
        known = self.warnings(world)
        no_list = AsyncMock(side_effect=PanelUnavailableError("no list of admins"))
        monkeypatch.setattr(world.bridge.panel, "admins", no_list)
        world.one_pass()
        assert (self.warnings(world), no_list.await_count) == (known, 1)


class TestWebhookTimes:
    """Of a user without traffic on the panel's nodes a reset shows in nothing but its webhook."""

    def test_one_from_before_the_adoption_forgives_nothing(self, world):
        world.panel.create_user("alice", data_limit=gib(10))
        world.panel.reset_user("alice", by="root")
        world.clock.advance(seconds=20)
        world.ledger.report("alice", gib(1))
        world.one_pass()
        world.ledger.report("alice", gib(3.1))
        world.one_pass()
        deliver(world, world.panel.take_webhooks())
        world.one_pass()
        assert world.account("alice").baseline_bytes == 0

    def test_a_late_one_forgives_what_there_was_when_it_happened(self, world):
        world.panel.create_user("alice", data_limit=gib(10))
        world.ledger.report("alice", gib(1))
        world.one_pass()
        world.clock.advance(seconds=30)
        world.panel.reset_user("alice", by="root")
        world.clock.advance(minutes=4)
        world.ledger.report("alice", gib(3))
        world.one_pass()
        deliver(world, world.panel.take_webhooks())
        world.one_pass()
        account = world.account("alice")
        assert account.baseline_bytes == gib(1)
        assert user_of(world)["data_limit"] == gib(7)

    @pytest.mark.parametrize("is_disabled", [False, True], ids=["active", "disabled by us"])
    def test_one_forgives_what_was_reported_before_though_no_look_came_in_between(
        self, world, is_disabled
    ):
        world.panel.create_user("alice", data_limit=gib(10))
        world.ledger.report("alice", gib(11) if is_disabled else gib(1))
        world.one_pass()
        assert user_of(world)["status"] == ("disabled" if is_disabled else "active")
        for seconds in (10, 10, 5):
            world.clock.advance(seconds=seconds)
            world.ledger.report("alice", 2**20)
            world.run(world.bridges.feed_reader.to_end())
        reported = world.ledger.total_bytes("alice")
        world.panel.reset_user("alice", by="root")
        world.clock.advance(seconds=5)
        world.ledger.report("alice", gib(3))
        world.run(world.bridges.feed_reader.to_end())
        world.clock.advance(seconds=25)
        deliver(world, world.panel.take_webhooks())
        world.one_pass()
        assert world.account("alice").baseline_bytes == reported
        assert user_of(world)["status"] == "active"

    def test_that_of_our_own_reset_forgives_nothing_however_late_it_comes(self, world):
        world.panel.create_user("alice", data_limit=gib(10))
        world.ledger.report("alice", gib(1))
        world.one_pass()
        world.run(world.bridge.actions.reset_user("alice", actor="test"))
        world.ledger.report("alice", gib(2))
        for _ in range(25):
            world.clock.advance(minutes=1)
            world.one_pass()
        deliver(world, world.panel.take_webhooks())
        world.one_pass()
        assert world.account("alice").baseline_bytes == gib(1)

    def test_a_button_minutes_after_our_own_reset_is_another_reset(self, world):
        """Although the webhook of ours was lost, and this one might be taken for it."""
        world.panel.create_user("alice", data_limit=gib(10))
        world.ledger.report("alice", gib(1))
        world.one_pass()
        world.run(world.bridge.actions.reset_user("alice", actor="test"))
        world.panel.take_webhooks()
        world.ledger.report("alice", gib(2))
        world.one_pass()
        world.clock.advance(minutes=6)
        world.panel.reset_user("alice", by="root")
        deliver(world, world.panel.take_webhooks())
        world.one_pass()
        assert world.account("alice").baseline_bytes == gib(3)


class TestEditsWhileTheBridgeWrites:
    """What an admin saves after the bridge read the user and before the panel took its write."""

    def edited_meanwhile(self, world, *, by="boss", **changes):
        world.panel.create_user("alice", data_limit=gib(10), note="paid")
        world.ledger.report("alice", gib(1))
        world.one_pass()
        world.panel.take_webhooks()

        async def edit():
            world.clock.advance(seconds=2)
            world.panel.edit_in_dialog("alice", by=by, **changes)
            world.clock.advance(seconds=2)

        world.panel.add_admin("boss", password="x", is_sudo=True)
        world.transport.before_next_write = edit
        world.ledger.report("alice", gib(2))
        world.one_pass()
        assert user_of(world)["data_limit"] == gib(7), "the bridge's write went over the edit"
        webhooks = world.panel.take_webhooks()
        deliver(world, webhooks)
        world.one_pass()
        return webhooks

    def test_a_quota_is_not_lost(self, world):
        webhooks = self.edited_meanwhile(world, data_limit=gib(20))
        assert world.account("alice").quota_bytes == gib(20)
        assert user_of(world)["data_limit"] == gib(17)
        world.clock.advance(seconds=1)
        world.panel.edit_in_dialog("alice", by="boss", data_limit=gib(30))
        world.one_pass()
        deliver(world, webhooks)  # once more, and too late
        world.one_pass()
        assert world.account("alice").quota_bytes == gib(30)

    def test_what_the_bridges_own_admin_wrote_is_a_write_of_the_bridge(self, world):
        """As one that had timed out, and is carried out late."""
        self.edited_meanwhile(world, by="root", data_limit=gib(20))
        assert world.account("alice").quota_bytes == gib(10)

    def test_nor_what_was_written_into_the_note(self, world):
        self.edited_meanwhile(world, note="paid until May")
        world.one_pass()
        assert user_of(world)["note"].startswith("paid until May")
        assert world.account("alice").quota_bytes == gib(10)

    def test_nor_a_next_plan(self, world):
        self.edited_meanwhile(world, next_plan=PLAN | {"user_template_id": None})
        world.one_pass()
        assert user_of(world)["next_plan"]["data_limit"] == gib(50)

    def test_a_save_without_a_change_is_none(self, world):
        self.edited_meanwhile(world)
        assert world.account("alice").quota_bytes == gib(10)
        kinds = [each.event.kind for each in world.bridge.store.events.newest(username="alice")]
        assert "quota_changed" not in kinds


def test_one_quota_spans_panels_of_both_kinds(tmp_path):
    world = PanelsWorld(tmp_path, "two", spans=True, kinds={"two": "pasarguard"})
    world.create("default", limit=10)
    world.create("two", limit=20)
    world.ledger.report("alice", gib(1))
    world.look(2)
    world.use("default", 2)
    world.use("two", 3)
    world.look(3)
    assert world.account("two").quota_bytes == world.account("default").quota_bytes == gib(10)
    assert world.shown("default") == ("active", pytest.approx(10 - 1 - 3))
    assert world.shown("two") == ("active", pytest.approx(10 - 1 - 2))
    world.panels["two"].reset_user("alice", by="root")
    world.look(3)
    for panel in ("default", "two"):
        assert world.account(panel).quota_bytes == gib(10)
        assert world.shown(panel) == ("active", pytest.approx(10))
    world.close()


def test_a_panel_that_is_another_kind_between_two_checks_is_asked_anew(tmp_path):
    """What its users look like tells; none of them is read, or written to, as the other's."""
    world = World(tmp_path, kind="marzban")
    world.panel.create_user("alice", data_limit=gib(10))
    world.run(world.bridge.panel.check())
    moved = SimulatedPanel(clock=world.clock, kind="pasarguard", admins={"root": (PASSWORD, True)})
    restore_snapshot(moved, to_snapshot(world.panel))
    world.transport.become(create_simulator_app(moved))
    with pytest.raises(PanelUnavailableError, match="users of PasarGuard"):
        world.run(world.bridge.panel.get_user("alice"))
    user = world.run(world.bridge.panel.get_user("alice"))
    assert (user.username, world.bridge.panel.dialect.kind) == ("alice", PanelKind.PASARGUARD)
    world.close()


def test_a_kind_that_is_set_is_not_asked_for_and_told_when_it_is_wrong(tmp_path):
    world = World(tmp_path, kind="pasarguard", marzban_kind=PanelKind.MARZBAN)
    world.panel.create_user("alice", data_limit=gib(10))
    assert world.bridge.panel.dialect.kind is PanelKind.MARZBAN
    with pytest.raises(NotThePanelError, match="set pasarguard, or leave it out"):
        world.run(world.bridge.panel.check())
    for _ in range(2):
        with pytest.raises(PanelUnavailableError, match="MARZBAN_KIND\\) to pasarguard"):
            world.run(world.bridge.panel.get_user("alice"))
    world.close()


class TestBeforeRoles:
    """PasarGuard up to 4, whose admins are sudo or not, as Marzban's."""

    @pytest.fixture
    def world(self, tmp_path):
        opened = World(tmp_path, kind="pasarguard-3.1")
        yield opened
        opened.close()

    def test_it_is_known_for_what_it_is(self, world):
        check = world.run(world.bridge.panel.check())
        assert str(check) == "signed in as root; it is PasarGuard 3.1.0"
        assert (check.is_sudo, check.warnings) == (True, ())

    def test_an_expiry_is_read_and_a_next_plan_fired(self, world):
        used_up(world, next_plan=PLAN, expire=4_102_444_800)
        world.one_pass()
        user = user_of(world)
        assert (user["status"], user["used_traffic"], user["next_plan"]) == ("active", 0, None)

    def test_a_hold_that_a_reset_ends_is_put_back(self, world):
        hold = {"status": "on_hold", "on_hold_expire_duration": 86400}
        world.panel.create_user("alice", data_limit=gib(10), **hold)
        world.ledger.report("alice", gib(3))
        world.one_pass()
        world.run(world.bridge.actions.reset_user("alice", actor="test"))
        user = user_of(world)
        assert (user["status"], user["on_hold_expire_duration"]) == ("on_hold", 86400)
        assert world.account("alice").baseline_bytes == gib(3)

    def test_a_reset_of_everybody_is_of_the_callers_users_who_stay_disabled(self, world):
        used_up(world, external_bytes=gib(2), by="root")
        world.panel.modify_user("alice", {"status": "disabled"}, by="root")
        world.one_pass()
        caller = world.run(world.bridge.panel.whoami())
        assert world.run(world.bridge.actions.reset_all(bearer=None, caller=caller)) == 1
        world.one_pass()
        assert user_of(world)["status"] == "disabled"
        assert world.account("alice").baseline_bytes == gib(2)

    def test_its_update_is_seen_and_is_no_other_kind(self, world, caplog):
        used_up(world, external_bytes=gib(2))
        newer = SimulatedPanel(
            clock=world.clock, kind="pasarguard", admins={"root": (PASSWORD, True)}
        )
        restore_snapshot(newer, to_snapshot(world.panel))
        world.transport.become(create_simulator_app(newer))
        check = world.run(world.bridge.panel.check())
        assert check.panel == "PasarGuard 5.2.1"
        assert world.bridge.panel.dialect is check.dialect is PASARGUARD
        assert "go on with their accounts" not in caplog.text

    def test_an_api_key_is_refused_with_what_it_may_be(self, tmp_path):
        world = World(tmp_path, kind="pasarguard-3.1", marzban_api_key="pg_key_1")
        with pytest.raises(PanelLoginError, match=r"PasarGuard before 5\.1, have no API keys"):
            world.run(world.bridge.panel.check())
        world.close()
