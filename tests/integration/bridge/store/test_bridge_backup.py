"""A copy of the bridge's store, and accounts from an older one put in step with the panel."""

from __future__ import annotations

import stat
from contextlib import closing

import pytest

from marzban_bridge.cli.main import main
from marzban_bridge.errors import StoreError, StoreSuspendedError
from marzban_bridge.store.backup import back_up
from marzban_bridge.store.store import Store
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.world import World


@pytest.fixture
def world(tmp_path):
    opened = World(tmp_path / "bridge")
    for name in ("alice", "bob"):
        opened.panel.create_user(name, by="root", data_limit=gib(10))
    opened.panel.use_traffic("alice", gib(1))
    yield opened
    opened.close()


def copy(world, target):
    return back_up(world.settings.store, target, on_progress=lambda done, total: None)


def restart_on(world, target):
    world.run(world._stack.aclose())
    for each in world.settings.store.parent.glob("bridge.sqlite3-*"):
        each.unlink()
    world.settings.store.write_bytes(target.read_bytes())
    world.restart()


def status_and_limit(world, name):
    user = world.panel.find(name)
    return str(user.status), user.data_limit


def rebase(world):
    return world.run(world.bridges.rebase(actor="test"))


def test_a_copy_holds_what_the_store_holds_and_is_for_its_owner_alone(world, tmp_path):
    world.ledger.report("alice", gib(3))
    world.one_pass()
    made = copy(world, tmp_path / "copy")
    assert made.users == 1
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600
    with closing(Store(tmp_path / "copy", read_only=True)) as store:
        assert store.accounts.get("alice") == world.account("alice")
    with pytest.raises(StoreError, match="overwrites nothing"):
        copy(world, tmp_path / "copy")
    with pytest.raises(StoreError, match="not copied"):
        copy(world, tmp_path / "no" / "copy")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bridge", "copy"]


def test_the_command_copies_beside_a_running_bridge(world, tmp_path, capsys, monkeypatch):
    world.ledger.report("alice", gib(3))
    world.one_pass()
    monkeypatch.setenv("BRIDGE_STORE", str(world.settings.store))
    assert main(["backup", str(tmp_path / "copy")]) == 0
    assert "1 users" in capsys.readouterr().out


def test_a_restored_copy_changes_nobody_until_a_rebase(world, tmp_path):
    world.ledger.report("alice", gib(3))
    world.one_pass()
    copy(world, tmp_path / "copy")
    world.ledger.report("alice", gib(2))
    world.one_pass()
    assert status_and_limit(world, "alice") == ("active", gib(5))
    restart_on(world, tmp_path / "copy")
    with pytest.raises(StoreSuspendedError, match=r"is the backup of .* rebase"):
        world.one_pass()
    assert world.bridge.store.counts()["held"] == 1
    rebase(world)
    world.one_pass()
    assert status_and_limit(world, "alice") == ("active", gib(5))
    assert world.account("alice").quota_bytes == gib(10)
    world.restart()
    world.one_pass()
    assert world.bridge.store.suspended is None


def test_books_that_explain_the_panels_limit_are_kept_to_the_byte(world, tmp_path):
    world.ledger.report("alice", gib(3))
    world.one_pass()
    copy(world, tmp_path / "copy")
    world.ledger.report("alice", gib(2))
    world.one_pass()
    world.ledger.report("alice", 1234567)  # less than a step: not published
    restart_on(world, tmp_path / "copy")
    rebase(world)
    account = world.account("alice")
    assert (account.baseline_bytes, account.quota_bytes) == (0, gib(10))


@pytest.mark.parametrize("is_marked", [True, False], ids=["copy", "snapshot"])
def test_a_reset_since_the_backup_is_not_taken_back(world, tmp_path, is_marked):
    world.ledger.report("alice", gib(8))
    world.one_pass()
    if is_marked:
        copy(world, tmp_path / "copy")
    else:
        world.bridge.store._handle.db.execute(f"VACUUM INTO '{tmp_path}/copy'")
    world.panel.reset_user("alice", by="root")
    world.one_pass()
    world.ledger.report("alice", gib(3))
    world.one_pass()
    assert status_and_limit(world, "alice") == ("active", gib(7))
    restart_on(world, tmp_path / "copy")
    with pytest.raises(StoreSuspendedError):
        world.one_pass()
    rebase(world)
    world.one_pass()
    assert status_and_limit(world, "alice") == ("active", gib(7))
    account = world.account("alice")
    assert account.quota_bytes == gib(10)
    assert world.ledger.total_bytes("alice") - account.baseline_bytes == gib(3)


def test_who_was_shut_out_since_the_backup_stays_so_and_comes_back_with_a_reset(world, tmp_path):
    world.ledger.report("bob", gib(1))
    world.one_pass()
    copy(world, tmp_path / "copy")
    world.ledger.report("bob", gib(9))
    world.one_pass()
    assert status_and_limit(world, "bob")[0] == "disabled"
    restart_on(world, tmp_path / "copy")
    rebase(world)
    world.one_pass()
    assert status_and_limit(world, "bob")[0] == "disabled"
    world.run(world.bridge.actions.reset_user("bob", actor="test"))
    world.one_pass()
    assert status_and_limit(world, "bob") == ("active", gib(10))


def test_ledger_and_store_of_one_moment_forget_what_was_reported_since(world, tmp_path):
    world.ledger.report("alice", gib(3))
    world.one_pass()
    world.run(world.bridges.rollback_check.report_position())
    copy(world, tmp_path / "copy")
    totals, seq, told = dict(world.ledger.totals), world.ledger.seq, dict(world.ledger.positions)
    world.ledger.report("alice", gib(2))
    world.one_pass()
    world.ledger.totals, world.ledger.seq, world.ledger.positions = totals, seq, told
    restart_on(world, tmp_path / "copy")
    rebase(world)
    world.one_pass()
    assert status_and_limit(world, "alice") == ("active", gib(7))
    world.ledger.report("alice", gib(2))  # its sender had it spooled
    world.one_pass()
    assert status_and_limit(world, "alice") == ("active", gib(5))


def test_a_user_the_backup_does_not_know_keeps_what_is_left(world, tmp_path):
    world.one_pass()
    copy(world, tmp_path / "copy")
    world.ledger.report("bob", gib(4))
    world.one_pass()
    restart_on(world, tmp_path / "copy")
    rebase(world)
    world.one_pass()
    assert status_and_limit(world, "bob") == ("active", gib(6))
    (event,) = [
        each
        for each in world.bridge.store.events.newest(username="bob")
        if each.event.kind == "rebuilt"
    ]
    assert "the line in the user's note" in event.event.text
    assert world.account("bob").quota_bytes == gib(10), "and not what was left of it"


def test_a_crash_in_a_rebase_is_repeated_without_harm(world, tmp_path):
    world.ledger.report("alice", gib(8))
    world.ledger.report("bob", gib(2))
    world.one_pass()
    copy(world, tmp_path / "copy")
    world.panel.reset_user("alice", by="root")
    world.one_pass()
    world.ledger.report("alice", gib(3))
    world.one_pass()
    restart_on(world, tmp_path / "copy")
    resume = world.bridge.store.resume
    world.bridge.store.resume = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        rebase(world)
    world.bridge.store.resume = resume
    world.restart()
    rebase(world)
    world.one_pass()
    assert status_and_limit(world, "alice") == ("active", gib(7))
    assert status_and_limit(world, "bob") == ("active", gib(8))


def test_a_store_that_went_another_way_is_told_from_the_newest_although_it_is_as_long(
    world, tmp_path
):
    world.ledger.report("alice", gib(3))
    world.one_pass()
    world.bridge.store._handle.db.execute(f"VACUUM INTO '{tmp_path}/copy'")
    world.ledger.report("alice", gib(2))
    world.one_pass()
    restart_on(world, tmp_path / "copy")
    for number in range(5):  # it works on before the collector can be asked
        world.clock.advance(seconds=1)
        event = world.bridge.store.events.newest()[0].event
        world.bridge.store.events.record(f"u{number}", event, at=world.clock())
    with pytest.raises(StoreSuspendedError, match="older than the position that the collector has"):
        world.one_pass()


def test_an_operator_can_say_that_a_store_is_a_restored_one(world):
    world.ledger.report("alice", gib(3))
    world.one_pass()
    world.panel.modify_user("alice", {"data_limit": gib(5)}, by="root")
    result = world.run(world.bridges.rebase(actor="test", is_restored=True))
    moved = [account for _, account in result]
    assert [each.username for each in moved] == ["alice"]
    assert world.bridge.store.suspended is None
