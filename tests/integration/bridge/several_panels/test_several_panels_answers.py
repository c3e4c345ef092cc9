"""What docs/several-panels.md answers under "What happens when", where no other test shows it."""

from __future__ import annotations

import contextlib

import pytest

from marzban_bridge.simulator.snapshot import restore_snapshot, to_snapshot
from tests.support.bridge.bridge_builders import gib

NAMES = tuple(f"user{number}" for number in range(6))


def crowd(world):
    """Create users of the same names on two panels, with traffic on each and reported."""
    for name in NAMES:
        for panel in ("default", "two"):
            world.create(panel, name)
            world.clock.advance(seconds=1.5)
            world.use(panel, 1, name)
        world.ledger.report(name, gib(2))
        world.ledger.report(f"two/{name}", gib(1))
    world.look(3)


def used_and_quota(world, panel):
    """Return what each user has used and of what quota, in GiB."""
    return {
        (round((world.external(panel, name) + it.sighting.used_bytes) / gib(1), 3), it.quota_bytes)
        for name in NAMES
        for it in [world.account(panel, name)]
    }


def resets(world, panel):
    return [path for _, path in world.transports[panel].writes if path.endswith("/reset")]


@pytest.mark.parametrize("spans", [False, True], ids=["apart", "spanning"])
class TestPanelsThatLie:
    """A panel that is empty, restored or moved holds up none of the others."""

    def test_an_empty_panel_changes_no_quota_no_usage_and_no_name(self, opened, spans):
        world = opened("two", spans=spans)
        crowd(world)
        before = used_and_quota(world, "default"), used_and_quota(world, "two")
        users = dict(world.panels["default"].users)
        world.panels["default"].users.clear()
        world.look(4)
        assert "are missing" in world.bridge("default").store.suspension.text
        world.panels["default"].users.update(users)
        world.look(4)
        assert world.bridge("default").store.suspension.text is None
        assert (used_and_quota(world, "default"), used_and_quota(world, "two")) == before
        for name in NAMES:
            world.ledger.report(name, gib(1))
        world.look(2)
        assert {world.bridges.find(name)[0].panel_settings.name for name in NAMES} == {"default"}
        assert used_and_quota(world, "default") == {((6 if spans else 4), gib(10))}
        assert used_and_quota(world, "two") == {((6 if spans else 2), gib(10))}

    def test_a_restored_panel_resets_nobody_anywhere_until_it_is_accepted(self, opened, spans):
        world = opened("two", spans=spans)
        crowd(world)
        snapshot = to_snapshot(world.panels["default"])
        for name in NAMES:
            world.use("default", 0.5, name)
            world.ledger.report(name, gib(1))
        world.look(3)
        before = used_and_quota(world, "two")
        restore_snapshot(world.panels["default"], snapshot)
        world.look(3)
        assert "in an earlier state" in world.bridge("default").store.suspension.text
        assert used_and_quota(world, "two") == before, "the other panel goes on as it was"
        assert resets(world, "two") == resets(world, "default") == []
        for name in NAMES:
            world.use("two", 0.25, name)
        world.look(2)
        assert {round(used, 3) for used, _ in used_and_quota(world, "two")} == {
            round(used + 0.25, 3) for used, _ in before
        }
        world.run(world.bridge("default").panel_rebase.apply(actor="test"))
        world.look(3)
        assert world.bridge("default").store.suspension.text is None
        assert resets(world, "two") == resets(world, "default") == []
        assert {quota for _, quota in used_and_quota(world, "default")} == {gib(10)}
        used = {round(used, 3) for used, _ in used_and_quota(world, "default")}
        assert used == ({6.25} if spans else {4}), "what the backup lacks is forgiven, 0.5 GiB"

    def test_a_panel_moved_to_another_address_and_database_goes_on(self, opened, tmp_path, spans):
        world = opened("two", spans=spans)
        crowd(world)
        before = used_and_quota(world, "default"), used_and_quota(world, "two")
        for user in world.panels["two"].users.values():
            user.created_at = user.created_at.replace(microsecond=0)
        world.run(world._stack.aclose())
        world._stack = contextlib.AsyncExitStack()
        text = (tmp_path / "panels.toml").read_text()
        moved = text.replace("http://two.test", "https://moved.test:8443")
        settings = world.configure(("default", "two"), spans=spans)
        (tmp_path / "panels.toml").write_text(moved)
        world.configure = lambda _names, **_given: settings
        world.bridges = world.open(("default", "two"), spans=spans)
        world.look(3)
        assert [world.bridge(panel).store.suspension.text for panel in world.panels] == [None, None]
        assert (used_and_quota(world, "default"), used_and_quota(world, "two")) == before
        assert resets(world, "two") == []


class TestWordsOnAQuota:
    """Who has the last word on a shared quota."""

    @pytest.fixture
    def world(self, opened):
        world = opened("two", spans=True)
        for panel in world.panels:
            world.create(panel)
            world.use(panel, 1)
            world.clock.advance(seconds=5)
        world.look(3)
        return world

    def quotas(self, world):
        return {world.account(panel).quota_bytes for panel in world.panels}

    def test_the_edit_that_is_seen_last_is_the_quota(self, world):
        world.panels["two"].modify_user("alice", {"data_limit": gib(30)})
        world.look(2)
        world.panels["default"].modify_user("alice", {"data_limit": gib(20)})
        world.look(2)
        assert self.quotas(world) == {gib(20)}

    @pytest.mark.parametrize("seen_last", ["default", "two"])
    def test_of_two_edits_between_two_looks_the_one_seen_last_is_not_the_one_made_last(
        self, world, seen_last
    ):
        """Marzban 0.8.4 tells nobody when a user was edited."""
        for panel, limit in (("default", 30), ("two", 20)):
            world.panels[panel].modify_user("alice", {"data_limit": gib(limit)})
        order = sorted(world.panels, key=lambda panel: panel == seen_last)
        for panel in order:
            world.run(world.bridge(panel).reconciler.pass_over_all())
        world.look(3)
        assert self.quotas(world) == {gib(30) if seen_last == "default" else gib(20)}
        assert len(world.events("default", "quota_changed")) >= 1

    def test_a_purchase_that_is_entered_on_two_panels_counts_once(self, world):
        for panel in world.panels:
            world.panels[panel].modify_user("alice", {"data_limit": gib(20)})
        world.look(4)
        assert self.quotas(world) == {gib(20)}
        assert [world.shown(panel)[1] for panel in world.panels] == [19, 19]
        world.look(2)
        assert self.quotas(world) == {gib(20)}
