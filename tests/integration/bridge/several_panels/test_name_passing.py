"""From which byte on a name counts for its user: not before the user was there, and all since."""

from __future__ import annotations

import pytest

from tests.support.bridge.bridge_builders import gib


@pytest.fixture
def world(opened):
    return opened("two", "three")


def test_what_is_reported_after_a_users_deletion_is_its_duplicates(world):
    for panel in ("default", "two"):
        world.create(panel)
    world.ledger.report("alice", gib(5))
    world.ledger.report("two/alice", gib(1))
    world.look(2)
    world.panels["default"].delete_user("alice")
    world.look()
    world.ledger.report("alice", gib(2))
    world.look(2)
    assert world.external("two") == gib(3), "1 by its own name, 2 since the deletion"
    assert world.shown("two") == ("active", 7)


def test_what_is_reported_while_the_next_panel_is_down_is_not_lost(world):
    world.create("default")
    world.create("two")
    world.ledger.report("alice", gib(5))
    world.look(2)
    world.panels["default"].delete_user("alice")
    world.transports["two"].is_down = True
    world.look()
    world.ledger.report("alice", gib(2))
    world.look(2)
    world.transports["two"].is_down = False
    world.look(2)
    assert world.external("two") == gib(2)


def test_a_panel_that_was_down_has_its_user_charged_from_the_release_on(world):
    """Panel two's bob has the name until it is deleted; panel three was never asked for one."""
    for panel in ("two", "three"):
        world.create(panel, "bob")
    world.ledger.report("bob", gib(5))
    world.look(3)
    world.transports["three"].is_down = True
    world.panels["two"].delete_user("bob")
    world.look()
    world.ledger.report("bob", gib(1))
    world.look(3)
    world.transports["three"].is_down = False
    world.look(2)
    assert world.external("three", "bob") == gib(1)


@pytest.mark.parametrize("has_account", [False, True])
def test_the_first_panels_user_does_not_pay_for_the_duplicate_whose_name_it_gets(
    world, has_account
):
    world.create("two", "bob")
    world.ledger.report("bob", gib(9))
    world.look(3)
    world.create("default", "bob")
    if has_account:
        world.ledger.report("default/bob", gib(1))
    world.look(2)
    world.panels["two"].delete_user("bob")
    world.look()
    world.ledger.report("bob", gib(2))
    world.look(2)
    assert world.external("default", "bob") == (gib(3) if has_account else gib(2))


@pytest.mark.parametrize("owner", ["default", "two"])
def test_a_user_who_was_not_shown_for_a_while_has_its_name_back(world, owner):
    """An empty panel of one user is no doubt: its user is taken for deleted, until it is back."""
    duplicate = "three"
    for panel in (owner, duplicate):
        world.create(panel, "bob")
        world.clock.advance(seconds=5)
    world.ledger.report("bob", gib(4))
    world.ledger.report(f"{duplicate}/bob", gib(1))
    world.look(3)
    users = dict(world.panels[owner].users)
    world.panels[owner].users.clear()
    world.look(3)
    world.ledger.report("bob", gib(1))
    world.look(3)
    assert world.external(duplicate, "bob") == gib(2)
    world.panels[owner].users.update(users)
    world.look(12)
    world.ledger.report("bob", gib(2))
    world.look(2)
    assert world.external(owner, "bob") == gib(6), "nothing of what was its duplicate's meanwhile"
    assert world.external(duplicate, "bob") == gib(2)
    world.restart()
    world.look(2)
    assert (world.external(owner, "bob"), world.external(duplicate, "bob")) == (gib(6), gib(2))


@pytest.mark.parametrize("other", ["default", "three"])
def test_a_name_stays_with_its_owner_when_another_panel_deletes_a_duplicate(world, other):
    """Bob of panel two has the name; the duplicate is reported by its panel's name alone."""
    world.create("two", "bob")
    world.ledger.report("bob", gib(3))
    world.look(3)
    world.create(other, "bob")
    world.ledger.report(f"{other}/bob", gib(1))
    world.look(2)
    world.panels[other].delete_user("bob")
    world.look(2)
    world.ledger.report("bob", gib(2))
    world.look(2)
    assert not world.account("two", "bob").is_held
    assert world.external("two", "bob") == gib(5)


def test_what_was_kept_for_a_deleted_user_is_not_forgiven_to_its_duplicate(world):
    """Another spelling's bytes stay with panel two's user; the first panel's has none of them."""
    world.create("two", "bob")
    world.ledger.report("BOB", gib(4))
    world.look(6)
    world.create("two", "BOB")
    world.ledger.report("bob", gib(1))
    world.look(3)
    assert world.external("two", "bob") == gib(5)
    world.create("default", "bob")
    world.ledger.report("default/bob", gib(1))
    world.look(3)
    world.panels["two"].delete_user("bob")
    world.look(2)
    assert world.external("default", "bob") == gib(1)


def test_a_name_with_a_panel_counts_though_that_panel_once_did_not_have_the_name_alone(world):
    """The first panel was asked for `alice` when only panel two had her."""
    world.create("two")
    world.ledger.report("alice", gib(1))
    world.look(3)
    world.create("default")
    world.ledger.report("default/alice", gib(5))
    world.look(2)
    assert world.external("default") == gib(5)
    assert world.external("two") == gib(1)


def test_what_is_reported_between_a_users_creation_and_the_first_look_counts(world):
    world.ledger.report("bob", gib(50))
    world.look(3)
    world.create("two", "bob")
    world.ledger.report("bob", gib(2))
    world.look(3)
    assert world.external("two", "bob") == gib(2), "nothing of the 50, and all of the 2"


def test_what_was_reported_before_a_panel_was_added_is_no_use_of_its_users(opened):
    world = opened("two", configured=("default",))
    world.create("two", "bob")
    world.ledger.report("bob", gib(9))
    world.look(2)
    world.restart(("default", "two"))
    world.ledger.report("bob", gib(1))
    world.look(3)
    assert world.external("two", "bob") == gib(1)


def test_a_correction_of_what_was_reported_before_a_name_passed_changes_nothing_after(world):
    for panel in ("default", "two"):
        world.create(panel)
    before = world.ledger.report("alice", gib(5))
    world.ledger.report("two/alice", gib(1))
    world.look(2)
    world.panels["default"].delete_user("alice")
    world.look()
    after = world.ledger.report("alice", gib(2))
    world.look(2)
    world.ledger.void(before)
    world.look(2)
    assert world.external("two") == gib(3)
    world.ledger.void(after)
    world.look(2)
    assert world.external("two") == gib(1)


def test_a_correction_before_the_name_passed_is_not_taken_twice(world):
    world.create("two", "bob")
    first = world.ledger.report("bob", gib(4))
    world.look(3)
    world.ledger.void(first)
    world.look(2)
    assert world.external("two", "bob") == 0
    world.create("three", "bob")
    world.panels["two"].delete_user("bob")
    world.look()
    world.ledger.report("bob", gib(3))
    world.look(3)
    assert world.external("three", "bob") == gib(3)


def test_another_ledger_has_names_begin_where_it_stands(world):
    world.ledger.report("bob", gib(50))
    world.look(3)
    world.ledger.ledger_id = "ledger-2"
    world.ledger.totals.clear()
    world.ledger.report("bob", gib(1))
    world.run(world.bridges.rebase(actor="test"))
    world.create("two", "bob")
    world.look(3)
    assert world.external("two", "bob") == 0


def test_a_store_of_an_earlier_version_has_an_unknown_name_begin_where_it_is(world):
    """Such a store says that a panel does not have a name, and not what was reported then."""
    world.create("two", "bob")
    world.ledger.report("bob", gib(50))
    world.look(3)
    world.create("default", "bob")
    world.ledger.report("default/bob", gib(2))
    store = world.bridge("default").store
    with store._handle.transaction():
        store._handle.db.execute(
            "DELETE FROM meta WHERE key LIKE 'denied:%' OR key LIKE 'released:%'"
        )
    world.look(3)
    assert world.external("default", "bob") == 0
