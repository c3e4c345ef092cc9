"""`BRIDGE_QUOTAS_SPAN_PANELS` switched on and off, with what else happens meanwhile."""

from __future__ import annotations

import pytest

from tests.support.bridge.bridge_builders import gib

PANELS = ("default", "two", "three")


@pytest.fixture(params=[True, False], ids=["notes", "no notes"])
def opened(request, opened):
    def open_world(*names, **options):
        world = opened(*names, **options)
        world.restart(uses_notes=request.param)
        return world

    return open_world


def used(world, panel):
    return world.external(panel) + world.account(panel).sighting.used_bytes


def switch(world, *, spans):
    world.restart(spans=spans)
    world.look(3)


def test_what_is_used_is_not_multiplied_however_often_it_is_switched(opened):
    world = opened("two", "three", spans=True)
    for panel in PANELS:
        world.create(panel, limit=20)
    world.ledger.report("alice", gib(3))
    world.ledger.report("three/alice", gib(1))
    world.use("default", 1)
    world.use("two", 3)
    world.look(3)
    for _ in range(3):
        assert {used(world, panel) for panel in PANELS} == {gib(8)}
        switch(world, spans=False)
        assert [used(world, panel) for panel in PANELS] == [gib(4), gib(3), gib(1)]
        assert world.shown("two") == ("active", 20)
        switch(world, spans=True)


@pytest.mark.parametrize("by_api", [True, False])
def test_the_share_of_each_is_of_the_period_that_a_reset_began(opened, by_api):
    world = opened("two", spans=True)
    for panel in PANELS[:2]:
        world.create(panel, limit=20)
        world.use(panel, 2)
        world.ledger.report(f"{panel}/alice", gib(3))
    world.look(3)
    if by_api:
        world.run(world.bridge("default").actions.reset_user("alice", actor="root"))
    else:
        world.panels["default"].reset_user("alice")
    world.look(3)
    world.ledger.report("alice", gib(1))
    world.ledger.report("two/alice", gib(2))
    world.look(2)
    switch(world, spans=False)
    assert [used(world, panel) for panel in PANELS[:2]] == [gib(1), gib(2)]


def test_a_panel_that_was_down_at_the_reset_carries_it_out_after_the_switch(opened):
    world = opened("two", spans=True)
    for panel in PANELS[:2]:
        world.create(panel, limit=20)
    world.ledger.report("alice", gib(1))
    world.use("default", 2)
    world.use("two", 3)
    world.look(3)
    world.transports["two"].is_down = True
    world.panels["default"].reset_user("alice")
    world.look(2)
    world.ledger.report("two/alice", gib(4))
    world.use("two", 2)
    world.look(2)
    switch(world, spans=False)
    world.transports["two"].is_down = False
    world.look(3)
    assert world.panels["two"].get_user("alice")["used_traffic"] == 0
    assert [used(world, panel) for panel in PANELS[:2]] == [0, gib(6)]
    switch(world, spans=True)
    assert {used(world, panel) for panel in PANELS[:2]} == {gib(6)}


def test_a_name_of_a_later_panel_counts_for_it_once_after_the_switch(opened):
    world = opened("two", spans=True)
    world.create("two", limit=20)
    world.ledger.report("alice", gib(2))
    world.ledger.report("default/alice", gib(1))
    world.use("two", 1)
    world.look(3)
    assert used(world, "two") == gib(4)
    switch(world, spans=False)
    assert used(world, "two") == gib(4)
    world.ledger.report("alice", gib(1))
    world.look(2)
    assert used(world, "two") == gib(5)
    switch(world, spans=True)
    assert used(world, "two") == gib(5)


def test_a_user_who_was_deleted_meanwhile_stays_used_and_comes_back_with_nothing(opened):
    world = opened("two", spans=True)
    for panel in PANELS[:2]:
        world.create(panel, limit=20)
    world.ledger.report("alice", gib(1))
    world.use("two", 3)
    world.look(3)
    gone = dict(world.panels["two"].users)
    world.panels["two"].users.clear()
    world.look(2)
    switch(world, spans=False)
    assert used(world, "default") == gib(4)
    world.panels["two"].users.update(gone)
    world.use("two", 1)
    world.look(3)
    assert [used(world, panel) for panel in PANELS[:2]] == [gib(4), gib(1)]
    switch(world, spans=True)
    assert {used(world, panel) for panel in PANELS[:2]} == {gib(5)}


def test_what_was_taken_back_is_not_taken_back_again_by_a_switch(opened):
    world = opened("two", spans=False)
    for panel in PANELS[:2]:
        world.create(panel, limit=20)
    world.ledger.report("two/alice", gib(2))
    wrong = world.ledger.report("alice", gib(3))
    world.ledger.report("alice", gib(5))
    world.look(2)
    world.ledger.void(wrong)
    world.look(2)
    assert [used(world, panel) for panel in PANELS[:2]] == [gib(5), gib(2)]
    for spans in (True, False, True):
        switch(world, spans=spans)
        world.look(2)
    assert {used(world, panel) for panel in PANELS[:2]} == {gib(7)}


def test_a_reset_that_was_begun_before_the_switch_forgives_what_it_was_asked_for(opened):
    world = opened("two", spans=False)
    for panel in PANELS[:2]:
        world.create(panel, limit=20)
    world.ledger.report("alice", gib(2))
    world.ledger.report("two/alice", gib(3))
    world.use("two", 1)
    world.look(2)
    store = world.bridge("two").store
    world.bridge("two").settler.resets.request(
        store.accounts.get("alice"), cause="asked", actor="root"
    )
    world.ledger.report("two/alice", gib(0.5))
    switch(world, spans=True)
    assert {used(world, panel) for panel in PANELS[:2]} == {gib(2.5)}
    assert world.panels["two"].get_user("alice")["used_traffic"] == 0


def test_a_limit_of_the_shared_quota_is_no_quota_of_a_panels_own(opened):
    world = opened("two", spans=True)
    world.create("default", limit=10)
    world.create("two", limit=20)
    world.ledger.report("alice", gib(1))
    world.use("default", 6)
    world.look(3)
    assert world.shown("two") == ("active", pytest.approx(3))
    switch(world, spans=False)
    assert [world.account(panel).quota_bytes for panel in PANELS[:2]] == [gib(10)] * 2
    assert world.shown("two") == ("active", 10)


def test_usage_of_an_admin_is_not_multiplied_either(opened):
    world = opened("two", spans=False)
    for panel in PANELS[:2]:
        world.create(panel, limit=20)
    world.ledger.report("alice", gib(1))
    world.ledger.report("two/alice", gib(2))
    world.use("two", 3)
    world.look(2)
    account = world.account("default")
    before = world.bridge("default").store.usage.total_bytes("alice") - account.admin_baseline_bytes
    for spans in (True, False, True, False):
        switch(world, spans=spans)
    account = world.account("default")
    after = world.bridge("default").store.usage.total_bytes("alice") - account.admin_baseline_bytes
    assert after == before == gib(1)


def test_a_limit_that_was_not_overwritten_yet_is_no_quota_of_a_panels_own(opened):
    """Panel two shows more than what is left, by so little that no write is due."""
    world = opened("two", spans=True)
    for panel in PANELS[:2]:
        world.create(panel, limit=10)
    world.ledger.report("alice", 1)
    world.look(2)
    world.panels["default"].modify_user("alice", {"data_limit": gib(9.99)})
    world.look(3)
    assert world.shown("two") == ("active", 10)
    switch(world, spans=False)
    assert [world.account(panel).quota_bytes for panel in PANELS[:2]] == [gib(9.99)] * 2


def test_a_name_that_was_never_reported_alone_is_placed_when_it_is(opened):
    world = opened("two", spans=True)
    world.create("two", limit=20)
    world.ledger.report("two/alice", gib(2))
    world.look(3)
    switch(world, spans=False)
    world.create("default", limit=20)
    world.ledger.report("alice", gib(1))
    world.look(3)
    assert [used(world, panel) for panel in PANELS[:2]] == [gib(1), gib(2)]
