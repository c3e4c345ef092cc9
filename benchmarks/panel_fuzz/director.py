"""People at work on three panels, senders, and traffic on nodes; each thing done is in the model.

What the page leaves to the order in which a bridge sees things is not done: after a reset, an edit,
a deletion or a creation nothing more is done with the name until all is quiet, and an edit, a
deletion or a creation is done with names alone that were quiet until then. What a bridge cannot
know either (the button pressed for a user without panel traffic, while nobody listens) is not done.
"""

from __future__ import annotations

from collections.abc import Callable

from panel_fuzz.admins import Admins
from panel_fuzz.fleet import COLLECTOR, PANELS
from panel_fuzz.resets import Resets
from panel_fuzz.scene import MIB, Scene

PANEL_MIB, REPORT_MIB = 60, 90
TRIES = 30


class Director:
    """Does one thing after the other, at random, and tells the model."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._fleet = scene.fleet
        self._model = scene.model
        self._dice = scene.dice
        self._admins = Admins(scene)
        self._resets = Resets(scene)
        self.without: frozenset[str] = frozenset()
        """What is never done, to narrow a failure down: names of methods."""

    def populate(self) -> None:
        """Make the users."""
        self._admins.populate()

    def act(self) -> None:
        """Do one thing that can be done now."""
        acts: list[tuple[Callable[[], bool], int]] = [
            (self._use_panel, 30),
            (self._report, 30),
            (self._resets.press_reset, 6),
            (self._resets.reset_in_bridge, 2),
            (self._resets.reset_all, 1),
            (self._resets.periodic, 2),
            (self._resets.reset_everywhere, 1),
            (self._resets.misdeliver, 2),
            (self._admins.edit, 5),
            (self._admins.delete, 2),
            (self._admins.make, 3),
            (self._admins.remake, 1),
        ]
        acts = [(act, weight) for act, weight in acts if act.__name__ not in self.without]
        kinds, weights = zip(*acts, strict=True)
        with self._scene.lock:
            for _ in range(TRIES):  # nothing may be left to do with the names until all is quiet
                if self._dice.choices(kinds, weights)[0]():
                    return

    def _use_panel(self) -> bool:
        name = self._scene.pick()
        holders = self._scene.open_holders(name) if name else []
        if not name or not holders:
            return False
        panel = self._dice.choice(holders)
        if not self._fleet.runs(panel):
            return False
        count = self._dice.randrange(1, PANEL_MIB * MIB)
        body = {"username": name, "bytes": count}
        was_let = self._fleet.simulate(panel, "POST", "/traffic", body)["used"]
        self._scene.note("traffic on a panel", panel=panel, name=name, bytes=count, let=was_let)
        if was_let:
            self._model.use(panel, name, count)
            self._scene.touched.add(name)
            self._scene.remember()
        return True

    def _report(self) -> bool:
        if not self._fleet.runs(COLLECTOR):
            return False
        name = self._dice.choice(self._scene.names)
        if name in self._scene.busy:
            return False
        prefix = self._dice.choice(("", "", *(f"{panel}/" for panel in PANELS)))
        self._scene.send(prefix + name, self._dice.randrange(1, REPORT_MIB * MIB))
        return True
