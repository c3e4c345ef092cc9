"""One person on several panels: made anew, reset on several of them, and by whose word."""

from __future__ import annotations

import functools

import pytest

from tests.support.bridge.bridge_builders import gib

BOTH = ("default", "two")


@pytest.fixture
def opened(opened_in_file):
    return functools.partial(opened_in_file, spans=True)


@pytest.fixture
def world(opened):
    return begin(opened("two"))


@pytest.fixture
def world_of_each_store(opened, store_place):
    return begin(opened("two", store=store_place.setting))


def begin(world):
    for panel in BOTH:
        world.create(panel, limit=10)
    world.ledger.report("alice", gib(2))
    world.use("default", 4)
    world.use("two", 3)
    world.look(3)
    assert {used(world, panel) for panel in BOTH} == {gib(9)}
    return world


def used(world, panel):
    return world.external(panel) + world.account(panel).sighting.used_bytes


def resets(world, panel):
    return [path for _, path in world.transports[panel].writes if path.endswith("/reset")]


def carry_out(world, step):
    what, panel = step.split()
    world.clock.advance(seconds=2)
    if what == "delete":
        world.panels[panel].delete_user("alice")
    elif what == "make":
        world.create(panel, limit={"default": 20, "two": 30}[panel])
    else:
        world.look()


ORDERS = {
    "both deleted first": ("delete default", "delete two", "make default", "make two"),
    "the second first": ("delete two", "delete default", "make two", "make default"),
    "one after the other": ("delete default", "make default", "delete two", "make two"),
    "the second after the first": ("delete two", "make two", "delete default", "make default"),
}


@pytest.mark.parametrize("looks", ["", "0", "1", "2", "012"])
@pytest.mark.parametrize("steps", ORDERS.values(), ids=ORDERS)
def test_who_is_made_anew_on_all_panels_begins_with_nothing_whenever_the_bridge_looks(
    world, steps, looks
):
    for number, step in enumerate(steps):
        carry_out(world, step)
        if str(number) in looks:
            world.look(2)
    world.look(3)
    assert [used(world, panel) for panel in BOTH] == [0, 0]
    world.use("default", 1)
    world.use("two", 2)
    world.ledger.report("alice", gib(4))
    world.look(3)
    assert {used(world, panel) for panel in BOTH} == {gib(7)}
    assert {world.account(panel).quota_bytes for panel in BOTH} == {gib(20)}
    assert world.shown("default") == ("active", pytest.approx(14))
    assert world.shown("two") == ("active", pytest.approx(15))


@pytest.mark.parametrize("panel", BOTH)
@pytest.mark.parametrize("looks", [0, 2])
def test_who_is_made_anew_on_one_panel_goes_on_where_the_other_is(world, panel, looks):
    carry_out(world, f"delete {panel}")
    world.look(looks)
    carry_out(world, f"make {panel}")
    world.use(panel, 1)
    world.look(3)
    assert {used(world, each) for each in BOTH} == {gib(10)}
    assert {world.account(each).quota_bytes for each in BOTH} == {
        gib(20) if panel == "default" else gib(10)
    }


def test_what_was_used_since_the_first_was_made_anew_counts_when_all_are(world_of_each_store):
    world = world_of_each_store
    for step in ("delete default", "make default"):
        carry_out(world, step)
    world.look(2)
    world.use("default", 1)
    world.use("two", 0.5)
    world.look(2)
    assert used(world, "default") == gib(10.5)
    for step in ("delete two", "make two"):
        carry_out(world, step)
    world.look(3)
    assert {used(world, panel) for panel in BOTH} == {gib(1.5)}


def test_who_was_made_anew_and_is_gone_again_is_none_of_those_who_are(world):
    for step in ("delete default", "make default"):
        carry_out(world, step)
    world.look(2)
    world.use("default", 1)
    world.look(2)
    for step in ("delete default", "make default", "delete two", "make two"):
        carry_out(world, step)
    world.run(world.bridge("default").reconciler.pass_over_all())
    world.look(3)
    assert {used(world, panel) for panel in BOTH} == {0}
    world.ledger.report("alice", gib(2))
    world.restart(spans=False)
    world.look(3)
    assert [used(world, panel) for panel in BOTH] == [gib(2), 0]


def test_a_reset_after_one_was_made_anew_is_not_undone_when_all_are(world):
    for step in ("delete default", "make default"):
        carry_out(world, step)
    world.look(2)
    world.use("default", 1)
    world.look(2)
    world.panels["default"].reset_user("alice")
    world.look(3)
    world.use("two", 1)
    world.look(2)
    for step in ("delete two", "make two"):
        carry_out(world, step)
    world.look(3)
    assert {used(world, panel) for panel in BOTH} == {gib(1)}


def test_what_an_admin_set_of_the_new_one_stays_its_quota(world):
    for step in ("delete default", "make default"):
        carry_out(world, step)
    world.look(2)
    world.panels["default"].modify_user("alice", {"data_limit": gib(70)})
    world.look(2)
    for step in ("delete two", "make two"):
        carry_out(world, step)
    world.look(3)
    assert {world.account(panel).quota_bytes for panel in BOTH} == {gib(70)}


def reset_while_two_is_down(world):
    world.transports["two"].is_down = True
    world.panels["default"].reset_user("alice")
    world.look(2)


def test_a_panels_own_reset_after_traffic_is_another_one(world_of_each_store):
    world = world_of_each_store
    reset_while_two_is_down(world)
    world.use("default", 2)
    world.ledger.report("alice", gib(1))
    world.look(2)
    world.use("two", 1)
    world.clock.advance(minutes=5)
    world.panels["two"].reset_user("alice")
    world.use("two", 0.5)
    world.transports["two"].is_down = False
    world.look(4)
    assert {used(world, panel) for panel in BOTH} == {gib(0.5)}
    assert len(resets(world, "default")) == 1
    assert resets(world, "two") == []


def test_so_it_is_where_the_following_of_the_first_was_under_way(world):
    async def button():
        world.ledger.report("alice", gib(1))
        await world.bridges.feed_reader.to_end()
        world.panels["two"].reset_user("alice")

    world.panels["default"].reset_user("alice")
    settler = world.bridge("two").settler
    world.run(world.bridge("default").settler.settle("alice", None, read_at=float("-inf")))
    settler.resets.follow(world.account("two"), 1)
    world.run(button())
    world.use("two", 0.5)
    world.look(4)
    assert {used(world, panel) for panel in BOTH} == {gib(0.5)}


def test_without_traffic_in_between_it_is_the_same_reset(world):
    reset_while_two_is_down(world)
    world.clock.advance(minutes=5)
    world.panels["two"].reset_user("alice")
    world.use("two", 1)
    world.transports["two"].is_down = False
    world.look(4)
    assert {used(world, panel) for panel in BOTH} == {gib(1)}
    assert resets(world, "default") == resets(world, "two") == []


def test_buttons_on_both_while_the_bridge_does_not_look_are_one_reset(world):
    for panel in BOTH:
        world.panels[panel].reset_user("alice")
        world.use(panel, 1)
    world.ledger.report("alice", gib(1))
    world.look(4)
    assert resets(world, "default") == resets(world, "two") == []
    assert used(world, "default") == used(world, "two")
    assert used(world, "default") in {gib(2), gib(3)}, "by what was reported before the look"


def test_a_schedule_that_a_panel_carried_out_at_the_same_time_is_the_same_reset(opened):
    world = opened("two")
    for panel in BOTH:
        world.create(panel, data_limit_reset_strategy="day")
        world.use(panel, 2)
    world.ledger.report("alice", gib(1))
    world.look(3)
    world.transports["two"].is_down = True
    world.clock.advance(days=1, minutes=3)
    for panel in BOTH:
        world.panels[panel].reset_periodic()
    world.look(2)
    world.use("default", 1)
    world.ledger.report("alice", gib(2))
    world.look(2)
    world.use("two", 0.5)
    world.transports["two"].is_down = False
    world.look(4)
    assert {used(world, panel) for panel in BOTH} == {gib(3.5)}
    assert resets(world, "default") == resets(world, "two") == []


def test_a_reset_of_a_name_that_has_used_nothing_presses_no_button(world):
    world.panels["default"].reset_user("alice")
    world.look(3)
    assert len(resets(world, "two")) == 1
    for _ in range(3):
        world.bridge("default").store.reset_news.announce(
            [(b"%d" % world.ledger.seq + str(world.clock()).encode(), "alice")],
            at=world.clock(),
            remember_seconds=60,
        )
        world.panels["default"].reset_user("alice")
        world.look(2)
        world.clock.advance(minutes=20)
    assert len(resets(world, "two")) == 1
