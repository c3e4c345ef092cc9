"""A panel without its users for a while: on the wrong volume, or while its database is restored."""

from __future__ import annotations

import pytest

from marzban_bridge.quota.account import FLOOR_BYTES
from marzban_bridge.simulator.snapshot import restore_snapshot, to_snapshot
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.panels_world import PanelsWorld
from tests.support.bridge.webhook_delivery import deliver
from tests.support.bridge.world import World


@pytest.fixture(params=[False, True], ids=["own quota", "shared quota"])
def world(tmp_path, store_place, request):
    opened = World(tmp_path, quotas_span_panels=request.param, store=store_place.setting)
    yield opened
    opened.close()


@pytest.fixture
def several(tmp_path):
    opened = PanelsWorld(tmp_path, "two")
    yield opened
    opened.close()


@pytest.fixture
def sharing(tmp_path):
    opened = PanelsWorld(tmp_path, "two", spans=True)
    yield opened
    opened.close()


def put_back_after_a_pass(world, panel=None, **between):
    """Have the panel empty for a pass."""
    panel = panel or world.panel
    snapshot = to_snapshot(panel)
    panel.users = {}
    looks(world)
    for name, amount in between.items():
        world.ledger.report(name, amount)
    looks(world)
    restore_snapshot(panel, snapshot)
    looks(world)


def looks(world):
    if isinstance(world, PanelsWorld):
        world.look()
    else:
        world.one_pass()


def test_a_quota_survives_a_pass_without_the_user_and_what_was_used_meanwhile_counts(world):
    world.panel.create_user("alice", data_limit=gib(10))
    world.ledger.report("alice", gib(3))
    world.one_pass()
    put_back_after_a_pass(world, alice=gib(1))
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(10)
    assert world.panel.get_user("alice")["data_limit"] == gib(6)
    kinds = [each.event.kind for each in world.bridge.store.events.newest(username="alice")]
    assert kinds.count("deleted") == kinds.count("returned") == 1


def test_a_limited_user_stays_limited_and_has_its_quota_back_after_a_reset(world):
    world.panel.create_user("alice", data_limit=gib(10))
    world.panel.use_traffic("alice", gib(1))
    world.ledger.report("alice", gib(11))
    world.one_pass()
    assert world.panel.get_user("alice")["data_limit"] == FLOOR_BYTES
    put_back_after_a_pass(world)
    assert world.account("alice").quota_bytes == gib(10)
    world.panel.reset_user("alice")
    world.one_pass()
    user = world.panel.get_user("alice")
    assert (user["status"], user["data_limit"]) == ("active", gib(10))


def test_a_user_we_had_disabled_is_still_ours_to_enable(world):
    world.panel.create_user("alice", data_limit=gib(10))
    world.ledger.report("alice", gib(11))
    world.one_pass()
    assert world.panel.get_user("alice")["status"] == "disabled"
    put_back_after_a_pass(world)
    assert world.account("alice").is_disabled_by_us
    world.panel.modify_user("alice", {"data_limit": gib(20)})
    world.one_pass()
    assert world.panel.get_user("alice")["status"] == "active"


def test_a_reset_that_is_announced_before_the_return_was_noticed_is_one(world):
    """The button is pressed in the panel that is back, before the bridge has looked again."""
    world.panel.create_user("alice", data_limit=gib(10))
    world.ledger.report("alice", gib(11))
    world.one_pass()
    assert world.panel.get_user("alice")["status"] == "disabled"
    snapshot = to_snapshot(world.panel)
    world.panel.users = {}
    looks(world)
    assert world.bridge.store.accounts.get("alice") is None
    restore_snapshot(world.panel, snapshot)
    world.panel.take_webhooks()
    world.panel.reset_user("alice")
    deliver(world, world.panel.take_webhooks())
    looks(world)
    account = world.account("alice")
    assert (account.baseline_bytes, account.quota_bytes) == (gib(11), gib(10))
    user = world.panel.get_user("alice")
    assert (user["status"], user["data_limit"]) == ("active", gib(10))


def test_a_reset_that_waits_for_a_user_who_is_gone_is_finished_when_it_is_back(world):
    world.panel.create_user("alice", data_limit=gib(10))
    world.panel.use_traffic("alice", gib(1))
    world.ledger.report("alice", gib(3))
    world.one_pass()
    settler = world.bridge.settler
    settler.resets.request(world.account("alice"), cause="asked for", actor="root")
    put_back_after_a_pass(world)
    assert world.bridge.store.accounts.pending_resets().count == 0
    user = world.panel.get_user("alice")
    assert (user["used_traffic"], user["data_limit"]) == (0, gib(10))


def test_a_user_created_anew_begins_anew_and_the_first_one_can_still_come_back(world):
    world.panel.create_user("alice", data_limit=gib(10))
    world.panel.use_traffic("alice", gib(1))
    world.ledger.report("alice", gib(3))
    world.one_pass()
    snapshot = to_snapshot(world.panel)
    world.panel.delete_user("alice")
    world.clock.advance(seconds=5)
    world.panel.create_user("alice", data_limit=gib(5))
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(5)
    restore_snapshot(world.panel, snapshot)
    world.one_pass()
    account = world.account("alice")
    assert account.quota_bytes == gib(10)
    assert world.bridge.store.usage.total_bytes("alice") - account.baseline_bytes == gib(3)
    assert world.panel.get_user("alice")["data_limit"] == gib(7)


def test_who_is_gone_is_no_account_and_is_shown_as_deleted(world):
    world.panel.create_user("alice", data_limit=gib(10))
    world.ledger.report("alice", gib(3))
    world.one_pass()
    world.panel.delete_user("alice")
    world.one_pass()
    store = world.bridge.store
    assert store.counts() == {"accounts": 0, "unknown_names": 1, "held": 0}
    assert list(store.accounts.all()) == store.accounts.page(admin=None, after="", limit=9) == []
    (unknown,) = store.unknown_names.all()
    assert (unknown.username, unknown.gone_at) == ("alice", world.clock())


def test_a_ledger_that_lost_reports_of_who_is_gone_holds_it_and_rebase_goes_on(world):
    world.panel.create_user("alice", data_limit=gib(10))
    world.ledger.report("alice", gib(1))
    copied = world.ledger.copied()
    world.ledger.report("alice", gib(3))
    world.one_pass()
    snapshot = to_snapshot(world.panel)
    world.panel.users = {}
    world.one_pass()
    world.ledger.restore(copied)
    world.ledger.report("alice", gib(5))
    world.one_pass()
    restore_snapshot(world.panel, snapshot)
    world.one_pass()
    assert world.account("alice").is_held


class TestCreation:
    def test_a_panel_moved_to_mariadb_has_the_same_users(self, world):
        world.clock.advance(seconds=0.7)
        for name in ("alice", "bob", "carol", "dave"):
            world.panel.create_user(name, data_limit=gib(10))
            world.ledger.report(name, gib(3))
        world.one_pass()
        for user in world.panel.users.values():
            user.created_at = user.created_at.replace(microsecond=0)
        world.one_pass()
        world.one_pass()
        account = world.account("alice")
        assert account.quota_bytes == gib(10)
        assert account.created_at.microsecond == 0
        assert world.bridge.store.usage.total_bytes("alice") - account.baseline_bytes == gib(3)
        assert not [
            each for each in world.bridge.store.events.newest() if each.event.kind == "recreated"
        ]


class TestNames:
    """With several panels a name passes on, and comes back to its user without another's use."""

    def test_who_comes_back_to_its_name_goes_on(self, several):
        several.create("two")
        several.ledger.report("alice", gib(3))
        several.look(2)
        put_back_after_a_pass(several, several.panels["two"], alice=gib(1))
        several.look(2)
        assert several.account("two").quota_bytes == gib(10)
        assert several.external("two") == gib(4)
        assert several.shown("two") == ("active", 6)

    @pytest.mark.parametrize("has_gone_again", [False, True])
    def test_what_another_panels_user_used_under_the_name_is_not_counted(
        self, several, has_gone_again
    ):
        several.create("default")
        several.create("two")
        several.ledger.report("alice", gib(3))
        several.look(2)
        snapshot = to_snapshot(several.panels["default"])
        several.panels["default"].users = {}
        several.look(3)
        several.ledger.report("alice", gib(4))
        several.look(2)
        assert several.external("two") == gib(4)
        if has_gone_again:
            several.panels["two"].delete_user("alice")
            several.look(2)
        restore_snapshot(several.panels["default"], snapshot)
        several.look(3)
        assert several.account("default").quota_bytes == gib(10)
        assert several.external("default") == gib(3)
        several.ledger.report("alice", gib(1))
        several.look(2)
        assert several.external("default") == gib(4), "its panel never deleted it"
        if not has_gone_again:
            assert several.external("two") == gib(4), "what was counted stays"

    def test_a_later_panels_user_comes_back_behind_what_the_first_ones_used(self, several):
        several.create("two")
        several.ledger.report("alice", gib(3))
        several.look(2)
        snapshot = to_snapshot(several.panels["two"])
        several.panels["two"].users = {}
        several.look(2)
        several.create("default")
        several.look(2)
        several.ledger.report("alice", gib(2))
        several.look(2)
        restore_snapshot(several.panels["two"], snapshot)
        several.look(3)
        assert several.external("default") == gib(2)
        assert several.external("two") == gib(3)
        assert several.account("two").quota_bytes == gib(10)


class TestSharedQuotas:
    def used(self, world, panel):
        account = world.account(panel)
        return world.external(panel) + account.sighting.used_bytes

    def test_what_was_used_counts_once_while_the_user_is_gone_and_after(self, sharing):
        sharing.create("default")
        sharing.create("two")
        sharing.ledger.report("alice", gib(1))
        sharing.look(2)
        sharing.use("two", 3)
        sharing.use("default", 2)
        sharing.look(3)
        assert self.used(sharing, "default") == gib(6)
        snapshot = to_snapshot(sharing.panels["two"])
        sharing.panels["two"].users = {}
        sharing.look(2)
        assert self.used(sharing, "default") == gib(6)
        restore_snapshot(sharing.panels["two"], snapshot)
        sharing.look(3)
        assert self.used(sharing, "default") == self.used(sharing, "two") == gib(6)
        sharing.use("two", 1)
        sharing.look(3)
        assert self.used(sharing, "default") == gib(7)

    def test_it_survives_that_all_panels_are_empty_at_once(self, sharing):
        sharing.create("default")
        sharing.create("two")
        sharing.ledger.report("alice", gib(1))
        sharing.look(2)
        sharing.use("two", 3)
        sharing.use("default", 2)
        sharing.look(3)
        snapshots = {name: to_snapshot(panel) for name, panel in sharing.panels.items()}
        for panel in sharing.panels.values():
            panel.users = {}
        sharing.look(3)
        for name, panel in sharing.panels.items():
            restore_snapshot(panel, snapshots[name])
            sharing.look(3)
        assert self.used(sharing, "default") == self.used(sharing, "two") == gib(6)
        assert sharing.account("two").quota_bytes == gib(10)
