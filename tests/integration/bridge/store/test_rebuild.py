"""A lost store is rebuilt from the lines in the users' notes."""

from __future__ import annotations

import pytest

from marzban_bridge.cli.main import main
from marzban_bridge.errors import BridgeError, StoreSuspendedError
from marzban_bridge.quota.writes.note_line import NoteLine, with_line
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World


@pytest.fixture
def world(tmp_path):
    opened = World(tmp_path)
    yield opened
    opened.close()


def lose_store(world):
    world.run(world._stack.aclose())
    for each in world.settings.store.parent.glob("bridge.sqlite3*"):
        each.unlink()
    world.restart()


def rebuild(world, *, is_carried_out=True, from_store=None):
    ((_, found),) = world.run(
        world.bridges.rebuild(from_store=from_store, is_carried_out=is_carried_out, actor="root")
    )
    return {each.account.username: each for each in found.accounts}, found.stores


def shown(world, name):
    user = world.panel.get_user(name)
    return user["status"], user["data_limit"]


def begin(world):
    """Have three users: one published, one disabled, one whose period began at 90 GiB."""
    for name in ("alice", "bob", "carol", "dave"):
        world.panel.create_user(name, data_limit=gib(10), note="paid")
    world.panel.use_traffic("alice", gib(1))
    world.ledger.report("alice", gib(3))
    world.ledger.report("bob", gib(11))
    world.ledger.report("carol", gib(90))
    world.ledger.report("dave", 1)
    world.one_pass()
    world.run(world.bridge.actions.reset_user("carol", actor="root"))
    world.ledger.report("carol", gib(4))
    world.one_pass()
    assert shown(world, "alice") == ("active", gib(7))
    assert shown(world, "bob")[0] == "disabled"
    assert shown(world, "carol") == ("active", gib(6))
    return {name: world.account(name) for name in ("alice", "bob", "carol", "dave")}


FIELDS = (
    "quota_bytes",
    "baseline_bytes",
    "published_bytes",
    "is_disabled_by_us",
    "write_number",
    "seen_total_bytes",
)


def assert_same_books(world, before, *, names=("alice", "bob", "carol")):
    for name in names:
        after = world.account(name)
        for field in FIELDS:
            assert getattr(after, field) == getattr(before[name], field), (name, field)


def test_a_lost_store_is_rebuilt_to_the_byte(world):
    before = begin(world)
    lose_store(world)
    with pytest.raises(StoreSuspendedError):
        world.one_pass()
    rebuilt, stores = rebuild(world)
    assert {name: each.has_line for name, each in rebuilt.items()} == {
        "alice": True,
        "bob": True,
        "carol": True,
        "dave": False,
    }
    assert [each.users for each in stores] == [3]
    assert_same_books(world, before)
    writes = list(world.transport.writes)
    world.one_pass()
    assert world.transport.writes == writes, "what was rebuilt is as it should be"
    world.panel.modify_user("bob", {"data_limit": gib(40)})
    world.ledger.report("alice", gib(2))
    world.one_pass()
    assert shown(world, "bob") == ("active", gib(29))
    assert shown(world, "alice") == ("active", gib(5))
    assert world.account("alice").quota_bytes == gib(10)


def test_the_lines_are_this_stores_after_the_next_write(world):
    begin(world)
    lose_store(world)
    rebuild(world)
    world.ledger.report("alice", gib(2))
    world.one_pass()
    note = world.panel.get_user("alice")["note"]
    assert note.count("[bridge ") == 1
    assert f"[bridge {world.bridge.store.identity.name[:8]}:2@" in note
    assert note.startswith("paid\n")


def test_a_dry_run_changes_nothing(world):
    begin(world)
    lose_store(world)
    rebuilt, _ = rebuild(world, is_carried_out=False)
    assert rebuilt["alice"].account.quota_bytes == gib(10)
    assert list(world.bridge.store.accounts.all()) == []
    assert world.bridge.store.suspended
    with pytest.raises(StoreSuspendedError):
        world.one_pass()


def test_a_limit_that_an_admin_set_while_the_store_was_lost_is_the_quota(world):
    begin(world)
    lose_store(world)
    world.panel.modify_user("alice", {"data_limit": gib(25)})
    rebuild(world)
    assert world.account("alice").quota_bytes == gib(25)
    world.one_pass()
    assert shown(world, "alice") == ("active", gib(22))


def test_a_user_without_a_line_keeps_its_limit_as_the_quota(world):
    begin(world)
    world.panel.modify_user("alice", {"note": "no line"})
    lose_store(world)
    rebuild(world)
    account = world.account("alice")
    assert (account.quota_bytes, account.baseline_bytes) == (gib(7), gib(3))


def test_a_ledger_that_has_less_than_the_line_holds_the_user(world):
    begin(world)
    lose_store(world)
    world.ledger.totals["alice"] = (gib(2), gib(2), world.ledger.seq)
    rebuild(world)
    account = world.account("alice")
    assert (account.is_held, account.quota_bytes) == (True, gib(10))
    assert (account.baseline_bytes, account.seen_total_bytes) == (0, gib(3))
    world.run(world.bridges.rebase(actor="root"))
    assert world.account("alice").baseline_bytes == -gib(1)


def test_a_user_who_is_only_in_the_panel_is_rebuilt_from_its_line_too(world):
    """The ledger may be lost as well: then nobody was reported."""
    begin(world)
    lose_store(world)
    world.ledger.totals.clear()
    rebuilt, _ = rebuild(world)
    assert rebuilt["bob"].account.is_disabled_by_us


def test_each_users_only_line_is_taken_whichever_store_it_is_of(world):
    before = begin(world)
    lose_store(world)
    rebuild(world)
    world.ledger.report("alice", gib(2))
    world.one_pass()
    before["alice"] = world.account("alice")
    lose_store(world)
    _, stores = rebuild(world)
    assert sorted(each.users for each in stores) == [1, 2]
    assert_same_books(world, before)


def test_of_two_lines_in_a_note_none_is_taken_until_it_is_said_whose(world):
    begin(world)
    names = [world.bridge.store.identity.name[:8], "0abcdef0"]
    other = NoteLine(
        store=names[1],
        number=3,
        place="trial",
        quota_bytes=gib(7),
        limit_bytes=gib(4),
        external_bytes=gib(3),
        total_bytes=gib(3),
    )
    note = with_line(world.panel.get_user("alice")["note"], other, username="alice")
    world.panel.modify_user("alice", {"note": note})
    lose_store(world)
    with pytest.raises(BridgeError, match=r"alice has lines of several stores: .*--store"):
        rebuild(world)
    assert list(world.bridge.store.accounts.all()) == []
    rebuild(world, from_store=names[0])
    assert world.account("alice").quota_bytes == gib(10)


def test_rebuild_beside_a_running_bridge_is_refused_in_words(world, monkeypatch, capsys):
    """The store is another process's; nothing was asked of the panel."""
    begin(world)
    for name, value in (
        ("MARZBAN_URL", "http://127.0.0.1:9"),
        ("MARZBAN_USERNAME", "root"),
        ("MARZBAN_PASSWORD", "a-panel-password"),
        ("BRIDGE_STORE", str(world.settings.store)),
    ):
        monkeypatch.setenv(name, value)
    assert main(["rebuild"]) == 1
    assert "in use" in capsys.readouterr().err


def test_a_rebuilt_user_is_not_forgiven_twice_what_an_earlier_period_took(world):
    """The line says how much was used in the period, and not by which reports."""
    begin(world)
    world.ledger.now = world.clock
    lose_store(world)
    with pytest.raises(StoreSuspendedError):
        world.one_pass()
    rebuild(world)
    world.one_pass()
    seqs = [each.seq for each in world.ledger.reports if each.username == "carol"]
    world.ledger.void(*seqs)
    world.one_pass()
    account = world.account("carol")
    assert world.ledger.total_bytes("carol") - account.baseline_bytes == gib(4)
    late = world.ledger.report("carol", gib(1))
    world.one_pass()
    world.ledger.void(late)
    world.one_pass()
    account = world.account("carol")
    assert world.ledger.total_bytes("carol") - account.baseline_bytes == gib(4)


def release(world):
    async def released():
        return [each async for each in world.bridges.release()]

    return world.run(released())


@pytest.mark.parametrize("is_rewritten", [False, True])
def test_release_after_a_rebuild_leaves_no_line_in_any_note(world, is_rewritten):
    """Whether the line is still the lost store's or already this one's."""
    begin(world)
    lose_store(world)
    rebuild(world)
    if is_rewritten:
        world.ledger.report("alice", gib(2))
        world.ledger.report("carol", gib(2))
        world.one_pass()
        world.run(world.bridges.rebase(actor="root", is_restored=True))
    release(world)
    for name in ("alice", "bob", "carol", "dave"):
        assert world.panel.get_user(name)["note"] == "paid", name
        assert shown(world, name) == ("active", gib(10))
    writes = list(world.transport.writes)
    release(world)
    assert world.transport.writes == writes


def test_release_after_two_rebuilds_leaves_no_line_of_either_store(world):
    begin(world)
    lose_store(world)
    rebuild(world)
    world.ledger.report("alice", gib(2))
    world.one_pass()
    lose_store(world)
    rebuild(world)
    release(world)
    for name in ("alice", "bob", "carol", "dave"):
        assert world.panel.get_user(name)["note"] == "paid", name
        assert shown(world, name) == ("active", gib(10))
