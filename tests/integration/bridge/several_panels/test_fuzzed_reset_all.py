"""The fuzz of benchmarks/three_panels.py presses "Reset all" only where something shows it."""

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


@pytest.fixture
def resets(world, monkeypatch):
    """Resets of the fuzz at a quiet point, whose fleet is this world; its panels obey at once."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    fuzz = {
        name: importlib.import_module(f"panel_fuzz.{name}")
        for name in ("fleet", "model", "resets", "scene")
    }

    class WorldAsFleet(fuzz["fleet"].Fleet):
        def __init__(self):
            self.folder = world.folder
            self.gateways = {}

        def runs(self, name):
            return True

        def ask_panel(self, panel, method, path, body=None):
            assert (method, path) == ("POST", "/api/users/reset")
            world.panels[panel].reset_all("root")

    monkeypatch.setattr(fuzz["resets"], "PANELS", ("default",))
    model = fuzz["model"].Model(["default"], spans=False)
    scene = fuzz["scene"].Scene(
        WorldAsFleet(),
        model,
        NAMES,
        dice=random.Random(1),
        journal=world.folder / "events.jsonl",
        may_switch=False,
    )
    for name in NAMES:
        model.create("default", name, gib(10))
        model.report(name, gib(1))
    scene.begin_round()
    yield fuzz["resets"].Resets(scene)
    scene.close()


def use(world, resets, name, count_bytes):
    world.panels["default"].use_traffic(name, count_bytes)
    resets._model.use("default", name, count_bytes)


def what_counts(world, resets):
    """Return, by name, what the bridge counts and what is right."""
    used = {}
    for name in NAMES:
        seen = world.account("default", name).sighting.used_bytes
        standing = resets._model.standing("default", name)
        used[name] = world.external("default", name) + seen, standing.used
    return used


def test_all_are_reset_once_the_bridge_has_seen_what_one_of_them_used(world, resets):
    use(world, resets, "heidi", gib(3))
    world.look()
    assert resets.reset_all()
    world.look(2)
    assert what_counts(world, resets) == {"bob": (0, 0), "heidi": (0, 0)}


def test_a_log_that_the_bridge_has_seen_shows_it_too(world, resets):
    use(world, resets, "heidi", gib(3))
    world.look()
    world.panels["default"].reset_user("heidi")
    resets._model.reset("default", "heidi")
    world.look()
    assert resets.reset_all()
    world.look(2)
    assert what_counts(world, resets) == {"bob": (0, 0), "heidi": (0, 0)}


def test_what_was_used_since_the_last_look_shows_no_reset_of_all(world, resets):
    """No number of the panel is another after it: used traffic and log are zero as before."""
    use(world, resets, "heidi", gib(3))
    is_pressed = resets.reset_all()
    world.look(2)
    assert what_counts(world, resets) == {"bob": (gib(1), gib(1)), "heidi": (gib(4), gib(4))}
    assert not is_pressed
