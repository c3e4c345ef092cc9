"""Resets of every kind: by the panel's button, the bridge's, a schedule, and of everybody.

Of a shared quota: what a panel that is out of reach counted after the last look counts in the new
period, says the page; so what the bridge saw there last is asked of it before.
"""

from __future__ import annotations

from panel_fuzz.fleet import BRIDGE, COLLECTOR, PANELS, AwayError
from panel_fuzz.scene import Scene

from tests.support.processes import until

NOTICE_SECONDS = 20


class Resets:
    """Begins periods, and notes which resets the bridge may press for it."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._fleet = scene.fleet
        self._model = scene.model
        self._dice = scene.dice
        self._days = 0

    def _may_reset(self, name: str, panel: str = "") -> bool:
        """Tell whether what a reset comes to is said.

        The bridge has read all that was reported of the name; of a shared quota, it has seen what
        panels that can be reached count: what it sees there after the reset may have been used
        after it as well. From a panel that cannot be reached that is what it saw last, while it
        runs; the panel of the reset itself is reached, or else all are untouched.
        """
        if self._scene.is_unsure(name) or not self._is_read(name):
            return False
        if name in self._model.reported and name not in self._scene.reported_at_rest:
            return False
        if not self._model.spans or name not in self._scene.touched:
            return True
        holders = self._model.holders(name)
        reached = [each for each in holders if self._scene.is_reached(each)]
        if not self._is_seen(name, reached):
            return False
        return len(reached) == len(holders) or (panel in reached and not self._scene.kills)

    def _seen(self, name: str, panel: str) -> int | None:
        """Return what the bridge saw last that a panel counts; None if it does not say."""
        try:
            row = self._fleet.bridge_users(panel).get(name)
        except AwayError:
            return None
        return None if row is None else int(row["marzban_bytes"])

    def _is_seen(self, name: str, panels: list[str]) -> bool:
        return all(self._seen(name, each) == self._model.users[each, name].used for each in panels)

    def _is_read(self, name: str) -> bool:
        read = self._fleet.read_totals()
        return all(
            read.get(reported, 0) == count
            for reported, count in self._model.reported.items()
            if reported.rpartition("/")[2] == name
        )

    def press_reset(self) -> bool:
        """Press "Reset usage" in a panel; return whether there was one to press."""
        name = self._scene.pick()
        if not name or not (holders := self._scene.open_holders(name)):
            return False
        panel = self._dice.choice(holders)
        user = self._model.users[panel, name]
        if not self._fleet.runs(panel) or not user.used or not self._may_reset(name, panel):
            return False
        unseen = self._unseen(panel, name)
        if unseen is None:
            return False
        self._scene.note("reset button", panel=panel, name=name, unseen=unseen)
        self._will_reset(panel, name)
        self._model.carry(name, unseen)
        self._fleet.ask_panel(panel, "POST", f"/api/user/{name}/reset")
        if unseen:
            until(
                f"the reset of {name} on {panel} is noticed",
                lambda: self._used(panel, name) == sum(unseen.values()),
                seconds=NOTICE_SECONDS,
            )
        return True

    def _unseen(self, panel: str, name: str) -> dict[str, int] | None:
        """Return what panels out of reach counted after the last look; None if that is not told."""
        unseen = {}
        if self._model.spans and name in self._scene.touched:
            for each in self._model.holders(name):
                if each == panel or self._scene.is_reached(each):
                    continue
                seen = self._seen(name, each)
                if seen is None:
                    return None
                unseen[each] = self._model.users[each, name].used - seen
        return unseen

    def _used(self, panel: str, name: str) -> int | None:
        try:
            row = self._fleet.bridge_users(panel).get(name)
        except AwayError:
            return None
        return None if row is None else int(row["used_bytes"])

    def _will_reset(self, panel: str, name: str) -> None:
        self._scene.busy.add(name)
        if self._model.spans:
            for each in self._model.holders(name):
                if each != panel:
                    self._scene.presses[each, name] = 1
        self._model.reset(panel, name)

    def reset_in_bridge(self) -> bool:
        """Press the dashboard's button, which works while bridge, panel and collector do."""
        name = self._scene.pick()
        if not name or not (holders := self._scene.open_holders(name)):
            return False
        panel = self._dice.choice(holders)
        programs = (BRIDGE, COLLECTOR, panel)
        if not all(map(self._fleet.runs, programs)) or not self._may_reset(name):
            return False
        if not all(self._scene.is_reached(each) for each in PANELS) or self._scene.closed_panels:
            return False
        try:
            if name not in self._fleet.bridge_users(panel):
                return False
            self._fleet.ask_bridge(panel, "POST", f"/v1/users/{name}/reset")
        except AwayError:
            return False
        self._scene.note("reset in the bridge", panel=panel, name=name)
        self._will_reset(panel, name)
        self._scene.presses[panel, name] += 1
        return True

    def reset_all(self) -> bool:
        """Press "Reset all" in one panel, where each name can be reset."""
        panel = self._dice.choice(PANELS)
        names = [name for each, name in self._model.users if each == panel]
        is_made = any(name in self._scene.busy for name in self._scene.names if name not in names)
        if self._scene.closed_panels or not self._fleet.runs(panel) or is_made:
            return False
        if any(name in self._scene.busy or not self._may_reset(name) for name in names):
            return False
        if not self._shows_reset_all(panel, names):
            return False
        self._scene.note("reset all", panel=panel)
        self._scene.wiped_panels.add(panel)
        for name in names:
            self._will_reset(panel, name)
        self._fleet.ask_panel(panel, "POST", "/api/users/reset")
        return True

    def _shows_reset_all(self, panel: str, names: list[str]) -> bool:
        """Tell whether anything shows the bridge that all users of a panel were reset.

        The panel sends no webhook and wipes its log: a reset shows in what the bridge saw before
        of what one of them used. What was used since, and is gone, it cannot know (decision 0003).
        """
        seen = self._fleet.seen_lifetimes(panel)
        return any(seen.get(name) for name in names)

    def reset_everywhere(self) -> bool:
        """Have the bridge reset all users of all panels, as an operator does, each of them once."""
        programs = (BRIDGE, COLLECTOR, *PANELS)
        if self._scene.closed_panels or not all(map(self._fleet.runs, programs)):
            return False
        names = {name for _, name in self._model.users}
        if not all(map(self._scene.is_reached, PANELS)) or names & self._scene.busy:
            return False
        if not all(map(self._may_reset, names)):
            return False
        self._scene.note("reset --all")
        self._scene.wiped_panels.update(PANELS)
        for panel, name in self._model.users:
            self._model.reset(panel, name)
            self._scene.busy.add(name)
        self._fleet.until_up(BRIDGE)  # else the command is the bridge, which cannot start beside it
        done = self._fleet.command("reset", "--all", "--yes")
        assert done.returncode == 0, f"reset --all: {done.stdout}{done.stderr}"
        return True

    def misdeliver(self) -> bool:
        """Post a panel's reset webhook at another panel's path: it is nobody's reset there."""
        panel, other = self._dice.sample(PANELS, 2)
        names = [name for each, name in self._model.users if each == panel]
        name = self._dice.choice(names)
        if not all(map(self._fleet.runs, (panel, other))) or self._scene.closed_panels:
            return False
        user = self._fleet.panel_users(panel)[name]
        namesake = self._fleet.panel_users(other).get(name, user)
        if any("." not in each["created_at"] for each in (user, namesake)):
            return False  # the page tells them apart by a time; in seconds it may be one
        secret_of = self._dice.choice((panel, other))
        event = {"action": "data_usage_reset", "username": name, "user": user, "tries": 0}
        status = self._fleet.post_webhook(other, [event], secret_of=secret_of)
        self._scene.note(
            "webhook at another panel's path", of=panel, to=other, name=name, secret=secret_of
        )
        right = {other: 200, panel: 401}[secret_of]
        assert status in {right, None, 503}, f"a webhook was answered {status}, not {right}"
        return True

    def periodic(self) -> bool:
        """Let the schedule of a name come due, on all its panels at once or on one alone."""
        name = self._scene.pick()
        if not name or self._scene.closed_panels or not self._may_reset(name):
            return False
        holders = self._model.holders(name)
        if not all(self._fleet.runs(each) and self._scene.is_reached(each) for each in holders):
            return False
        if self._dice.random() < 0.4:
            holders = [self._dice.choice(holders)]
        rows = {each: self._fleet.panel_users(each)[name] for each in holders}
        is_seen = all(
            row["used_traffic"] and row["status"] in {"active", "limited"} for row in rows.values()
        )
        if not is_seen or name in self._scene.touched:
            return False
        self._days += 2
        self._scene.note("periodic reset", name=name, panels=holders)
        for each in holders:
            self._will_reset(each, name)
        for each in holders:
            self._schedule(each, name, "day")
        for each in holders:
            self._fleet.simulate(each, "POST", "/periodic-resets", {"days": self._days})
        for each in holders:
            self._schedule(each, name, "no_reset")
        return True

    def _schedule(self, panel: str, name: str, strategy: str) -> None:
        self._fleet.ask_panel(
            panel, "PUT", f"/api/user/{name}", {"data_limit_reset_strategy": strategy}
        )
