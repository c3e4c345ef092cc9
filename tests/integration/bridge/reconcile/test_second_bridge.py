"""A second bridge with a store of its own on the same panel: neither changes any user."""

from __future__ import annotations

import socket

import pytest

from marzban_bridge.errors import PanelSuspendedError
from marzban_bridge.quota.account import Enforcement
from marzban_bridge.quota.writes.note_line import NoteLine, place_of, with_line
from marzban_bridge.reconcile.trust.second_bridge import GONE_SECONDS, RENEW_SECONDS
from tests.support.bridge.bridge_builders import gib
from tests.support.bridge.fake_ledger import FakeLedger
from tests.support.bridge.world import World


class Pair:
    """A bridge in production, and one that somebody tries beside it, each with its collector."""

    def __init__(self, folder, **settings):
        self.folder, self.settings = folder, settings
        (folder / "one").mkdir()
        self.one = World(folder / "one", **settings)
        self.panel, self.clock = self.one.panel, self.one.clock
        self.ledgers = [self.one.ledger, FakeLedger()]
        for name in ("alice", "bob"):
            self.panel.create_user(name, data_limit=gib(10), note="paid")
        self.use(gib(3))
        self.one.one_pass()
        self.two = None

    def try_another(self):
        (self.folder / "two").mkdir(exist_ok=True)
        self.two = World(
            self.folder / "two", panel=self.panel, ledger=self.ledgers[1], **self.settings
        )
        return self.two

    def limits(self):
        return [self.panel.get_user(name)["data_limit"] for name in ("alice", "bob")]

    def use(self, amount=gib(1)):
        for ledger in self.ledgers:
            for name in ("alice", "bob"):
                ledger.report(name, amount)

    def wait(self, seconds, *worlds):
        """Let time pass, with a pass of these bridges each minute."""
        for _ in range(int(seconds // 60)):
            self.clock.advance(seconds=59)
            for world in worlds:
                world.one_pass()

    def close(self):
        for world in (self.one, self.two):
            if world:
                world.close()


@pytest.fixture
def pair(tmp_path):
    opened = Pair(tmp_path)
    yield opened
    opened.close()


def is_stopped(world):
    return [each.kind for each in world.bridge.store.suspension.reasons] == ["second_bridge"]


def conflicts(world):
    return [
        each.event.text for each in world.bridge.store.events.newest() if each.event.kind == "doubt"
    ]


def test_it_is_noticed_at_the_first_look_and_neither_changes_a_user(pair):
    two = pair.try_another()
    two.one_pass()
    assert is_stopped(two)
    assert pair.limits() == [gib(7), gib(7)]
    pair.one.one_pass()
    assert is_stopped(pair.one)
    for _ in range(5):
        pair.use(gib(0.5))
        pair.one.one_pass()
        two.one_pass()
    assert pair.limits() == [gib(7), gib(7)]
    assert {pair.one.account(name).quota_bytes for name in ("alice", "bob")} == {gib(10)}


def test_each_says_where_the_other_one_is(pair, caplog):
    two = pair.try_another()
    two.one_pass()
    pair.one.one_pass()
    for world, other in ((pair.one, two), (two, pair.one)):
        (text,) = conflicts(world)
        assert f"store {other.bridge.store.identity.name[:8]}" in text
        assert f"on {place_of(socket.gethostname())} " in text
        assert text in caplog.text
        assert world.bridge.store.suspension.text == text
        assert world.bridge.metrics.registry.get_sample_value(
            "bridge_panel_in_doubt", {"reason": "second_bridge"}
        )


def test_plan_says_so_too_and_stores_nothing(pair):
    two = pair.try_another()

    async def previews():
        return [each async for each in two.bridge.reconciler.previews()]

    two.run(two.bridges.feed_reader.to_end())
    with pytest.raises(PanelSuspendedError, match="another bridge, on "):
        two.run(previews())
    assert not two.bridge.store.suspension.reasons


def test_the_admins_text_stays_and_both_lines_stand_below_it(pair):
    two = pair.try_another()
    two.one_pass()
    pair.one.one_pass()
    notes = [pair.panel.get_user(name)["note"] for name in ("alice", "bob")]
    assert all(note.startswith("paid\n") for note in notes)
    assert sorted(note.count("[bridge ") for note in notes) == [1, 2]
    assert any("Quota not known to this bridge, which changes nothing." in note for note in notes)


def test_no_reset_is_asked_of_the_panel_while_both_run(pair):
    two = pair.try_another()
    two.one_pass()
    with pytest.raises(PanelSuspendedError, match="another bridge"):
        two.run(two.bridge.actions.reset_user("alice", actor="root"))


def test_the_first_one_goes_on_when_the_second_is_gone(pair):
    two = pair.try_another()
    two.one_pass()
    pair.one.one_pass()
    pair.use()
    pair.wait(GONE_SECONDS - 120, pair.one)
    assert is_stopped(pair.one)
    pair.wait(240, pair.one)
    assert not pair.one.bridge.store.suspension.reasons
    assert pair.limits() == [gib(6), gib(6)]
    for name in ("alice", "bob"):
        note = pair.panel.get_user(name)["note"]
        assert note.count("[bridge ") == 1, "the other's line is gone with the next write"
        assert pair.one.account(name).quota_bytes == gib(10)


def test_the_first_one_does_not_go_on_while_the_second_renews_its_line(pair):
    two = pair.try_another()
    two.one_pass()
    pair.one.one_pass()
    pair.use()
    pair.wait(3 * GONE_SECONDS, pair.one, two)
    assert is_stopped(pair.one)
    assert is_stopped(two)
    assert pair.limits() == [gib(7), gib(7)]


def test_each_renews_its_line_every_two_minutes_and_writes_no_more(pair):
    two = pair.try_another()
    two.one_pass()
    pair.one.one_pass()
    before = len(two.transport.writes)
    pair.wait(1200, pair.one, two)
    assert len(two.transport.writes) - before <= 1200 / RENEW_SECONDS + 1


def test_a_store_that_knows_none_of_the_users_waits_for_rebuild(pair):
    two = pair.try_another()
    two.one_pass()
    pair.wait(2 * GONE_SECONDS, two)
    assert is_stopped(two)
    assert "marzban-bridge rebuild" in two.bridge.store.suspension.text
    two.run(two.bridges.rebuild(from_store=None, is_carried_out=True, actor="command line"))
    two.one_pass()
    assert not two.bridge.store.suspension.reasons
    assert {two.account(name).quota_bytes for name in ("alice", "bob")} == {gib(10)}
    pair.use()
    two.one_pass()
    assert pair.limits() == [gib(6), gib(6)]


def test_doubt_lasts_over_a_restart(pair):
    two = pair.try_another()
    two.one_pass()
    pair.one.one_pass()
    pair.one.restart()
    assert is_stopped(pair.one)
    pair.wait(GONE_SECONDS + 120, pair.one)
    assert not is_stopped(pair.one)


def test_a_second_one_that_comes_back_is_noticed_anew(pair):
    two = pair.try_another()
    two.one_pass()
    pair.one.one_pass()
    pair.wait(GONE_SECONDS + 120, pair.one)
    assert not is_stopped(pair.one)
    two.one_pass()
    pair.one.one_pass()
    assert is_stopped(pair.one)
    assert is_stopped(two)


def test_a_leftover_line_of_one_user_leaves_that_one_alone_and_no_other(pair):
    """Of a user whom only the bridge that is gone had an account of."""
    two = pair.try_another()
    two.one_pass()
    pair.one.one_pass()
    pair.wait(GONE_SECONDS + 120, pair.one)
    note = pair.panel.get_user("alice")["note"]
    pair.panel.create_user("carol", data_limit=gib(4), note=_line_for("carol", two))
    pair.ledgers[0].report("carol", gib(1))
    pair.one.one_pass()
    assert is_stopped(pair.one), "its line may be one that is renewed"
    pair.wait(GONE_SECONDS + 120, pair.one)
    assert not is_stopped(pair.one)
    assert pair.one.bridge.store.accounts.get("carol") is None
    assert pair.panel.get_user("carol")["data_limit"] == gib(4)
    assert note
    own = f"[bridge {pair.one.bridge.store.identity.name[:8]}:"
    assert own in pair.panel.get_user("carol")["note"]
    release(pair.one)
    notes = [pair.panel.get_user(name)["note"] for name in ("alice", "bob", "carol")]
    assert not any(own in each for each in notes)
    assert f"[bridge {two.bridge.store.identity.name[:8]}:" in notes[2], "it has carol's quota"


def _line_for(name, world):
    line = NoteLine(
        store=world.bridge.store.identity.name[:8],
        number=4,
        place="trial",
        quota_bytes=gib(5),
        limit_bytes=gib(4),
        external_bytes=gib(1),
        total_bytes=gib(1),
    )
    return with_line("", line, username=name)


def test_a_bridge_that_leaves_notes_alone_stops_beside_one_that_does_not(pair):
    (pair.folder / "two").mkdir()
    two = World(pair.folder / "two", panel=pair.panel, ledger=pair.ledgers[1], uses_notes=False)
    two.one_pass()
    assert is_stopped(two)
    pair.use()
    pair.one.one_pass()
    two.one_pass()
    assert not is_stopped(pair.one)
    assert pair.limits() == [gib(6), gib(6)]
    two.close()


def test_a_release_by_the_one_that_goes_leaves_the_panel_to_the_other(pair):
    release(pair.one)
    two = pair.try_another()
    two.one_pass()
    assert not two.bridge.store.suspension.reasons
    assert pair.limits() == [gib(7), gib(7)]
    assert two.account("alice").quota_bytes == gib(10)


def release(world):
    async def released():
        return [each async for each in world.bridges.release()]

    return world.run(released())


def test_one_that_only_observes_notices_says_so_and_writes_no_line(pair, caplog):
    (pair.folder / "two").mkdir()
    two = World(
        pair.folder / "two",
        panel=pair.panel,
        ledger=pair.ledgers[1],
        enforcement=Enforcement.OBSERVE,
    )
    notes = [pair.panel.get_user(name)["note"] for name in ("alice", "bob")]
    two.one_pass()
    pair.wait(GONE_SECONDS + 2 * RENEW_SECONDS, two)
    assert two.transport.writes == []
    assert [pair.panel.get_user(name)["note"] for name in ("alice", "bob")] == notes
    assert is_stopped(two)
    assert "is gone" not in two.bridge.store.suspension.text
    text = conflicts(two)[0]
    assert f"store {pair.one.bridge.store.identity.name[:8]}" in text
    assert "only observes" in text
    assert text in caplog.text
    pair.use()
    pair.one.one_pass()
    assert not is_stopped(pair.one)
    assert pair.limits() == [gib(6), gib(6)]
    two.close()
