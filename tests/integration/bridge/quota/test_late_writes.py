"""A PUT that timed out and is carried out later sets no quota and locks nobody out."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest

from marzban_bridge.errors import PanelUnavailableError
from marzban_bridge.quota.writes.open_writes import LATE_WRITE_SECONDS
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.webhook_delivery import deliver
from tests.support.bridge.world import World


@pytest.fixture(params=[True, False], ids=["notes", "no notes"])
def uses_notes(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["own quota", "shared quota"])
def world(tmp_path, request, uses_notes):
    opened = World(tmp_path, quotas_span_panels=request.param, uses_notes=uses_notes)
    yield opened
    opened.close()


def begin(world, *, quota_bytes=gib(100), panel_bytes=0):
    world.panel.create_user("alice", data_limit=quota_bytes)
    world.ledger.report("alice", 1)
    if panel_bytes:
        world.panel.use_traffic("alice", panel_bytes)
    world.one_pass()


def lose_the_write_of(world, external_bytes):
    """Have the write that this report brings about time out."""
    world.ledger.report("alice", external_bytes)
    lose_the_next_write(world)


def lose_the_next_write(world):
    world.transport.delayed_writes = 1
    with pytest.raises(PanelUnavailableError):
        world.one_pass()
    assert world.transport.delayed_writes == 0


def land(world, *, after_seconds=25, newest_first=False):
    """Have what timed out be carried out, and the bridge look."""
    world.clock.advance(seconds=after_seconds)
    assert world.run(world.transport.carry_out_delayed(newest_first=newest_first))
    world.one_pass()


def user(world):
    return world.panel.get_user("alice")


def assert_unchanged(world, *, quota_bytes, external_bytes):
    assert world.account("alice").quota_bytes == quota_bytes
    assert [each.event.kind for each in world.bridge.store.events.newest()].count(
        "quota_changed"
    ) == 0
    assert user(world)["data_limit"] - (quota_bytes - external_bytes) <= gib(5)


@pytest.mark.parametrize("after_seconds", [0, 25, 240])
@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_late_publish_is_not_an_edit(world, after_seconds, is_restarted):
    begin(world)
    lose_the_write_of(world, gib(13.5))
    world.ledger.report("alice", gib(7))
    world.one_pass()
    assert user(world)["data_limit"] == gib(100) - gib(20.5) - 1
    if is_restarted:
        world.restart()
    land(world, after_seconds=after_seconds)
    assert_unchanged(world, quota_bytes=gib(100), external_bytes=gib(20.5) + 1)


@pytest.mark.parametrize("newest_first", [False, True])
def test_several_late_writes_in_any_order_are_no_edits(world, newest_first):
    begin(world)
    for _ in range(4):
        lose_the_write_of(world, gib(10))
        world.clock.advance(seconds=20)
    world.ledger.report("alice", gib(10))
    world.one_pass()
    land(world, newest_first=newest_first)
    assert_unchanged(world, quota_bytes=gib(100), external_bytes=gib(50) + 1)
    assert user(world)["data_limit"] == gib(50) - 1


def test_a_first_try_that_lands_after_the_second_one_was_answered_is_no_edit(world):
    begin(world)
    world.transport.delay_error = httpx.ReadError
    world.ledger.report("alice", gib(13.5))
    world.transport.delayed_writes = 1
    world.one_pass()
    assert user(world)["data_limit"] == gib(100) - gib(13.5) - 1
    world.ledger.report("alice", gib(10))
    world.one_pass()
    land(world)
    assert_unchanged(world, quota_bytes=gib(100), external_bytes=gib(23.5) + 1)


def test_a_write_whose_process_ended_before_the_answer_may_land_after_the_next(world):
    begin(world)
    lose_the_write_of(world, gib(13.5))
    world.restart()
    world.ledger.report("alice", gib(10))
    world.one_pass()
    land(world)
    assert_unchanged(world, quota_bytes=gib(100), external_bytes=gib(23.5) + 1)


def test_a_limit_of_before_a_reset_that_lands_after_it_is_no_quota(world):
    begin(world, quota_bytes=gib(10), panel_bytes=gib(2))
    lose_the_write_of(world, gib(3))
    world.panel.reset_user("alice")
    world.one_pass()
    land(world)
    assert world.account("alice").quota_bytes == gib(10)
    assert user(world)["data_limit"] == gib(10)
    assert user(world)["status"] == "active"


def test_an_edit_that_differs_in_a_byte_is_heard_while_a_write_is_open(world):
    begin(world)
    lose_the_write_of(world, gib(13.5))
    world.panel.modify_user("alice", {"data_limit": gib(100) - gib(13.5)})
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(100) - gib(13.5)


def test_a_save_of_the_dialog_that_shows_a_late_limit_is_no_edit(world):
    begin(world)
    lose_the_write_of(world, gib(13.5) + 123_456_789)
    world.ledger.report("alice", gib(7))
    world.one_pass()
    world.run(world.transport.carry_out_delayed())
    world.panel.edit_in_dialog("alice", note="touched")
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(100)


def test_when_a_write_can_no_longer_land_its_limit_is_an_edit_like_any_other(world):
    begin(world)
    lose_the_write_of(world, gib(13.5))
    world.ledger.report("alice", gib(20))
    world.one_pass()
    world.clock.advance(seconds=LATE_WRITE_SECONDS + 60)
    world.one_pass()
    assert world.account("alice").open_writes == ()
    typed = gib(100) - gib(13.5) - 1
    world.panel.modify_user("alice", {"data_limit": typed})
    world.one_pass()
    assert world.account("alice").quota_bytes == typed


def lose_a_disable(world):
    """Use up the quota of a user without traffic on the panel; the DISABLE times out."""
    begin(world, quota_bytes=gib(10))
    lose_the_write_of(world, gib(11))
    assert user(world)["status"] == "active"


def test_a_late_disable_after_a_reset_locks_nobody_out(world):
    lose_a_disable(world)
    world.run(world.bridge.actions.reset_user("alice", actor="root"))
    land(world)
    assert user(world)["status"] == "active"
    assert user(world)["data_limit"] == gib(10)
    assert world.account("alice").quota_bytes == gib(10)
    assert not world.account("alice").is_disabled_by_us


def test_a_late_disable_after_an_enable_locks_nobody_out(world):
    lose_a_disable(world)
    world.one_pass()
    assert user(world)["status"] == "disabled"
    world.panel.modify_user("alice", {"data_limit": gib(40)})
    world.one_pass()
    assert user(world)["status"] == "active"
    land(world)
    assert user(world)["status"] == "active"
    assert world.account("alice").quota_bytes == gib(40)
    assert user(world)["data_limit"] == gib(29) - 1


def test_a_disable_that_lands_right_before_a_write_of_a_limit_locks_nobody_out(world):
    """The limit that the panel shows with the status is then the later write's."""
    lose_a_disable(world)
    world.panel.modify_user("alice", {"data_limit": gib(40)})
    world.transport.before_next_write = world.transport.carry_out_delayed
    world.one_pass()
    assert user(world)["status"] == "active"
    assert user(world)["data_limit"] == gib(29) - 1
    assert world.account("alice").quota_bytes == gib(40)


def test_a_late_enable_lets_nobody_in_and_is_no_reset(world):
    begin(world, quota_bytes=gib(10))
    world.ledger.report("alice", gib(11))
    world.one_pass()
    assert user(world)["status"] == "disabled"
    world.panel.modify_user("alice", {"data_limit": gib(40)})
    lose_the_next_write(world)
    world.panel.modify_user("alice", {"data_limit": gib(10)})
    world.one_pass()
    assert user(world)["status"] == "disabled"
    baseline_bytes = world.account("alice").baseline_bytes
    land(world)
    account = world.account("alice")
    assert user(world)["status"] == "disabled"
    assert (account.baseline_bytes, account.quota_bytes) == (baseline_bytes, gib(10))
    assert account.is_disabled_by_us


def test_a_late_enable_does_not_undo_what_an_admin_disabled(world):
    begin(world, quota_bytes=gib(10))
    world.ledger.report("alice", gib(11))
    world.one_pass()
    world.panel.modify_user("alice", {"data_limit": gib(40)})
    lose_the_next_write(world)
    world.one_pass()
    assert user(world)["status"] == "active"
    world.panel.modify_user("alice", {"status": "disabled", "data_limit": gib(30)})
    world.one_pass()
    land(world)
    assert user(world)["status"] == "disabled"
    account = world.account("alice")
    assert (account.is_disabled_by_us, account.quota_bytes) == (False, gib(30))


@pytest.mark.parametrize("is_seen_gone", [False, True])
def test_a_write_to_a_user_that_was_deleted_since_sets_no_quota_of_its_successor(
    world, is_seen_gone
):
    begin(world)
    lose_the_write_of(world, gib(13.5))
    world.panel.delete_user("alice")
    if is_seen_gone:
        world.one_pass()
    world.clock.advance(seconds=3)
    world.panel.create_user("alice", data_limit=gib(50))
    world.one_pass()
    land(world)
    assert world.account("alice").quota_bytes == gib(50)


def test_an_admin_who_disables_while_a_disable_is_open_is_heard_where_the_note_tells(
    world, uses_notes
):
    begin(world, quota_bytes=gib(10))
    world.ledger.report("alice", gib(3))
    world.one_pass()
    lose_the_write_of(world, gib(8))
    world.panel.modify_user("alice", {"status": "disabled"})
    world.one_pass()
    assert world.account("alice").is_disabled_by_us is not uses_notes


def test_a_typed_limit_equal_to_one_that_is_open_is_heard_where_the_note_tells(world, uses_notes):
    begin(world)
    lose_the_write_of(world, gib(13.5))
    intended = gib(100) - gib(13.5) - 1
    world.ledger.report("alice", gib(20))
    world.one_pass()
    world.panel.modify_user("alice", {"data_limit": intended})
    world.one_pass()
    assert world.account("alice").quota_bytes == (intended if uses_notes else gib(100))


def test_a_late_disable_gives_a_user_who_was_put_on_hold_meanwhile_back_its_hold(world):
    lose_a_disable(world)
    world.panel.modify_user(
        "alice", {"data_limit": gib(40), "status": "on_hold", "on_hold_expire_duration": 86400}
    )
    world.one_pass()
    land(world)
    assert user(world)["status"] == "on_hold"
    assert user(world)["on_hold_expire_duration"] == 86400
    assert world.account("alice").quota_bytes == gib(40)


def test_what_is_open_is_bounded_by_time_however_often_a_write_fails(world):
    begin(world)
    for _ in range(15):
        lose_the_write_of(world, gib(6))
        world.clock.advance(seconds=60)
    writes = world.account("alice").open_writes
    assert len(writes) <= LATE_WRITE_SECONDS / 60 + 1
    assert max(each.may_land_until for each in writes) <= world.clock() + timedelta(
        seconds=LATE_WRITE_SECONDS
    )


PLAN = {
    "data_limit": gib(20),
    "expire": 0,
    "add_remaining_traffic": True,
    "fire_on_either": True,
}


def test_a_plan_that_fired_before_a_write_landed_is_not_queued_again(world):
    """The write takes along the plan of its moment: the next crossing would give 20 GiB more."""
    begin(world, quota_bytes=gib(10), panel_bytes=gib(2))
    world.panel.modify_user("alice", {"next_plan": PLAN})
    world.one_pass()
    lose_the_write_of(world, gib(3))
    world.panel.fire_next_plan("alice")
    world.one_pass()
    assert (user(world)["next_plan"], world.account("alice").quota_bytes) == (None, gib(20))
    land(world)
    world.one_pass()
    assert (user(world)["next_plan"], user(world)["data_limit"]) == (None, gib(20))
    assert world.account("alice").quota_bytes == gib(20)
    writes = list(world.transport.writes)
    world.one_pass()
    assert world.transport.writes == writes


def test_a_plan_that_was_queued_before_a_write_landed_is_not_lost(world):
    begin(world, quota_bytes=gib(10), panel_bytes=gib(2))
    lose_the_write_of(world, gib(3))
    world.one_pass()
    limit = user(world)["data_limit"]
    world.panel.modify_user("alice", {"next_plan": PLAN})
    world.one_pass()
    land(world)
    world.one_pass()
    assert user(world)["next_plan"] == PLAN
    assert (user(world)["data_limit"], world.account("alice").quota_bytes) == (limit, gib(10))


@pytest.mark.parametrize("panel_bytes", [gib(2), 0])
def test_a_reset_of_ours_that_lands_a_second_time_forgives_nothing(world, panel_bytes):
    begin(world, quota_bytes=gib(10), panel_bytes=panel_bytes)
    world.ledger.report("alice", gib(1))
    world.one_pass()
    world.transport.delayed_writes = 1
    with pytest.raises(PanelUnavailableError):
        world.run(world.bridge.actions.reset_user("alice", actor="root"))
    world.one_pass()
    baseline = world.account("alice").baseline_bytes
    assert baseline == gib(1) + 1
    deliver(world, world.panel.take_webhooks())
    if panel_bytes:
        world.panel.use_traffic("alice", gib(1))
    world.ledger.report("alice", gib(3))
    world.one_pass()
    land(world)
    deliver(world, world.panel.take_webhooks())
    world.one_pass()
    account = world.account("alice")
    used_before = gib(1) if panel_bytes else 0  # what the panel no longer shows stays used
    assert (account.baseline_bytes, account.quota_bytes) == (baseline - used_before, gib(10))
    assert user(world)["data_limit"] == gib(7) - used_before
    assert [each.event.kind for each in world.bridge.store.events.newest()].count("late_reset") == 1
    world.clock.advance(seconds=LATE_WRITE_SECONDS + 1)
    world.one_pass()
    world.panel.reset_user("alice")
    deliver(world, world.panel.take_webhooks())
    world.one_pass()
    assert world.account("alice").baseline_bytes == gib(4) + 1, "an admin's own press is heard"


def test_a_reset_of_ours_that_landed_though_it_was_not_answered_is_one(world):
    """The answer was lost, not the call: what is pressed after that is the admin's."""
    begin(world, quota_bytes=gib(10), panel_bytes=gib(2))
    world.ledger.report("alice", gib(1))
    world.one_pass()
    world.transport.delayed_writes = 1
    with pytest.raises(PanelUnavailableError):
        world.run(world.bridge.actions.reset_user("alice", actor="root"))
    assert world.run(world.transport.carry_out_delayed())
    world.one_pass()
    assert world.account("alice").baseline_bytes == gib(1) + 1
    assert world.account("alice").open_resets == ()
    world.panel.use_traffic("alice", gib(1))
    world.ledger.report("alice", gib(3))
    world.one_pass()
    world.panel.reset_user("alice")
    world.one_pass()
    assert world.account("alice").baseline_bytes == gib(4) + 1


@pytest.mark.parametrize("is_restarted", [False, True])
def test_late_writes_to_most_of_the_users_are_no_restored_panel(world, is_restarted):
    """A panel whose database hung for a minute does that to all writes of the minute."""
    names = [f"user{number}" for number in range(6)]
    for name in names:
        world.panel.create_user(name, data_limit=gib(10))
        world.panel.use_traffic(name, gib(1))
        world.ledger.report(name, gib(1))
    world.one_pass()
    for name in names[:4]:
        world.ledger.report(name, gib(2))
    world.transport.delayed_writes = 4
    while world.transport.delayed_writes:
        with pytest.raises(PanelUnavailableError):
            world.one_pass()
    if is_restarted:
        world.restart()
    world.one_pass()
    for name in names[:4]:
        world.ledger.report(name, gib(1))
    world.one_pass()
    assert {world.panel.get_user(name)["data_limit"] for name in names[:4]} == {gib(6)}
    land(world)
    world.one_pass()
    assert world.bridge.store.counts()["accounts"] == 6
    kinds = [each.event.kind for each in world.bridge.store.events.newest()]
    assert "doubt" not in kinds
    assert "quota_changed" not in kinds
    assert {world.panel.get_user(name)["data_limit"] for name in names[:4]} == {gib(6)}


def note(world):
    return user(world)["note"] or ""


def write_into_note(world, text):
    """Have the admin replace the text of the note, as the dialog shows it: with its line."""
    _, _, line = note(world).rpartition("\n") if "[bridge " in note(world) else ("", "", "")
    world.panel.modify_user("alice", {"note": "\n".join(filter(None, (text, line)))})


def assert_text(world, text, *, uses_notes):
    assert note(world).startswith(text)
    assert note(world).count("[bridge ") == int(uses_notes)
    assert note(world).partition("\nQuota ")[0] == text


def begin_with_note(world, text="paid"):
    world.panel.create_user("alice", data_limit=gib(100), note=text)
    world.ledger.report("alice", gib(1))
    world.one_pass()


def test_what_the_admin_wrote_into_the_note_before_a_write_landed_is_put_back(world, uses_notes):
    begin_with_note(world)
    lose_the_write_of(world, gib(13.5))
    world.one_pass()
    write_into_note(world, "paid until May\nTelegram @alice")
    world.one_pass()
    land(world)
    world.one_pass()
    assert_text(world, "paid until May\nTelegram @alice", uses_notes=uses_notes)
    assert_unchanged(world, quota_bytes=gib(100), external_bytes=gib(14.5))
    writes = list(world.transport.writes)
    world.one_pass()
    assert world.transport.writes == writes


def test_a_note_that_the_admin_emptied_before_a_write_landed_is_empty_again(world, uses_notes):
    begin_with_note(world)
    lose_the_write_of(world, gib(13.5))
    world.panel.modify_user("alice", {"note": ""})
    world.one_pass()
    land(world)
    assert note(world).startswith("Quota 100.00 GiB; " if uses_notes else "")
    assert "paid" not in note(world)


def test_a_text_that_leaves_no_room_for_a_line_is_put_back_without_one(world):
    begin_with_note(world)
    lose_the_write_of(world, gib(13.5))
    world.panel.modify_user("alice", {"note": "long " * 90})
    world.one_pass()
    land(world)
    assert note(world) == "long " * 90
    assert_unchanged(world, quota_bytes=gib(100), external_bytes=gib(14.5))


@pytest.mark.parametrize("is_landed", [False, True])
def test_the_admins_last_word_on_the_note_stands(world, uses_notes, is_landed):
    """Also where the putting back itself is not answered, whether or not it was carried out."""
    begin_with_note(world)
    lose_the_write_of(world, gib(13.5))
    write_into_note(world, "second")
    world.one_pass()
    world.clock.advance(seconds=25)
    world.run(world.transport.carry_out_delayed())
    if not uses_notes:
        world.one_pass()
        assert_text(world, "second", uses_notes=False)
        return
    lose_the_next_write(world)
    assert world.account("alice").lost_text == "second"
    if is_landed:
        world.run(world.transport.carry_out_delayed())
        world.one_pass()
        assert_text(world, "second", uses_notes=True)
        assert world.account("alice").lost_text is None
    write_into_note(world, "third")
    world.one_pass()
    world.one_pass()
    assert_text(world, "third", uses_notes=True)
    if not is_landed:
        land(world)
        assert_text(world, "third", uses_notes=True)


def test_an_edit_of_the_note_back_to_an_earlier_text_is_not_undone(world, uses_notes):
    """A write is open that took just this text along, and it has not landed."""
    begin_with_note(world)
    lose_the_write_of(world, gib(13.5))
    world.one_pass()
    write_into_note(world, "second")
    world.one_pass()
    write_into_note(world, "paid")
    world.one_pass()
    assert_text(world, "paid", uses_notes=uses_notes)


def test_no_text_of_a_note_is_stored_while_no_write_may_replace_it(world):
    begin_with_note(world)
    world.one_pass()
    assert world.account("alice").seen_text is None
    lose_the_write_of(world, gib(13.5))
    world.one_pass()
    world.clock.advance(seconds=LATE_WRITE_SECONDS + 60)
    world.one_pass()
    assert world.account("alice").seen_text is None
    assert world.account("alice").open_writes == ()
