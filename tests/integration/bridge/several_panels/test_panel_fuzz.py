"""The fuzz of benchmarks/three_panels.py does nothing of which a panel shows the bridge nothing."""

from __future__ import annotations

import importlib
import random
from pathlib import Path

import pytest

from tests.support.bridge.bridge_builders import gib

BENCHMARKS = Path(__file__).parents[4] / "benchmarks"
NAMES = ["bob", "heidi"]


@pytest.fixture
def world(opened_in_file):
    world = opened_in_file()
    for name in NAMES:
        world.create("default", name)
        world.ledger.report(name, gib(1))
    world.look()
    return world


class Fuzz:
    """The parts of the fuzz at a quiet point, whose fleet is a world with one panel."""

    def __init__(self, world, parts):
        class WorldAsFleet(parts["fleet"].Fleet):
            def __init__(self):
                self.folder = world.folder
                self.gateways = {}

            def runs(self, name):
                return True

            def panel_users(self, panel):
                return {name: world.panels[panel].get_user(name) for name in NAMES}

            def ask_panel(self, panel, method, path, body=None):
                assert (method, path) == ("POST", "/api/users/reset")
                world.panels[panel].reset_all("root")

            def simulate(self, panel, method, path, body=None):
                assert (method, path) == ("GET", "/database")
                return {}

        self.world = world
        self.model = parts["model"].Model(["default"], spans=False)
        self.scene = parts["scene"].Scene(
            WorldAsFleet(),
            self.model,
            NAMES,
            dice=random.Random(1),
            journal=world.folder / "events.jsonl",
            may_switch=False,
        )
        for name in NAMES:
            self.model.create("default", name, gib(10))
            self.model.report(name, gib(1))
        self.scene.begin_round()
        self.resets = parts["resets"].Resets(self.scene)
        self.accidents = parts["accidents"].Accidents(
            self.scene.fleet, self.scene, dice=random.Random(1)
        )

    def use(self, name, count_bytes):
        self.world.panels["default"].use_traffic(name, count_bytes)
        self.model.use("default", name, count_bytes)

    def reset(self, name):
        self.world.panels["default"].reset_user(name)
        self.model.reset("default", name)

    def set_quota(self, name, quota_bytes):
        self.world.panels["default"].modify_user(name, {"data_limit": quota_bytes})
        self.model.edit("default", name, quota_bytes)

    def used(self):
        """Return, by name, what the bridge says is used and what is right."""
        found = {}
        for name in NAMES:
            seen = self.world.account("default", name).sighting.used_bytes
            right = self.model.standing("default", name).used
            found[name] = self.world.external("default", name) + seen, right
        return found


@pytest.fixture
def fuzz(world, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    names = ("accidents", "fleet", "model", "resets", "scene")
    parts = {name: importlib.import_module(f"panel_fuzz.{name}") for name in names}
    for name in ("accidents", "resets"):
        monkeypatch.setattr(parts[name], "PANELS", ("default",))
    fuzz = Fuzz(world, parts)
    yield fuzz
    fuzz.scene.close()


class TestResetAll:
    def test_shows_once_the_bridge_has_seen_what_one_user_used(self, world, fuzz):
        fuzz.use("heidi", gib(3))
        world.look()
        assert fuzz.resets.reset_all()
        world.look(2)
        assert fuzz.used() == {"bob": (0, 0), "heidi": (0, 0)}

    def test_shows_by_a_log_that_the_bridge_has_seen(self, world, fuzz):
        fuzz.use("heidi", gib(3))
        world.look()
        fuzz.reset("heidi")
        world.look()
        assert fuzz.resets.reset_all()
        world.look(2)
        assert fuzz.used() == {"bob": (0, 0), "heidi": (0, 0)}

    def test_is_not_pressed_where_all_was_used_since_the_last_look(self, world, fuzz):
        """No number of the panel is another after it: used traffic and log are zero as before."""
        fuzz.use("heidi", gib(3))
        is_pressed = fuzz.resets.reset_all()
        world.look(2)
        assert fuzz.used() == {"bob": (gib(1), gib(1)), "heidi": (gib(4), gib(4))}
        assert not is_pressed


class TestABackup:
    @pytest.fixture(autouse=True)
    def _backed_up(self, fuzz):
        fuzz.accidents.back_up()

    def is_restored(self, fuzz):
        is_for_good = fuzz.accidents._is_restorable("default")
        assert fuzz.accidents._is_told_from_edits("default") is is_for_good
        return is_for_good

    def test_is_restored_where_nobody_set_a_quota(self, fuzz):
        assert self.is_restored(fuzz)

    def test_is_not_where_a_quota_alone_was_set_since(self, world, fuzz):
        """The panel then shows what it shows after an admin set it back."""
        fuzz.set_quota("bob", gib(20))
        world.look()
        assert not self.is_restored(fuzz)
        world.panels["default"].modify_user("bob", {"data_limit": gib(10)})
        world.look()
        assert world.account("default", "bob").quota_bytes == gib(10)

    def test_is_where_the_bridge_saw_traffic_since(self, world, fuzz):
        fuzz.set_quota("bob", gib(20))
        fuzz.use("heidi", gib(3))
        assert not self.is_restored(fuzz)
        world.look()
        assert self.is_restored(fuzz)
