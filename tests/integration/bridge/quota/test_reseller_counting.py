"""What is used of a reseller's quota: all traffic of its users, from when it is set on."""

from __future__ import annotations

from datetime import timedelta

import pytest

from marzban_bridge.errors import BridgeError, UnknownResellerError
from marzban_bridge.quota.resellers.reseller import ResellerChange, ResellerReset
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.resellers import add_resellers, kinds, move, set_quota, use, used
from tests.support.bridge.world import World


@pytest.fixture(params=["marzban", "pasarguard"])
def world(tmp_path, request):
    opened = World(tmp_path, kind=request.param)
    add_resellers(opened, "shop", "mart")
    opened.panel.create_user("alice", by="shop", data_limit=gib(100))
    opened.panel.create_user("bob", by="shop")
    yield opened
    opened.close()


@pytest.fixture
def shared(tmp_path, store_place):
    """A world on either engine."""
    opened = World(tmp_path, store=store_place.setting)
    add_resellers(opened, "shop")
    opened.panel.create_user("alice", by="shop", data_limit=gib(100))
    yield opened
    opened.close()


def test_without_a_quota_nothing_is_asked_of_the_panel_or_the_store(world):
    asked, run = list[str](), list[str]()
    answer, db = world.transport.handle_async_request, world.bridge.store._handle.db

    async def note(request):
        asked.append(str(request.url))
        return await answer(request)

    world.transport.handle_async_request = note
    db.set_trace_callback(run.append)
    use(world, "alice", panel=3, external=98)
    world.panel.reset_user("alice")
    world.one_pass()
    db.set_trace_callback(None)
    assert any("PUT" in each for each in map(str, world.transport.writes)), "a limit was published"
    assert asked
    assert not [each for each in asked if "admin=" in each]
    assert run
    assert not [each for each in run if "reseller" in each]
    assert not world.bridge.store.accounts.has("bob")


def test_all_traffic_of_an_admins_users_counts_from_when_the_quota_is_set(world):
    use(world, "alice", panel=3, external=2)
    use(world, "bob", panel=4)
    set_quota(world, "shop", 50)
    assert used(world, "shop") == 0
    use(world, "alice", panel=1, external=2)
    use(world, "bob", panel=4)
    assert used(world, "shop") == 7
    assert world.bridge.store.accounts.has("bob"), "a user without external traffic counts as well"


def test_what_is_used_between_the_quota_and_the_next_look_counts(world):
    """Of users with and without an account, none of whom the bridge has looked at since."""
    use(world, "alice", panel=3, external=2)
    world.panel.use_traffic("alice", gib(7))
    change = ResellerChange(quota_bytes=gib(50))
    world.run(world.bridge.resellers.set("shop", change, actor="test"))
    world.panel.use_traffic("alice", gib(1))
    world.panel.use_traffic("bob", gib(2))
    use(world, "bob", external=1)
    world.one_pass()
    assert used(world, "shop") == 4


def test_what_was_used_before_can_be_stated(world):
    set_quota(world, "shop", 50, used_bytes=gib(20))
    use(world, "alice", external=2)
    assert used(world, "shop") == 22


def test_a_user_created_later_counts_from_its_first_byte(world):
    set_quota(world, "shop", 50)
    world.one_pass()
    world.clock.advance(seconds=5)
    world.panel.create_user("zoe", by="shop")
    use(world, "zoe", panel=3, external=1)
    world.one_pass()
    assert used(world, "shop") == 4


@pytest.mark.parametrize("by", ["button", "bridge", "all"])
def test_resets_of_users_take_nothing_off_it(world, by):
    set_quota(world, "shop", 50)
    use(world, "alice", panel=3, external=2)
    world.clock.advance(seconds=60)
    if by == "button":
        world.panel.reset_user("alice")
    elif by == "all":
        world.panel.reset_all()
    else:
        world.run(world.bridge.actions.reset_user("alice", actor="test"))
    world.one_pass()
    use(world, "alice", panel=1, external=1)
    assert used(world, "shop") == 7


def test_what_was_used_under_one_reseller_stays_with_it_when_a_user_is_moved(world):
    set_quota(world, "shop", 50)
    set_quota(world, "mart", 50)
    use(world, "alice", panel=3, external=2)
    move(world, "alice", "mart")
    world.one_pass()
    use(world, "alice", panel=1, external=1)
    assert (used(world, "shop"), used(world, "mart")) == (5, 2)
    move(world, "alice", "shop")
    world.one_pass()
    use(world, "alice", external=4)
    assert (used(world, "shop"), used(world, "mart")) == (9, 2)


def test_a_user_of_an_admin_without_a_quota_counts_from_its_move_on(world):
    set_quota(world, "mart", 50)
    use(world, "alice", panel=3, external=2)
    move(world, "alice", "mart")
    move(world, "bob", "mart")
    world.one_pass()
    assert used(world, "mart") == 0
    use(world, "alice", panel=1)
    use(world, "bob", panel=2)
    assert used(world, "mart") == 3


def test_what_a_deleted_user_used_stays_used_and_one_of_the_same_name_counts_whole(world):
    set_quota(world, "shop", 50)
    use(world, "alice", panel=3, external=2)
    world.panel.delete_user("alice", by="shop")
    world.one_pass()
    assert used(world, "shop") == 5
    world.clock.advance(minutes=20)
    world.panel.create_user("alice", by="shop")
    use(world, "alice", panel=1, external=1)
    world.one_pass()
    assert used(world, "shop") == 7


def test_one_of_the_same_name_as_another_admins_deleted_user_counts_whole(world):
    """The bridge has not seen the deletion: the name has an account, of the earlier user."""
    set_quota(world, "mart", 50)
    use(world, "alice", panel=3, external=2)
    world.clock.advance(minutes=20)
    world.panel.delete_user("alice", by="shop")
    world.panel.create_user("alice", by="mart")
    use(world, "alice", panel=1)
    assert used(world, "mart") == 1


def test_a_correction_is_taken_back_from_the_reseller_too(world):
    set_quota(world, "shop", 50)
    use(world, "alice", external=2)
    stolen = world.ledger.report("alice", gib(5))
    world.one_pass()
    assert used(world, "shop") == 7
    world.ledger.void(stolen)
    world.one_pass()
    world.one_pass()
    assert used(world, "shop") == 2


def test_a_months_quota_begins_anew_on_the_first_in_utc(world):
    set_quota(world, "shop", 50, reset=ResellerReset.MONTH)
    use(world, "alice", panel=3, external=2)
    now = world.clock()
    first = (now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0)
    world.clock.advance(seconds=(first - now).total_seconds() - 60)
    world.one_pass()
    assert used(world, "shop") == 5
    world.clock.advance(seconds=61)
    world.one_pass()
    reseller = world.bridge.store.resellers.get("shop")
    assert (reseller.used_bytes, reseller.period_started_at) == (0, first.replace(microsecond=0))
    assert kinds(world).count("reseller_reset") == 1


def test_nothing_is_lost_or_counted_twice_where_the_bridge_is_restarted(shared):
    set_quota(shared, "shop", 50)
    for _ in range(3):
        use(shared, "alice", panel=1, external=1)
        shared.restart()
        shared.one_pass()
    assert used(shared, "shop") == 6


def test_a_reset_begins_a_new_period_of_the_reseller_alone(world):
    set_quota(world, "shop", 50)
    use(world, "alice", panel=3, external=2)
    world.bridge.resellers.reset("shop", actor="test")
    world.one_pass()
    assert used(world, "shop") == 0
    assert world.account("alice").sighting.used_bytes == gib(3)
    use(world, "alice", external=1)
    assert used(world, "shop") == 1


def test_the_api_that_resets_an_admins_usage_resets_its_quota_too(world):
    set_quota(world, "shop", 50)
    use(world, "alice", panel=3, external=2)
    world.run(world.bridge.actions.reset_admin("shop", bearer=None, actor="test"))
    world.one_pass()
    assert used(world, "shop") == 0
    use(world, "alice", external=1)
    assert used(world, "shop") == 1


def test_80_and_100_percent_are_told_of_once(world):
    set_quota(world, "shop", 10)
    for _ in range(12):
        use(world, "bob", panel=1)
    assert [kind for kind in kinds(world) if kind.startswith("reseller")] == [
        "reseller_changed",
        "reseller_near",
        "reseller_over",
    ]


def test_an_unknown_admin_and_a_quota_of_nothing_are_refused(world):
    with pytest.raises(UnknownResellerError, match="did you mean shop"):
        set_quota(world, "shopp", 5)
    with pytest.raises(BridgeError, match="--quota"):
        set_quota(world, "shop")
    with pytest.raises(UnknownResellerError, match="no quota"):
        world.bridge.resellers.unset("shop", actor="test")


def test_after_the_quota_is_taken_away_nothing_is_stored_of_it(world):
    set_quota(world, "shop", 50)
    use(world, "alice", panel=3)
    world.bridge.resellers.unset("shop", actor="test")
    use(world, "alice", panel=1, external=1)
    db = world.bridge.store._handle.db
    assert db.execute("SELECT count(*) FROM reseller").fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM reseller_user").fetchone() == (0,)
    set_quota(world, "shop", 50)
    assert used(world, "shop") == 0
