"""A panel that is restored from an older dump: no period begins, and no button is pressed."""

from __future__ import annotations

import pytest

from marzban_bridge.quota.balance import balance
from marzban_bridge.reconcile.work_queue import Urgency
from marzban_bridge.simulator.snapshot import restore_snapshot, to_snapshot
from tests.support.bridge.bridge_builders import gib

BOTH = ("default", "two")


@pytest.fixture
def opened(opened_in_file):
    return opened_in_file


def books(world, names):
    """Return what may not change: quota, period and where it began."""
    return {
        (panel, name): (account.quota_bytes, account.shared_period, account.period_started_at)
        for panel in BOTH
        for name in names
        for account in (world.account(panel, name),)
    }


def used(world, panel, name):
    store, account = world.bridge(panel).store, world.account(panel, name)
    return balance(account, total_bytes=store.usage.total_bytes(name)).used_bytes


def fill(world, count, amount, *, was_reset):
    """Have so many users on both panels, each with so much used on both."""
    names = [f"user{number}" for number in range(count)]
    for name in names:
        for panel in BOTH:
            world.create(panel, name, limit=10)
            world.ledger.report(f"{panel}/{name}", 1)
            world.use(panel, amount, name)
    world.look(3)
    if was_reset:
        for name in names:
            world.panels["default"].reset_user(name)
        world.look(4)
        for name in names:
            world.use("default", amount, name)
        world.look(2)
    return names


@pytest.mark.parametrize("uses_notes", [True, False], ids=["notes", "no notes"])
@pytest.mark.parametrize(
    ("panel", "was_reset", "is_reported"),
    [
        ("default", False, False),
        ("default", True, True),
        ("two", False, True),
        ("two", False, False),
    ],
)
@pytest.mark.parametrize("amount", [0.01, 3], ids=["little", "much"])
@pytest.mark.parametrize("count", [1, 3])
def test_an_older_dump_begins_no_period_and_presses_no_button(
    opened, count, amount, was_reset, panel, uses_notes, is_reported
):
    world = opened("two", spans=True)
    world.restart(uses_notes=uses_notes)
    names = fill(world, count, amount, was_reset=was_reset)
    snapshot = to_snapshot(world.panels[panel])
    world.clock.advance(minutes=10)
    for name in names:
        world.use(panel, amount / 5, name)
        if is_reported:
            world.ledger.report(name, gib(amount / 5))
    world.look(3)
    for each in BOTH:
        world.transports[each].writes.clear()
    before, sums = books(world, names), {name: used(world, "two", name) for name in names}
    newest = to_snapshot(world.panels[panel])
    restore_snapshot(world.panels[panel], snapshot)
    world.look(3)
    other = "two" if panel == "default" else "default"
    assert books(world, names) == before
    assert world.bridge(panel).store.suspension.text
    assert all(method != "POST" for method, _ in world.transports[other].writes)
    restore_snapshot(world.panels[panel], newest)
    world.look(3)
    assert books(world, names) == before
    assert world.bridge(panel).store.suspension.text is None
    assert {name: used(world, "two", name) for name in names} == sums
    assert all(method != "POST" for method, _ in world.transports[other].writes)


def test_a_panel_that_was_moved_begins_no_period_and_nobody_anew(opened):
    world = opened("two", spans=True)
    names = fill(world, 3, 1, was_reset=False)
    world.look(2)
    before = books(world, names)
    for user in world.panels["two"].users.values():
        user.created_at = user.created_at.replace(microsecond=0)
        user.online_at = user.online_at.replace(microsecond=0)
    world.look(3)
    assert books(world, names) == before
    assert all(used(world, panel, name) == gib(2) + 2 for panel in BOTH for name in names)


def test_a_reset_of_all_users_is_still_one_everywhere(opened):
    world = opened("two", spans=True)
    names = fill(world, 3, 1, was_reset=False)
    world.panels["default"].reset_all("root")
    world.use("default", 0.1, names[0])
    world.look(4)
    assert [used(world, "two", name) for name in names] == [gib(0.1), 0, 0]
    assert world.panels["two"].get_user(names[1])["used_traffic"] == 0


def other_of(panel):
    return "two" if panel == "default" else "default"


def accept(world, panel):
    assert "in an earlier state" in world.bridge(panel).store.suspension.text
    world.run(world.bridge(panel).panel_rebase.apply(actor="test"))


def sums(world, names):
    return {used(world, panel, name) for panel in BOTH for name in names}


@pytest.mark.parametrize("is_down", [True, False], ids=["other down", "other up"])
@pytest.mark.parametrize("panel", BOTH)
def test_what_an_accepted_dump_lacks_is_forgiven_at_once_on_every_panel(opened, panel, is_down):
    world = opened("two", spans=True)
    names = fill(world, 3, 1, was_reset=False)
    snapshot = to_snapshot(world.panels[panel])
    for name in names:
        world.use(panel, 0.5, name)
    world.look(3)
    restore_snapshot(world.panels[panel], snapshot)
    world.look(3)
    world.transports[other_of(panel)].is_down = is_down
    accept(world, panel)
    assert sums(world, names) == {gib(2) + 2}
    for name in names:
        world.use(panel, 0.25, name)
    world.look(2)
    assert sums(world, names) == {gib(2.25) + 2}


def test_who_is_let_in_by_an_accepted_dump_is_let_in_on_every_panel_without_a_pass(opened):
    world = opened("two", spans=True)
    names = fill(world, 3, 1, was_reset=False)
    snapshot = to_snapshot(world.panels["default"])
    for name in names:
        world.use("default", 8, name)
    world.look(3)
    for name in names:
        world.panels["two"].review()
        assert world.shown("two", name)[0] != "active"
    restore_snapshot(world.panels["default"], snapshot)
    world.look(2)
    queue = world.bridge("two").queue
    queue.clear()
    accept(world, "default")
    assert set(queue.get(Urgency.CROSSING, limit=10).since_seconds) == set(names)


def test_what_a_dump_lacks_of_a_period_that_has_ended_is_not_forgiven_in_the_next(opened):
    world = opened("two", spans=True)
    names = fill(world, 3, 1, was_reset=False)
    snapshot = to_snapshot(world.panels["two"])
    for name in names:
        world.use("two", 0.5, name)
    world.look(3)
    world.transports["two"].is_down = True
    for name in names:
        world.panels["default"].reset_user(name)
    world.look(2)
    for name in names:
        world.use("default", 2, name)
    restore_snapshot(world.panels["two"], snapshot)
    world.transports["two"].is_down = False
    world.look(3)
    accept(world, "two")
    world.look(3)
    assert sums(world, names) == {gib(2)}
    assert all(world.panels["two"].get_user(name)["used_traffic"] == 0 for name in names)


@pytest.mark.parametrize("is_ledger_first", [True, False], ids=["ledger first", "panel first"])
@pytest.mark.parametrize("panel", BOTH)
def test_a_dump_and_a_ledger_that_lost_something_are_accepted_in_any_order(
    opened, panel, is_ledger_first
):
    world = opened("two", spans=True)
    names = fill(world, 3, 1, was_reset=False)
    snapshot = to_snapshot(world.panels[panel])
    for name in names:
        world.use(panel, 0.5, name)
        world.ledger.report(name, gib(1))
    world.look(3)
    restore_snapshot(world.panels[panel], snapshot)
    world.look(2)
    for name in names:
        world.ledger.seq += 1
        world.ledger.totals[name] = (gib(0.5), gib(0.5), world.ledger.seq)
    world.look(2)
    if is_ledger_first:
        world.run(world.bridges.rebase(actor="test"))
    accept(world, panel)
    assert sums(world, names) == {gib(3) + 2}
    if not is_ledger_first:
        world.run(world.bridges.rebase(actor="test"))
    assert sums(world, names) == {gib(3) + 2}
    world.look(3)
    assert sums(world, names) == {gib(3) + 2}


@pytest.mark.parametrize("panel", BOTH)
def test_what_is_forgiven_of_a_panel_is_no_part_of_its_share_when_quotas_part(opened, panel):
    world = opened("two", spans=True)
    names = fill(world, 3, 1, was_reset=False)
    snapshot = to_snapshot(world.panels[panel])
    for name in names:
        world.use(panel, 0.5, name)
        world.ledger.report(f"{other_of(panel)}/{name}", gib(1))
    world.look(3)
    restore_snapshot(world.panels[panel], snapshot)
    world.look(2)
    accept(world, panel)
    world.look(2)
    world.restart(spans=False)
    world.look(2)
    for name in names:
        assert used(world, panel, name) == gib(1) + 1
        assert used(world, other_of(panel), name) == gib(2) + 1
