"""Users whose names differ in case only, and reports that spell a name otherwise than the panel."""

from __future__ import annotations

import pytest

from marzban_bridge.errors import UserNotFoundError
from marzban_bridge.panels.users import UserUpdate
from marzban_bridge.reconcile.work_queue import Urgency
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.webhook_delivery import deliver
from tests.support.bridge.world import World


@pytest.fixture
def world(tmp_path, store_place):
    opened = World(tmp_path, store=store_place.setting)
    yield opened
    opened.close()


@pytest.fixture
def panels(opened):
    return opened


def external(world, username):
    account = world.bridge.store.accounts.get(username)
    if account is None:
        return None
    return world.bridge.store.usage.total_bytes(username) - account.baseline_bytes


def events(world, kind):
    found = world.bridge.store.events.newest(limit=1000)
    return [each.event.text for each in found if each.event.kind == kind]


def unknown(world):
    return sorted(each.username for each in world.bridge.store.unknown_names.all())


def limit(world, username):
    return world.panel.get_user(username)["data_limit"] / gib(1)


def test_two_users_whose_names_differ_in_case_have_an_account_each(world):
    for name, quota in (("Ma_Case", 10), ("ma_case", 20)):
        world.panel.create_user(name, data_limit=gib(quota))
    world.ledger.report("Ma_Case", gib(3))
    world.ledger.report("ma_case", gib(4))
    world.one_pass()
    assert (limit(world, "Ma_Case"), limit(world, "ma_case")) == (7, 16)
    world.panel.reset_user("ma_case")
    deliver(world, world.panel.take_webhooks())
    world.one_pass()
    assert (limit(world, "Ma_Case"), limit(world, "ma_case")) == (7, 20)


def test_another_spelling_counts_for_the_only_user_from_its_first_byte(world):
    world.panel.create_user("Alice", data_limit=gib(10))
    world.ledger.report("ALICE", gib(1))
    world.one_pass()
    assert limit(world, "Alice") == 9
    world.ledger.report("alice", gib(2))
    world.ledger.report("ALICE", gib(1))
    world.one_pass()
    assert limit(world, "Alice") == 6
    assert unknown(world) == []
    assert len(events(world, "name_matched")) == 2


def test_a_name_that_may_be_two_users_is_unknown_and_says_how_to_report_them(world):
    for name in ("Alice", "alice"):
        world.panel.create_user(name, data_limit=gib(10))
    world.ledger.report("ALICE", gib(4))
    world.one_pass()
    assert (limit(world, "Alice"), limit(world, "alice")) == (10, 10)
    assert unknown(world) == ["ALICE"]
    (text,) = events(world, "orphan")
    assert "report it as Alice or as alice" in text
    world.panel.delete_user("alice")
    world.clock.advance(seconds=7200)
    world.one_pass()
    assert limit(world, "Alice") == 10, "what was reported while it was nobody's is not charged"
    world.ledger.report("ALICE", gib(1))
    world.one_pass()
    assert limit(world, "Alice") == 9
    assert unknown(world) == []


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_user_of_exactly_the_name_takes_it_over_and_what_was_counted_stays(world, is_announced):
    world.panel.create_user("alice", data_limit=gib(10))
    world.ledger.report("ALICE", gib(2))
    world.ledger.report("alice", gib(1))
    world.one_pass()
    assert limit(world, "alice") == 7
    world.panel.take_webhooks()
    world.panel.create_user("ALICE", data_limit=gib(30))
    if is_announced:
        deliver(world, world.panel.take_webhooks())
        world.run(world.bridge.reconciler._settle_batch(Urgency.CROSSING))
        assert external(world, "ALICE") == 0
    world.one_pass()
    (text,) = events(world, "name_parted")
    assert "the 2.00 GiB until now stay with alice" in text
    world.ledger.report("ALICE", gib(5))
    world.one_pass()
    assert (limit(world, "alice"), limit(world, "ALICE")) == (7, 25)
    world.panel.reset_user("alice")
    world.panel.reset_user("ALICE")
    deliver(world, world.panel.take_webhooks())
    world.one_pass()
    assert (limit(world, "alice"), limit(world, "ALICE")) == (10, 30)


def test_a_name_that_only_a_padding_database_takes_for_a_users_is_nobodys(world):
    """MariaDB finds `usr1` for `usr1 `: it was adopted anew, its limit taken for its quota, each pass.

    The intake refuses such names now; stores of before have them.
    """
    world.panel.create_user("usr1", data_limit=gib(10))
    world.ledger.report("usr1", gib(2))
    world.ledger.report("usr1 ", gib(3))
    for _ in range(3):
        world.one_pass()
        assert limit(world, "usr1") == 8
    assert world.account("usr1").quota_bytes == gib(10)
    assert unknown(world) == ["usr1 "]


@pytest.mark.parametrize("ask", ["get_user", "reset_user", "update"])
def test_the_name_in_an_answer_is_compared_with_the_one_asked_for(world, ask):
    world.panel.create_user("usr1", data_limit=gib(10))
    world.panel.use_traffic("usr1", gib(1))
    panel = world.bridge.panel
    calls = {
        "get_user": lambda: panel.get_user("usr1 "),
        "reset_user": lambda: panel.reset_user("usr1 "),
        "update": lambda: panel.update_user(UserUpdate(username="usr1 ", data_limit_bytes=1)),
    }
    with pytest.raises(UserNotFoundError):
        world.run(calls[ask]())
    user = world.panel.get_user("usr1")
    assert (user["data_limit"], user["used_traffic"]) == (gib(10), gib(1)), "nothing was written"


def test_a_third_user_leaves_a_decision_as_it_is(world):
    world.panel.create_user("alice", data_limit=gib(10))
    world.ledger.report("ALICE", gib(2))
    world.one_pass()
    world.panel.create_user("Alice", data_limit=gib(10))
    world.ledger.report("ALICE", gib(1))
    world.one_pass()
    assert limit(world, "alice") == 7
    assert world.bridge.store.accounts.get("Alice") is None


@pytest.mark.parametrize("has_parted", [False, True])
def test_a_rebase_on_another_ledger_leaves_whose_a_name_is(world, has_parted):
    world.panel.create_user("alice", data_limit=gib(10))
    world.ledger.report("ALICE", gib(2))
    world.one_pass()
    if has_parted:
        world.panel.create_user("ALICE", data_limit=gib(20))
        world.one_pass()
        world.ledger.report("ALICE", gib(3))
        world.one_pass()
    world.ledger.ledger_id = "ledger-2"
    world.ledger.totals.clear()
    world.ledger.seq = 0
    world.ledger.runs.clear()
    world.ledger.restart()
    world.ledger.report("ALICE", gib(1))
    world.run(world.bridges.rebase(actor="test"))
    world.one_pass()
    assert limit(world, "alice") == 8
    world.ledger.report("ALICE", gib(1))
    world.one_pass()
    if has_parted:
        assert (limit(world, "alice"), limit(world, "ALICE")) == (8, 16)
    else:
        assert limit(world, "alice") == 7


def test_an_action_on_another_spelling_is_about_the_user_it_counts_for(world):
    world.panel.create_user("alice", data_limit=gib(10))
    world.ledger.report("ALICE", gib(2))
    world.one_pass()
    bridge, name = world.bridges.find("ALICE")
    world.run(bridge.actions.reset_user(name, actor="root"))
    assert limit(world, "alice") == 10


class TestSeveralPanels:
    """A name alone is first told apart by its spelling, then by the order of the panels."""

    def test_a_later_panels_exact_user_goes_before_an_earlier_ones_other_spelling(self, panels):
        world = panels("two", "three")
        world.create("default", "alice")
        world.create("three", "Alice")
        world.ledger.report("Alice", gib(1))
        world.look(3)
        assert world.external("default", "alice") is None
        assert world.external("three", "Alice") == gib(1)
        assert world.bridge("default").store.unknown_names.all() == []

    def test_another_spelling_is_found_on_a_later_panel_from_its_first_byte(self, panels):
        world = panels("two", "three")
        world.create("two", "alice")
        world.ledger.report("ALICE", gib(1))
        world.look(4)
        assert world.external("two", "alice") == gib(1)
        world.ledger.report("two/ALICE", gib(2))
        world.look(2)
        assert world.external("two", "alice") == gib(3)
        assert world.shown("two", "alice") == ("active", 7)

    def test_two_spellings_on_two_panels_are_two_users(self, panels):
        world = panels("two")
        world.create("default", "alice")
        world.create("two", "Alice")
        world.ledger.report("ALICE", gib(1))
        world.look(3)
        (text,) = [
            each.event.text
            for each in world.bridge("default").store.events.newest()
            if each.event.kind == "orphan"
        ]
        assert "report it as alice or as two/Alice" in text
        world.ledger.report("two/ALICE", gib(2))
        world.look(2)
        assert world.external("two", "Alice") == gib(2)
        assert world.external("default", "alice") is None

    def test_a_panels_new_user_takes_over_what_is_reported_for_its_panel_only(self, panels):
        world = panels("two")
        world.create("default", "alice")
        world.create("two", "alice")
        world.ledger.report("ALICE", gib(1))
        world.ledger.report("two/ALICE", gib(2))
        world.look(2)
        world.create("two", "ALICE")
        world.look(2)
        world.ledger.report("two/ALICE", gib(3))
        world.look(2)
        assert world.external("two", "alice") == gib(2)
        assert world.external("two", "ALICE") == gib(3)
        assert world.external("default", "alice") == gib(1)

    def test_only_users_of_one_spelling_share_a_quota(self, panels):
        world = panels("two", spans=True)
        world.create("default", "bob", limit=10)
        world.create("two", "BOB", limit=20)
        world.use("two", 9, "BOB")
        world.ledger.report("bob", gib(3))
        world.ledger.report("BOB", gib(4))
        world.look(3)
        assert world.shown("default", "bob") == ("active", 7)
        assert world.shown("two", "BOB") == ("active", 16)

    def test_another_spelling_of_a_shared_name_is_the_shared_ones(self, panels):
        world = panels("two", spans=True)
        for panel in ("default", "two"):
            world.create(panel, "bob", limit=10)
        world.ledger.report("BOB", gib(4))
        world.look(3)
        assert world.shown("default", "bob") == ("active", 6)
        assert world.shown("two", "bob") == ("active", 6)
        world.create("two", "BOB", limit=20)
        world.look(3)
        world.ledger.report("BOB", gib(5))
        world.look(3)
        assert world.shown("default", "bob") == ("active", 6)
        assert world.shown("two", "bob") == ("active", 6)
        assert world.shown("two", "BOB") == ("active", 15)
