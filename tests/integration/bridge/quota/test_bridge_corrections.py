"""Bytes that were taken back: who was wrongly cut off is let in, and nothing else is forgiven."""

from __future__ import annotations

from datetime import timedelta

import pytest

from marzban_bridge.errors import StoreSuspendedError
from marzban_bridge.quota.account import FLOOR_BYTES
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World


@pytest.fixture(params=[False, True], ids=["own quota", "shared quota"])
def world(tmp_path, store_place, request):
    opened = World(tmp_path, quotas_span_panels=request.param, store=store_place.setting)
    opened.ledger.now = opened.clock
    opened.panel.create_user("alice", data_limit=gib(10))
    yield opened
    opened.close()


def user(world):
    return world.panel.get_user("alice")


def external(world):
    account = world.account("alice")
    return world.bridge.store.usage.total_bytes("alice") - account.baseline_bytes


def corrected_events(world):
    return [it.event for it in world.bridge.store.events.newest() if it.event.kind == "corrected"]


def look(world):
    world.clock.advance(minutes=11)  # later than any write could still land
    world.one_pass()
    world.panel.review()


@pytest.mark.parametrize("panel_bytes", [gib(4), 0], ids=["limited", "disabled"])
def test_who_was_cut_off_by_a_spike_is_let_in_once_it_is_voided(world, panel_bytes):
    world.ledger.report("alice", gib(1))
    look(world)
    if panel_bytes:
        world.panel.use_traffic("alice", panel_bytes)
    spike = world.ledger.report("alice", gib(103))
    look(world)
    assert user(world)["status"] == ("limited" if panel_bytes else "disabled")
    honest = world.ledger.report("alice", gib(1))
    look(world)
    world.ledger.void(spike)
    look(world)
    assert user(world)["status"] == "active"
    assert user(world)["data_limit"] == gib(8)
    assert external(world) == gib(2)
    assert world.account("alice").quota_bytes == gib(10)
    (event,) = corrected_events(world)
    assert (event.before, event.after, event.actor) == (str(gib(105)), str(gib(2)), "root")
    assert "stolen key): -103 GiB, -103 GiB of it" in event.text
    world.ledger.void(spike, honest)
    look(world)
    assert external(world) == gib(1)


def test_what_was_before_a_reset_is_forgiven_already_and_not_again(world):
    before = world.ledger.report("alice", gib(103))
    look(world)
    world.run(world.bridge.actions.reset_user("alice", actor="root"))
    after = world.ledger.report("alice", gib(3))
    world.ledger.report("alice", gib(2))
    look(world)
    assert external(world) == gib(5)
    world.ledger.void(before)
    look(world)
    assert external(world) == gib(5)
    assert "none of it in the current period" in corrected_events(world)[0].text
    world.ledger.void(after)
    look(world)
    assert external(world) == gib(2)
    assert user(world)["data_limit"] == gib(8)


def test_a_reset_in_the_middle_of_a_spike_parts_it_exactly(world):
    """Reports and the reset are of the same moment: only their numbers tell them apart."""
    first = world.ledger.report("alice", gib(5))
    world.one_pass()
    world.panel.use_traffic("alice", gib(1))
    world.one_pass()
    world.panel.reset_user("alice")
    second = world.ledger.report("alice", gib(4))  # not read before the reset is noticed
    world.run(world.bridge.reconciler.pass_over_all())
    world.ledger.report("alice", gib(1))
    look(world)
    assert external(world) == gib(5)
    world.ledger.void(first, second)
    look(world)
    assert external(world) == gib(1)


def test_nothing_is_applied_twice_and_a_feed_read_anew_changes_nothing(world):
    spike = world.ledger.report("alice", gib(5))
    world.ledger.report("alice", gib(1))
    look(world)
    world.ledger.void(spike)
    look(world)
    for _ in range(2):
        world.run(world.bridges.rebase(actor="root"))
        look(world)
        assert external(world) == gib(1)
    world.ledger.void(spike)
    look(world)
    assert external(world) == gib(1)
    assert len(corrected_events(world)) == 1
    world.ledger.report("alice", gib(1))
    look(world)
    assert external(world) == gib(2)


def test_a_bridge_that_was_away_follows_all_of_it_when_it_is_back(world):
    world.ledger.report("alice", gib(1))
    look(world)
    spikes = [world.ledger.report("alice", gib(20)) for _ in range(3)]
    world.ledger.void(*spikes[:2])
    world.ledger.adjust("alice", -gib(20))
    world.clock.advance(days=30)
    look(world)
    assert external(world) == gib(1)
    assert user(world)["status"] == "active"
    kinds = {it.event.kind for it in world.bridge.store.events.newest()}
    assert kinds == {"adopted", "published", "corrected"}, "it was never cut off"


def test_a_name_that_is_adopted_later_begins_at_what_was_really_used(world):
    spike = world.ledger.report("bob", gib(100))
    world.ledger.report("bob", gib(2))
    world.ledger.void(spike)
    world.panel.create_user("bob", data_limit=gib(10))
    look(world)
    account = world.account("bob")
    assert world.bridge.store.usage.total_bytes("bob") - account.baseline_bytes == gib(2)
    late = world.ledger.report("bob", gib(1))
    look(world)
    world.ledger.void(late)
    look(world)
    account = world.account("bob")
    assert world.bridge.store.usage.total_bytes("bob") - account.baseline_bytes == gib(2)


def test_what_was_reported_while_it_was_nobodys_is_no_users_when_it_is_voided(world):
    spike = world.ledger.report("bob", gib(100))
    look(world)  # nobody's
    world.panel.create_user("bob", data_limit=gib(10))
    look(world)
    world.ledger.report("bob", gib(2))
    look(world)
    world.ledger.void(spike)
    look(world)
    account = world.account("bob")
    assert world.bridge.store.usage.total_bytes("bob") - account.baseline_bytes == gib(2)


def test_an_adjustment_counts_both_ways_and_never_below_nothing(world):
    world.ledger.report("alice", gib(3))
    look(world)
    world.ledger.adjust("alice", gib(1))
    look(world)
    assert external(world) == gib(4)
    assert user(world)["data_limit"] == gib(6)
    world.ledger.adjust("alice", -gib(2), day=world.clock() - timedelta(minutes=5))
    look(world)
    assert external(world) == gib(2)
    world.run(world.bridge.actions.reset_user("alice", actor="root"))
    world.ledger.report("alice", gib(1))
    world.ledger.adjust("alice", -gib(2))  # some of it was of the period before
    look(world)
    assert external(world) == 0
    world.ledger.report("alice", gib(1))
    look(world)
    assert external(world) == gib(1)
    world.ledger.adjust("alice", -gib(1), day=world.clock() - timedelta(days=3))
    look(world)
    assert external(world) == gib(1)


def test_a_correction_waits_for_a_collector_that_does_not_answer_for_it(world):
    spike = world.ledger.report("alice", gib(103))
    world.ledger.report("alice", gib(1))
    look(world)
    world.ledger.void(spike)
    answer, world.ledger._answer_sum = world.ledger._answer_sum, _fails
    with pytest.raises(Exception, match="503"):
        world.one_pass()
    world.ledger._answer_sum = answer
    assert external(world) == gib(104)
    look(world)
    assert external(world) == gib(1)
    assert user(world)["status"] == "active"


def _fails(_request):
    import httpx  # noqa: PLC0415

    return httpx.Response(503)


def test_a_held_user_stays_as_it_is_and_a_void_of_what_a_rebase_took_forgives_nothing(world):
    spike = world.ledger.report("alice", gib(5))
    world.ledger.restart()
    copied = world.ledger.copied()
    world.ledger.report("alice", gib(1))
    world.ledger.void(spike)
    look(world)
    assert external(world) == gib(1)
    world.ledger.restore(copied)  # the void is lost, and so is a report
    world.ledger.report("alice", gib(1))
    look(world)
    assert world.account("alice").is_held
    world.run(world.bridges.rebase(actor="root"))
    look(world)
    assert external(world) == gib(1)
    world.ledger.void(spike)  # again, in the restored ledger
    look(world)
    assert external(world) == gib(1)
    late = world.ledger.report("alice", gib(2))
    look(world)
    world.ledger.void(late)
    look(world)
    assert external(world) == gib(1)


def test_an_admins_usage_follows_too_from_its_own_reset_on(world):
    first = world.ledger.report("alice", gib(3))
    look(world)
    account = world.account("alice")
    assert account.admin_baseline_bytes == 0
    world.run(world.bridge.actions.reset_user("alice", actor="root"))
    world.ledger.report("alice", gib(1))
    look(world)
    world.ledger.void(first)
    look(world)
    assert external(world) == gib(1)
    account = world.account("alice")
    assert world.bridge.store.usage.total_bytes("alice") - account.admin_baseline_bytes == gib(1)


def test_the_floor_is_left_at_once_however_little_is_taken_back(world):
    world.ledger.report("alice", gib(9))
    look(world)
    world.panel.use_traffic("alice", gib(1))
    spike = world.ledger.report("alice", gib(1))
    look(world)
    assert user(world)["data_limit"] in {FLOOR_BYTES, gib(1)}
    world.ledger.void(spike)
    world.one_pass()
    assert user(world)["data_limit"] == gib(1)


def test_of_a_name_that_came_to_count_only_what_counts_is_taken_back(world):
    """`ALICE` counts for alice once the panel was asked, and not what was reported before."""
    world.ledger.report("alice", gib(3))
    unknown = world.ledger.report("ALICE", gib(1))
    look(world)
    counts = world.ledger.report("ALICE", gib(2))
    look(world)
    used = external(world)
    assert used in {gib(5), gib(6)}
    world.ledger.void(counts)
    look(world)
    assert external(world) == used - gib(2)
    world.ledger.void(unknown)
    look(world)
    assert external(world) == gib(3)


def test_an_older_store_put_back_after_a_void_gives_nothing_back_twice(tmp_path):
    world = World(tmp_path)
    world.panel.create_user("alice", data_limit=gib(10))
    world.panel.use_traffic("alice", gib(1))
    spike = world.ledger.report("alice", gib(2))
    world.ledger.report("alice", gib(3))
    look(world)
    world.run(world._stack.aclose())
    copied = world.settings.store.read_bytes()
    world.restart()
    world.ledger.void(spike)
    look(world)
    assert (external(world), user(world)["data_limit"]) == (gib(3), gib(7))
    world.run(world._stack.aclose())
    for each in world.settings.store.parent.glob("bridge.sqlite3-*"):
        each.unlink()
    world.settings.store.write_bytes(copied)
    world.restart()
    with pytest.raises(StoreSuspendedError):
        world.one_pass()
    world.run(world.bridges.rebase(actor="root"))
    look(world)
    assert (external(world), user(world)["data_limit"]) == (gib(3), gib(7))
    assert world.account("alice").quota_bytes == gib(10)
    world.ledger.void(spike)
    look(world)
    assert external(world) == gib(3)
    world.close()


def test_a_user_who_was_made_again_is_given_back_what_was_taken_back_since(world):
    world.ledger.report("alice", gib(1))
    look(world)
    world.panel.delete_user("alice")
    world.panel.create_user("alice", data_limit=gib(10))
    spike = world.ledger.report("alice", gib(5))
    world.ledger.report("alice", gib(2))
    world.ledger.void(spike)
    while world.run(world.bridges.feed_reader.read(wait_seconds=0)):
        pass
    world.clock.advance(seconds=1)
    world.run(world.bridge.reconciler.pass_over_all())
    assert "recreated" in {it.event.kind for it in world.bridge.store.events.newest()}
    look(world)
    goes_on = world.bridge.store.shares_quotas  # whoever joins a shared period joins all of it
    assert external(world) == (gib(3) if goes_on else gib(2))


def test_a_user_who_is_back_is_given_back_what_was_taken_back_meanwhile(world):
    spike = world.ledger.report("alice", gib(5))
    world.ledger.report("alice", gib(1))
    look(world)
    alice = world.panel.find("alice")
    world.panel.users.pop("alice")
    look(world)
    assert world.bridge.store.accounts.get("alice") is None
    world.ledger.void(spike)
    look(world)
    world.panel.users["alice"] = alice
    look(world)
    look(world)
    assert external(world) == gib(1)
