"""Admins who set quotas, and make, delete and make again users."""

from __future__ import annotations

from panel_fuzz.fleet import PANELS
from panel_fuzz.model import Quota
from panel_fuzz.scene import MIB, ROUNDING_BYTES, Scene


class Admins:
    """Changes who is on the panels, and with which quota."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._fleet = scene.fleet
        self._model = scene.model
        self._dice = scene.dice

    def populate(self) -> None:
        """Make the users: most names on two or three panels, some on one."""
        for number, name in enumerate(self._scene.names):
            panels = PANELS if number % 3 else self._dice.sample(PANELS, self._dice.choice((1, 2)))
            for panel in sorted(panels, key=lambda _: self._dice.random()):
                is_unlimited = number == 1 and not self._scene.may_switch
                self._create(panel, name, None if is_unlimited else self._scene.new_quota())
            self._model.found_together(name)
            for panel in self._model.holders(name):
                self._scene.send(f"{panel}/{name}", MIB)

    def edit(self) -> bool:
        """Set a quota, or none; return whether there was one to set."""
        name = self._scene.pick(is_quiet=True)
        if not name or not (holders := self._scene.open_holders(name)):
            return False
        panel = self._dice.choice(holders)
        is_edit = not self._model.spans or (panel, name) in self._scene.known
        if not self._fleet.runs(panel) or not is_edit or self._scene.is_rewritten:
            return False
        quota: Quota = None if self._dice.random() < 0.15 else self._scene.new_quota()
        if quota is None and self._scene.may_switch:
            quota = self._scene.new_quota()
        shown = self._fleet.panel_users(panel)[name]["data_limit"]
        if abs((shown or 0) - (quota or 0)) <= 2 * ROUNDING_BYTES:
            return False
        self._scene.note("quota set", panel=panel, name=name, quota=quota)
        self._scene.busy.add(name)
        self._scene.quotas.setdefault(name, set()).add(quota)
        self._model.edit(panel, name, quota)
        self._fleet.ask_panel(panel, "PUT", f"/api/user/{name}", {"data_limit": quota or 0})
        return True

    def delete(self) -> bool:
        """Delete a user; return whether one could be deleted."""
        name = self._scene.pick(is_quiet=True)
        if not name or self._scene.closed_panels:
            return False
        panel = self._dice.choice(self._model.holders(name))
        on_panel = sum(1 for each, _ in self._model.users if each == panel)
        if on_panel <= len(self._scene.names) // 2 or not self._fleet.runs(panel):
            return False
        if self._model.spans and not self._is_founder_left(panel, name):
            return False
        self._scene.note("deletion", panel=panel, name=name)
        self._drop(panel, name)
        self._scene.busy.add(name)
        return True

    def _is_founder_left(self, panel: str, name: str) -> bool:
        """Tell whether, without this user, the name goes on with those it began with, or ends."""
        left = set(self._model.holders(name)) - {panel}
        founders = self._model.persons[name].founders
        return not left or any(
            (each, self._model.users[each, name].made) in founders for each in left
        )

    def _has_newcomer(self, name: str) -> bool:
        """Tell whether one of a name's users was made later than others who are left.

        Whether it was made once more before the others were, or after, the bridge cannot tell
        where it looks at the others first.
        """
        return self._model.spans and self._model.persons[name].since_newcomer is not None

    def _drop(self, panel: str, name: str) -> None:
        self._model.delete(panel, name)
        # Marzban deletes a user without an owner and answers 500.
        self._fleet.ask_panel(panel, "DELETE", f"/api/user/{name}", expects=(200, 500))

    def make(self) -> bool:
        """Make a user on a panel without it; return whether one could be made."""
        names = [
            name
            for name in self._scene.names
            if name not in self._scene.busy | self._scene.touched
            and len(self._model.holders(name)) < len(PANELS)
        ]
        if not names or self._scene.closed_panels:
            return False
        name = self._dice.choice(names)
        panel = self._dice.choice([e for e in PANELS if e not in self._model.holders(name)])
        if not self._fleet.runs(panel) or panel in self._scene.wiped_panels:
            return False
        holders = self._model.holders(name)
        is_unlimited = bool(holders) and self._model.standing(holders[0], name).quota is None
        quota = None if is_unlimited else self._scene.new_quota()
        self._scene.note("creation", panel=panel, name=name, quota=quota)
        self._create(panel, name, quota)
        self._scene.busy.add(name)
        return True

    def _create(self, panel: str, name: str, quota: Quota) -> None:
        self._model.create(panel, name, quota)
        self._scene.quotas.setdefault(name, set()).add(quota)
        body = {
            "username": name,
            "data_limit": quota or 0,
            "proxies": {"vless": {}},
            "inbounds": {},
        }
        self._fleet.ask_panel(panel, "POST", "/api/user", body)

    def remake(self) -> bool:
        """Delete and make again all users of a name, in any order, with one quota."""
        name = self._scene.pick(is_quiet=True)
        if not name or self._scene.closed_panels:
            return False
        panels = self._model.holders(name)
        if not all(map(self._fleet.runs, panels)) or self._scene.wiped_panels:
            return False
        if len(panels) > 1 and (self._scene.is_place_open or self._has_newcomer(name)):
            return False
        quota = self._scene.new_quota()
        self._scene.note("made again everywhere", name=name, quota=quota)
        self._dice.shuffle(panels)
        deleted_first = self._dice.random() < 0.5
        if deleted_first:
            for panel in panels:
                self._drop(panel, name)
        for panel in panels:
            if not deleted_first:
                self._drop(panel, name)
            self._create(panel, name, quota)
        self._model.found_together(name)
        self._scene.busy.add(name)
        return True
