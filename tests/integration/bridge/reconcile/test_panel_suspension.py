"""A panel that lies about many users at once: nobody is changed, and why is said."""

from __future__ import annotations

import pytest

from marzban_bridge.errors import PanelSuspendedError
from marzban_bridge.reconcile.users.chunk import UNREAD_AT
from marzban_bridge.simulator.snapshot import restore_snapshot, to_snapshot
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.panels_world import PanelsWorld
from tests.support.bridge.world import World

NAMES = ("alice", "bob", "carol", "dave")


@pytest.fixture(params=[False, True], ids=["own quota", "shared quota"])
def world(tmp_path, store_place, request):
    opened = World(tmp_path, quotas_span_panels=request.param, store=store_place.setting)
    for name in NAMES:
        opened.panel.create_user(name, data_limit=gib(10))
        opened.panel.use_traffic(name, gib(1))
        opened.ledger.report(name, gib(3))
    opened.one_pass()
    yield opened
    opened.close()


def accounts(world):
    return list(world.bridge.store.accounts.all())


def suspensions(world):
    return [each.kind for each in world.bridge.store.suspension.reasons]


def kinds(world):
    return [each.event.kind for each in world.bridge.store.events.newest()]


def test_an_empty_panel_changes_no_account_and_goes_on_by_itself_once_its_users_are_back(world):
    before, snapshot = accounts(world), to_snapshot(world.panel)
    world.panel.users = {}
    world.one_pass()
    assert suspensions(world) == ["users_gone"]
    world.ledger.report("alice", gib(2))
    world.one_pass()
    assert accounts(world) == before
    assert world.bridge.store.usage.total_bytes("alice") == gib(5), "usage is recorded all the same"
    world.restart()
    assert suspensions(world) == ["users_gone"]
    restore_snapshot(world.panel, snapshot)
    world.one_pass()
    assert suspensions(world) == []
    assert world.panel.get_user("alice")["data_limit"] == gib(5)
    assert [each for each in kinds(world) if each.startswith("doubt")] == ["doubt_over", "doubt"]
    assert "deleted" not in kinds(world)


def test_users_who_appear_on_a_panel_in_doubt_are_not_adopted(world):
    world.panel.users = {}
    world.one_pass()
    world.panel.create_user("erin", data_limit=gib(1))
    world.ledger.report("erin", gib(9))
    writes = list(world.transport.writes)
    world.one_pass()
    assert world.bridge.store.accounts.get("erin") is None
    assert world.transport.writes == writes


def test_everybody_created_anew_at_once_is_a_panel_that_moved(world):
    before = accounts(world)
    world.clock.advance(days=1)
    for user in world.panel.users.values():
        user.created_at = world.clock()
    world.one_pass()
    assert suspensions(world) == ["users_recreated"]
    assert accounts(world) == before


def test_a_user_who_is_read_by_itself_is_not_compared_with_an_earlier_sample(world):
    world.clock.advance(days=1)
    world.panel.users["alice"].created_at = world.clock()
    world.one_pass()
    assert suspensions(world) == []
    before = accounts(world)
    for user in world.panel.users.values():
        user.created_at = world.clock()
    world.bridge.settler._intake._evaluated_at.clear()  # as after a start
    world.run(world.bridge.settler.settle("bob", None, read_at=UNREAD_AT))
    assert suspensions(world) == ["users_recreated"]
    assert accounts(world) == before


def test_a_reset_is_refused_in_words_while_the_panel_is_in_doubt(world):
    world.panel.users = {name: user for name, user in world.panel.users.items() if name == "alice"}
    world.one_pass()
    assert suspensions(world) == ["users_gone"]
    with pytest.raises(PanelSuspendedError, match="rebase --panel default"):
        world.run(world.bridge.actions.reset_user("alice", actor="root"))
    assert world.panel.get_user("alice")["used_traffic"] == gib(1)


def test_one_user_who_is_deleted_is_deleted(world):
    world.panel.delete_user("bob")
    world.one_pass()
    assert suspensions(world) == []
    assert world.bridge.store.accounts.get("bob") is None


def test_the_panels_own_removal_of_expired_users_is_no_doubt(world):
    for name in NAMES[:3]:
        world.panel.modify_user(name, {"expire": int(world.clock().timestamp()) - 60})
    world.panel.review()
    world.one_pass()
    for name in NAMES[:3]:
        world.panel.delete_user(name)
    world.one_pass()
    assert suspensions(world) == []
    assert [each.username for each in accounts(world)] == ["dave"]


def test_many_changes_at_once_bring_about_one_sample(world):
    for number in range(20):
        world.panel.create_user(f"user{number:02}", data_limit=gib(10))
        world.ledger.report(f"user{number:02}", gib(1))
    world.one_pass()
    for number in range(5):
        world.panel.delete_user(f"user{number:02}")
    asked = []
    get_users = world.bridge.panel.get_users

    async def counting(names):
        asked.append(len(names))
        return await get_users(names)

    object.__setattr__(world.bridge.panel, "get_users", counting)
    world.one_pass()
    assert suspensions(world) == []
    assert len(asked) == 2


def test_other_panels_go_on(tmp_path):
    world = PanelsWorld(tmp_path, "two")
    try:
        for name in NAMES:
            world.create("default", name)
            world.create("two", name)
            world.ledger.report(name, 1)
            world.ledger.report(f"two/{name}", 1)
        world.look(2)
        world.panels["default"].users = {}
        world.look()
        world.ledger.report("two/alice", gib(3))
        world.ledger.report("alice", gib(3))
        world.look()
        assert world.shown("two") == ("active", pytest.approx(7, abs=1e-6))
        assert world.bridge("default").store.suspension.text
        assert world.bridge("two").store.suspension.text is None
        assert world.account("default", "alice").quota_bytes == gib(10)
    finally:
        world.close()


class TestWentBack:
    """A backup of the panel's database is put in its place."""

    def use(self, world):
        for name in NAMES[:3]:
            world.panel.use_traffic(name, gib(2))
            world.ledger.report(name, gib(1))
        world.one_pass()

    @pytest.mark.parametrize("was_reset", [False, True])
    def test_no_quota_moves_and_nothing_is_forgiven(self, world, was_reset):
        """Dave used nothing since the backup: that no reset of all users came is proved by him."""
        if was_reset:
            for name in NAMES:
                world.panel.reset_user(name)
                world.panel.use_traffic(name, gib(1))
            world.one_pass()
        snapshot = to_snapshot(world.panel)
        self.use(world)
        before = accounts(world)
        restore_snapshot(world.panel, snapshot)
        world.one_pass()
        assert suspensions(world) == ["went_back"]
        after = {each.username: each for each in accounts(world)}
        for each in before:
            kept = after[each.username]
            assert (kept.quota_bytes, kept.baseline_bytes) == (gib(10), each.baseline_bytes)
        assert "reset" not in kinds(world)[:5] or was_reset
        assert "quota_changed" not in kinds(world)

    def test_it_is_over_once_the_newer_database_is_back(self, world):
        old = to_snapshot(world.panel)
        self.use(world)
        new = to_snapshot(world.panel)
        restore_snapshot(world.panel, old)
        world.one_pass()
        assert suspensions(world) == ["went_back"]
        for name in NAMES[:3]:  # use beyond what was seen does not make it the newer one
            world.panel.use_traffic(name, gib(4))
        world.one_pass()
        assert suspensions(world) == ["went_back"]
        restore_snapshot(world.panel, new)
        world.ledger.report("dave", gib(1))
        world.one_pass()
        assert suspensions(world) == []
        assert world.account("dave").quota_bytes == gib(10)
        assert world.panel.get_user("dave")["data_limit"] == gib(6)

    def test_users_without_panel_traffic_show_it_by_their_limits(self, world):
        for user in world.panel.users.values():
            user.used_traffic = 0
        for name in NAMES:
            world.panel.reset_user(name)
        world.one_pass()
        old = to_snapshot(world.panel)
        for name in NAMES:
            world.ledger.report(name, gib(1))
        world.one_pass()
        restore_snapshot(world.panel, old)
        world.one_pass()
        assert "quota_changed" not in kinds(world)
        assert all(each.quota_bytes == gib(10) for each in accounts(world))


class TestResetAll:
    def test_it_is_one_though_users_have_used_some_traffic_since(self, world):
        world.panel.reset_all("root")
        for name in NAMES:
            world.panel.use_traffic(name, gib(0.1))
        world.one_pass()
        world.one_pass()
        assert suspensions(world) == []
        assert all(
            world.bridge.store.usage.total_bytes(each.key) == each.baseline_bytes
            for each in accounts(world)
        )

    def test_who_was_looked_at_first_does_not_speak_against_the_others(self, world):
        world.panel.reset_all("root")
        for name in NAMES:
            world.panel.use_traffic(name, gib(0.1))
        settler = world.bridge.settler
        for name in NAMES:
            world.clock.advance(seconds=1)
            world.run(settler.settle(name, None, read_at=0.0))
        assert suspensions(world) == []
        assert kinds(world).count("reset") == len(NAMES)


class TestWithoutNotes:
    """Users of whom nothing but limits and statuses tells that the panel went back."""

    @pytest.fixture
    def world(self, tmp_path, store_place):
        opened = World(tmp_path, uses_notes=False, store=store_place.setting)
        for name in NAMES:
            opened.panel.create_user(name, data_limit=gib(10))
            opened.ledger.report(name, gib(2))
        opened.one_pass()
        yield opened
        opened.close()

    def quotas(self, world):
        return [account.quota_bytes for account in accounts(world)]

    @pytest.mark.parametrize("publishes", [1, 10])
    def test_limits_that_were_published_long_ago_are_no_edits(self, world, publishes):
        """8 GiB looks typed; after ten publishes it is not among the remembered ones either."""
        old = to_snapshot(world.panel)
        for _ in range(publishes):
            for name in NAMES:
                world.ledger.report(name, gib(0.59))
            world.one_pass()
        new = to_snapshot(world.panel)
        before = accounts(world)
        restore_snapshot(world.panel, old)
        for _ in range(2):
            world.one_pass()
            assert suspensions(world) == ["went_back"]
        assert self.quotas(world) == [gib(10)] * 4
        assert "quota_changed" not in kinds(world)
        restore_snapshot(world.panel, new)
        world.one_pass()
        assert suspensions(world) == []
        assert [each.published_bytes for each in accounts(world)] == [
            each.published_bytes for each in before
        ]

    def test_a_restart_does_not_forget_them(self, world):
        old = to_snapshot(world.panel)
        for _ in range(9):
            for name in NAMES:
                world.ledger.report(name, gib(0.59))
            world.one_pass()
        world.restart()
        restore_snapshot(world.panel, old)
        world.one_pass()
        assert suspensions(world) == ["went_back"]

    def test_nor_are_those_of_users_who_were_disabled_edited_or_reset_since(self, world):
        old = to_snapshot(world.panel)
        world.ledger.report("alice", gib(9))
        world.panel.modify_user("bob", {"data_limit": gib(20)})
        world.run(world.bridge.actions.reset_user("carol", actor="root"))
        world.one_pass()
        assert world.panel.get_user("alice")["status"] == "disabled"
        assert self.quotas(world) == [gib(10), gib(20), gib(10), gib(10)]
        restore_snapshot(world.panel, old)
        world.one_pass()
        assert suspensions(world) == ["went_back"]
        assert self.quotas(world) == [gib(10), gib(20), gib(10), gib(10)]
        assert world.account("alice").is_disabled_by_us

    @pytest.mark.parametrize("count", [1, 2])
    def test_one_user_or_two_may_have_been_edited(self, world, count):
        for name in NAMES:
            world.ledger.report(name, gib(0.59))
        world.one_pass()
        for name in NAMES[:count]:
            world.panel.modify_user(name, {"data_limit": gib(8)})
        world.one_pass()
        assert suspensions(world) == []
        assert self.quotas(world) == [gib(8)] * count + [gib(10)] * (4 - count)

    def test_quotas_that_an_admin_sets_back_are_edits(self, world):
        for quota in (9, 7):
            for name in NAMES:
                world.panel.modify_user(name, {"data_limit": gib(quota)})
            world.one_pass()
        for name in NAMES:
            world.panel.modify_user(name, {"data_limit": gib(9)})
        world.one_pass()
        assert suspensions(world) == []
        assert self.quotas(world) == [gib(9)] * 4
