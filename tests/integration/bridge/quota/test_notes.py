"""The last line of a user's note says what the limit beside it means."""

from __future__ import annotations

import pytest

from marzban_bridge.quota.account import MIB, Enforcement
from marzban_bridge.quota.writes.note_line import MAX_NOTE_LENGTH, NoteLine, read_lines, with_line
from marzban_bridge.store.backup import back_up
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World

TEXT = "paid until March\nTelegram: @alice 🌍"


@pytest.fixture
def world(tmp_path):
    opened = World(tmp_path)
    yield opened
    opened.close()


def user(world):
    return world.panel.get_user("alice")


def line_of(world):
    (line,) = read_lines(user(world)["note"], username="alice")
    return line


def begin(world, *, note=TEXT, external_bytes=gib(3)):
    """Have a user of 10 GiB whose external traffic is published."""
    world.panel.create_user("alice", data_limit=gib(10), note=note)
    world.ledger.report("alice", external_bytes)
    world.one_pass()


def store_name(world):
    return world.bridge.store.identity.name[:8]


def test_a_published_limit_says_what_it_means_below_the_admins_text(world):
    begin(world)
    note = user(world)["note"]
    assert note.startswith(
        f"{TEXT}\nQuota 10.00 GiB; 3.00 GiB used elsewhere, so the limit here is 7.00 GiB. [bridge "
    )
    line = line_of(world)
    assert (line.store, line.number) == (store_name(world), 1)
    assert (line.quota_bytes, line.limit_bytes) == (gib(10), user(world)["data_limit"])
    assert (line.external_bytes, line.total_bytes, line.is_disabled) == (gib(3), gib(3), False)


def test_each_write_replaces_the_line_and_counts_on(world):
    begin(world)
    world.ledger.report("alice", gib(2))
    world.one_pass()
    assert (line_of(world).number, line_of(world).limit_bytes) == (2, gib(5))
    world.restart()
    world.ledger.report("alice", gib(2))
    world.one_pass()
    assert (line_of(world).number, line_of(world).limit_bytes) == (3, gib(3))
    assert user(world)["note"].startswith(TEXT)


def test_a_text_that_an_admin_changed_meanwhile_stays(world):
    begin(world)
    other = "pays by card"
    world.panel.modify_user("alice", {"note": user(world)["note"].replace(TEXT, other)})
    world.ledger.report("alice", gib(2))
    world.one_pass()
    assert user(world)["note"].startswith(f"{other}\nQuota 10.00 GiB; 5.00 GiB")


def test_a_note_without_room_is_left_as_it_is_and_the_values_decide(world):
    text = "x" * (MAX_NOTE_LENGTH - 100)
    begin(world, note=text)
    assert (user(world)["note"], user(world)["data_limit"]) == (text, gib(7))
    world.panel.modify_user("alice", {"data_limit": gib(20)})
    world.one_pass()
    assert (world.account("alice").quota_bytes, user(world)["data_limit"]) == (gib(20), gib(17))


def test_a_line_that_no_longer_has_room_goes_because_it_is_about_another_limit(world):
    begin(world)
    line = user(world)["note"].removeprefix(TEXT)
    text = "y" * (MAX_NOTE_LENGTH - len(line))
    world.panel.modify_user("alice", {"note": text + line, "data_limit": gib(50)})
    world.one_pass()
    assert (user(world)["note"], user(world)["data_limit"]) == (text, gib(47))
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(50)


def test_a_disabled_user_is_said_to_be(world):
    begin(world, external_bytes=gib(11))
    assert user(world)["status"] == "disabled"
    assert line_of(world).is_disabled
    assert "so the user is disabled." in user(world)["note"]
    world.panel.modify_user("alice", {"data_limit": gib(40)})
    world.one_pass()
    assert user(world)["status"] == "active"
    assert (line_of(world).is_disabled, line_of(world).quota_bytes) == (False, gib(40))


def test_where_only_the_status_is_written_that_write_has_the_line(tmp_path):
    world = World(tmp_path, enforcement=Enforcement.DISABLE)
    begin(world, external_bytes=gib(11))
    assert (user(world)["status"], user(world)["data_limit"]) == ("disabled", gib(10))
    assert (line_of(world).is_disabled, line_of(world).limit_bytes) == (True, gib(10))
    world.close()


@pytest.mark.parametrize("limit_bytes", [gib(7) - 20 * MIB, gib(20), gib(1.5) + 123])
def test_another_limit_beside_the_newest_line_is_the_admins(world, limit_bytes):
    begin(world)
    world.panel.modify_user("alice", {"data_limit": limit_bytes})
    world.one_pass()
    assert world.account("alice").quota_bytes == limit_bytes
    assert line_of(world).quota_bytes == limit_bytes


def test_a_limit_that_was_published_lately_is_heard_when_it_is_set_again(world):
    """By the values alone it may come from a dialog that was opened before (decision 0004)."""
    begin(world, external_bytes=gib(3) + 777)
    published_before = user(world)["data_limit"]
    world.ledger.report("alice", gib(2))
    world.one_pass()
    world.panel.modify_user("alice", {"data_limit": published_before})
    world.one_pass()
    assert world.account("alice").quota_bytes == published_before


def test_a_dialog_that_was_opened_before_the_last_write_sets_no_quota(world):
    begin(world, external_bytes=gib(3.5))
    opened = user(world)
    world.ledger.report("alice", gib(2))
    world.one_pass()
    world.panel.modify_user("alice", {"note": opened["note"], "data_limit": gib(6.5)})
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(10)
    assert user(world)["data_limit"] == gib(4.5)


def test_a_new_limit_in_a_dialog_that_was_opened_before_is_heard(world):
    begin(world)
    opened = user(world)
    world.ledger.report("alice", gib(2))
    world.one_pass()
    world.panel.modify_user("alice", {"note": opened["note"], "data_limit": gib(30)})
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(30)


def test_the_quota_that_the_line_shows_is_still_the_quota_when_it_is_typed(world):
    begin(world)
    world.panel.modify_user("alice", {"data_limit": gib(10)})
    world.one_pass()
    assert (world.account("alice").quota_bytes, user(world)["data_limit"]) == (gib(10), gib(7))


def test_nothing_is_written_only_for_the_note(world):
    begin(world)
    world.panel.modify_user("alice", {"note": TEXT})
    writes = list(world.transport.writes)
    world.ledger.report("alice", 5 * MIB)
    world.one_pass()
    world.one_pass()
    assert world.transport.writes == writes
    assert user(world)["note"] == TEXT


@pytest.mark.parametrize(
    "garbled", [("q10737418240", "q99999999999"), ("Quota", "Qu"), (" t", " ")]
)
def test_a_line_that_was_changed_is_none_and_the_values_decide(world, garbled):
    begin(world)
    world.panel.modify_user("alice", {"note": user(world)["note"].replace(*garbled)})
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(10)
    world.panel.modify_user("alice", {"data_limit": gib(20)})
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(20)


def test_a_write_that_this_store_has_not_made_yet_holds_the_user(world):
    begin(world)
    newer = NoteLine(
        store=store_name(world),
        number=7,
        place="elsewhere",
        quota_bytes=gib(50),
        limit_bytes=gib(44),
        external_bytes=gib(6),
        total_bytes=gib(6),
    )
    note = with_line(user(world)["note"], newer, username="alice")
    world.panel.modify_user("alice", {"note": note, "data_limit": gib(44)})
    world.one_pass()
    account = world.account("alice")
    assert (account.is_held, account.quota_bytes) == (True, gib(10))
    assert user(world)["data_limit"] == gib(44)
    (event,) = [
        each.event for each in world.bridge.store.events.newest() if each.event.kind == "conflict"
    ]
    assert "write 7 of this store, which knows of 1" in event.text
    assert "rebase --restored" in event.text


def test_notes_are_left_alone_where_the_setting_says_so(tmp_path):
    world = World(tmp_path, uses_notes=False)
    begin(world)
    assert (user(world)["note"], user(world)["data_limit"]) == (TEXT, gib(7))
    world.close()


def test_a_line_of_before_the_notes_were_left_alone_says_nothing(tmp_path):
    world = World(tmp_path)
    begin(world)
    note = user(world)["note"]
    world.close()
    without = World(tmp_path, panel=world.panel, ledger=world.ledger, uses_notes=False)
    without.ledger.report("alice", gib(2))
    without.one_pass()
    assert (user(without)["note"], user(without)["data_limit"]) == (note, gib(5))
    without.one_pass()
    assert without.account("alice").quota_bytes == gib(10)
    without.close()
    again = World(tmp_path, panel=world.panel, ledger=world.ledger)
    again.one_pass()
    assert again.account("alice").quota_bytes == gib(10)
    again.close()


def test_a_store_that_was_rebased_under_another_name_knows_its_lines(world):
    begin(world)
    before = store_name(world)
    world.bridge.store.identity.renew()
    assert store_name(world) != before
    world.one_pass()
    assert user(world)["data_limit"] == gib(7)
    world.ledger.report("alice", gib(2))
    world.one_pass()
    assert world.account("alice").quota_bytes == gib(10)
    assert (line_of(world).store, line_of(world).number) == (store_name(world), 2)


def test_a_plan_that_fired_is_no_edit_beside_the_line_of_before(world):
    plan = {
        "data_limit": gib(50),
        "expire": 0,
        "add_remaining_traffic": True,
        "fire_on_either": False,
    }
    begin(world)
    world.panel.modify_user("alice", {"next_plan": plan})
    world.panel.use_traffic("alice", gib(7))
    world.one_pass()
    world.panel.fire_next_plan("alice")
    for _ in range(3):
        world.one_pass()
        assert world.account("alice").quota_bytes == gib(50)


def test_release_takes_the_line_out(world):
    begin(world)
    assert [was_written for _, _, was_written in _release(world)] == [True]
    assert (user(world)["note"], user(world)["data_limit"]) == (TEXT, gib(10))
    assert [was_written for _, _, was_written in _release(world)] == [False]


def test_release_takes_the_line_out_where_the_limit_is_the_quota_already(world):
    begin(world, note="")
    world.run(world.bridge.actions.reset_user("alice", actor="root"))
    assert (user(world)["data_limit"], line_of(world).limit_bytes) == (gib(10), gib(10))
    assert [was_written for _, _, was_written in _release(world)] == [True]
    assert not user(world)["note"]


def _release(world):
    async def release():
        return [each async for each in world.bridges.release()]

    return world.run(release())


def test_a_restored_store_takes_what_it_missed_from_newer_lines(world, tmp_path):
    """By the values the quota would be the backup's, and what was used since be forgiven."""
    begin(world)
    copy = tmp_path / "copy.sqlite3"
    back_up(world.settings.store, copy, on_progress=lambda *_: None)
    world.panel.modify_user("alice", {"data_limit": gib(30)})
    world.ledger.report("alice", gib(5))
    world.one_pass()
    assert (line_of(world).quota_bytes, user(world)["data_limit"]) == (gib(30), gib(22))
    baseline_bytes, number = world.account("alice").baseline_bytes, line_of(world).number
    world.run(world._stack.aclose())
    for each in world.settings.store.parent.glob("bridge.sqlite3*"):
        each.unlink()
    copy.rename(world.settings.store)
    world.restart()
    world.run(world.bridges.rebase(actor="root"))
    account = world.account("alice")
    assert (account.quota_bytes, account.baseline_bytes) == (gib(30), baseline_bytes)
    assert account.write_number == number
    writes = list(world.transport.writes)
    world.one_pass()
    assert world.transport.writes == writes
