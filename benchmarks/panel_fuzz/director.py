"""People at work on three panels, senders, and traffic on nodes; each thing done is in the model.

What the page leaves to the order in which a bridge sees things is not done: after a reset, an edit,
a deletion or a creation nothing more is done with the name until all is quiet, and an edit, a
deletion or a creation is done with names alone that were quiet until then. What a bridge cannot
know either (the button pressed for a user without panel traffic, while nobody listens) is not done.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from panel_fuzz.fleet import BRIDGE, COLLECTOR, PANELS, AwayError, Fleet
from panel_fuzz.gateway import PASSES
from panel_fuzz.model import Model, Quota

MIB = 2**20
ROUNDING_BYTES = 2**14
PANEL_MIB, REPORT_MIB = 60, 90
QUOTAS_MIB = (300, 3000)
TRIES = 30


class Director:
    """Does one thing after the other, at random, and tells the model."""

    def __init__(
        self,
        fleet: Fleet,
        model: Model,
        names: list[str],
        *,
        dice: random.Random,
        journal: Path,
        may_switch: bool,
    ) -> None:
        self.fleet = fleet
        self.model = model
        self.names = names
        self.dice = dice
        self.counts: Counter[str] = Counter()
        self.lock = threading.RLock()
        """Held while something is done: what the model says then is not so yet."""
        self.busy: set[str] = set()
        self.touched: set[str] = set()
        self.wiped_panels: set[str] = set()
        """Panels where "Reset all" was pressed in this round: whether before or after a user was
        made, nobody can see."""
        self.closed_panels: set[str] = set()
        """Panels whose database is not theirs at the moment: nothing is done there."""
        self.presses: Counter[tuple[str, str]] = Counter()
        """By panel and name: how often the bridge may press Reset there in this round."""
        self.kills = 0
        """How often the bridge was killed in this round."""
        self.quotas: dict[str, set[Quota]] = {}
        """By name: what admins meant since the last quiet point, on any panel."""
        self.peaks: Counter[str] = Counter()
        """By name: the most that all its users together had used since the last quiet point."""
        self.known: set[tuple[str, str]] = set()
        """Users whom the bridge had seen at the last quiet point: what is set for others before
        is the limit that they were made with, and no edit."""
        self.may_switch = may_switch
        """Nobody sets a quota to unlimited then: what the name's other panels show of it when
        quotas are parted again, the page does not say."""
        self.is_place_open = may_switch or not model.spans
        """Whether it matters whose a name alone is, which is not said of users made again on
        several panels faster than they are looked at."""
        self.late_resets: set[str] = set()
        """Names with a reset of the bridge's that was not answered: for ten minutes one more reset
        is taken for it, as decision 0015 says."""
        self.without: frozenset[str] = frozenset()
        """What is never done, to narrow a failure down: names of methods."""
        self._journal = journal.open("a", encoding="utf-8")
        self._sent = 0
        self._began_at = time.monotonic()
        self._days = 0

    def note(self, kind: str, **what: object) -> None:
        """Write down what is done, so that a run can be read again."""
        self.counts[kind] += 1
        at = round(time.monotonic() - self._began_at, 2)
        self._journal.write(json.dumps({"at": at, "did": kind, **what}) + "\n")
        self._journal.flush()

    def begin_round(self) -> None:
        """Take all names for quiet ones; what was allowed in the last round is no more."""
        with self.lock:
            self.busy.clear()
            self.touched.clear()
            self.presses.clear()
            self.wiped_panels.clear()
            self.kills = 0
            self.quotas = {}
            self.peaks.clear()
            self.remember()

    def remember(self) -> None:
        """Keep what is meant and used now for what may be seen of it until the next quiet point."""
        for panel, name in self.model.users:
            self.quotas.setdefault(name, set()).add(self.model.standing(panel, name).quota)
            self.peaks[name] = max(self.peaks[name], self.model.expected_total(name))

    def populate(self) -> None:
        """Make the users: most names on two or three panels, some on one."""
        for number, name in enumerate(self.names):
            panels = PANELS if number % 3 else self.dice.sample(PANELS, self.dice.choice((1, 2)))
            for panel in sorted(panels, key=lambda _: self.dice.random()):
                is_unlimited = number == 1 and not self.may_switch
                self._create(panel, name, None if is_unlimited else self._new_quota())
            self.model.found_together(name)
            for panel in self.model.holders(name):
                self._send(f"{panel}/{name}", MIB)

    def act(self) -> None:
        """Do one thing that can be done now."""
        acts: list[tuple[Callable[[], bool], int]] = [
            (self._use_panel, 30),
            (self._report, 30),
            (self._press_reset, 6),
            (self._reset_in_bridge, 2),
            (self._edit, 5),
            (self._reset_all, 1),
            (self._periodic, 2),
            (self._delete, 2),
            (self._make, 3),
            (self._remake, 1),
        ]
        acts = [(act, weight) for act, weight in acts if act.__name__ not in self.without]
        kinds, weights = zip(*acts, strict=True)
        with self.lock:
            for _ in range(TRIES):  # nothing may be left to do with the names until all is quiet
                if self.dice.choices(kinds, weights)[0]():
                    return

    def _pick(self, *, is_quiet: bool = False, holders: int = 1) -> str | None:
        names = [
            name
            for name in self.names
            if name not in self.busy
            and not (is_quiet and name in self.touched)
            and len(self.model.holders(name)) >= holders
        ]
        return self.dice.choice(names) if names else None

    def _open_holders(self, name: str) -> list[str]:
        return [panel for panel in self.model.holders(name) if panel not in self.closed_panels]

    def _is_reached(self, panel: str) -> bool:
        return self.fleet.gateways[panel].fault == PASSES and self.fleet.runs(panel)

    def _use_panel(self) -> bool:
        name = self._pick()
        holders = self._open_holders(name) if name else []
        if not name or not holders:
            return False
        panel = self.dice.choice(holders)
        if not self.fleet.runs(panel):
            return False
        count = self.dice.randrange(1, PANEL_MIB * MIB)
        body = {"username": name, "bytes": count}
        was_let = self.fleet.simulate(panel, "POST", "/traffic", body)["used"]
        self.note("traffic on a panel", panel=panel, name=name, bytes=count, let=was_let)
        if was_let:
            self.model.use(panel, name, count)
            self.touched.add(name)
            self.remember()
        return True

    def _report(self) -> bool:
        if not self.fleet.runs(COLLECTOR):
            return False
        name = self.dice.choice(self.names)
        if name in self.busy:
            return False
        prefix = self.dice.choice(("", "", *(f"{panel}/" for panel in PANELS)))
        self._send(prefix + name, self.dice.randrange(1, REPORT_MIB * MIB))
        return True

    def _send(self, reported: str, count: int) -> None:
        self._sent += 1
        report = {
            "report_id": f"fuzz-{self._sent}",
            "user_token": reported,
            "server": f"server-{self._sent % 3}",
            "port": 443,
            "protocol": "vless",
            "bytes_uploaded": count // 3,
            "bytes_downloaded": count - count // 3,
        }
        again = self.dice.random() < 0.05
        # The bridge may act on a report before its sender is answered.
        self.model.report(reported, count)
        self.remember()
        self.touched.add(reported.rpartition("/")[2])
        self.note("report", name=reported, bytes=count)
        for _ in range(1 + again):
            self.fleet.report([report])

    def _may_reset(self, name: str) -> bool:
        """Tell whether what a reset comes to is said.

        The bridge has read all that was reported of the name; of a shared quota, all panels are
        reached where the name was touched, and the bridge has seen what its panels count: what it
        sees there after the reset may have been used after it as well.
        """
        if not self._is_read(name):
            return False
        if not self.model.spans:
            return True
        if name in self.touched and not self._is_seen(name):
            return False
        return name not in self.late_resets and all(
            self._is_reached(each) or name not in self.touched for each in self.model.holders(name)
        )

    def _is_seen(self, name: str) -> bool:
        try:
            rows = {each: self.fleet.bridge_users(each) for each in self.model.holders(name)}
        except AwayError:
            return False
        return all(
            name in row and row[name]["marzban_bytes"] == self.model.users[each, name].used
            for each, row in rows.items()
        )

    def _is_read(self, name: str) -> bool:
        read = self.fleet.read_totals()
        return all(
            read.get(reported, 0) == count
            for reported, count in self.model.reported.items()
            if reported.rpartition("/")[2] == name
        )

    def _press_reset(self) -> bool:
        name = self._pick()
        if not name or not (holders := self._open_holders(name)):
            return False
        panel = self.dice.choice(holders)
        user = self.model.users[panel, name]
        if not self.fleet.runs(panel) or not self._may_reset(name) or not user.used:
            return False
        self.note("reset button", panel=panel, name=name)
        self._will_reset(panel, name)
        self.fleet.ask_panel(panel, "POST", f"/api/user/{name}/reset")
        return True

    def _will_reset(self, panel: str, name: str) -> None:
        self.busy.add(name)
        if self.model.spans:
            for each in self.model.holders(name):
                if each != panel:
                    self.presses[each, name] += 1
        self.model.reset(panel, name)

    def _reset_in_bridge(self) -> bool:
        """Press the dashboard's button, which works while bridge, panel and collector do."""
        name = self._pick()
        if not name or not (holders := self._open_holders(name)):
            return False
        panel = self.dice.choice(holders)
        programs = (BRIDGE, COLLECTOR, panel)
        if not all(map(self.fleet.runs, programs)) or not self._may_reset(name):
            return False
        if not all(self._is_reached(each) for each in PANELS) or self.closed_panels:
            return False
        try:
            if name not in self.fleet.bridge_users(panel):
                return False
            self.fleet.ask_bridge(panel, "POST", f"/v1/users/{name}/reset")
        except AwayError:
            return False
        self.note("reset in the bridge", panel=panel, name=name)
        self._will_reset(panel, name)
        self.presses[panel, name] += 1
        return True

    def _reset_all(self) -> bool:
        """Press "Reset all" in one panel, where each name can be reset."""
        panel = self.dice.choice(PANELS)
        names = [name for each, name in self.model.users if each == panel]
        is_made = any(name in self.busy for name in self.names if name not in names)
        if self.closed_panels or not self.fleet.runs(panel) or is_made:
            return False
        if any(name in self.busy or not self._may_reset(name) for name in names):
            return False
        if not any(self.model.users[panel, name].used for name in names):
            return False
        self.note("reset all", panel=panel)
        self.wiped_panels.add(panel)
        for name in names:
            self._will_reset(panel, name)
        self.fleet.ask_panel(panel, "POST", "/api/users/reset")
        return True

    def _periodic(self) -> bool:
        """Let the schedule of a name come due on all its panels at once."""
        name = self._pick()
        if not name or self.closed_panels or not self._may_reset(name):
            return False
        holders = self.model.holders(name)
        if not all(self.fleet.runs(each) and self._is_reached(each) for each in holders):
            return False
        rows = {each: self.fleet.panel_users(each)[name] for each in holders}
        is_seen = all(
            row["used_traffic"] and row["status"] in {"active", "limited"} for row in rows.values()
        )
        if not is_seen or name in self.touched:
            return False
        self._days += 2
        self.note("periodic reset", name=name)
        for each in holders:
            self._will_reset(each, name)
        for each in holders:
            self._schedule(each, name, "day")
        for each in holders:
            self.fleet.simulate(each, "POST", "/periodic-resets", {"days": self._days})
        for each in holders:
            self._schedule(each, name, "no_reset")
        return True

    def _schedule(self, panel: str, name: str, strategy: str) -> None:
        self.fleet.ask_panel(
            panel, "PUT", f"/api/user/{name}", {"data_limit_reset_strategy": strategy}
        )

    def _new_quota(self) -> int:
        return self.dice.randrange(*QUOTAS_MIB) * MIB

    def _edit(self) -> bool:
        name = self._pick(is_quiet=True)
        if not name or not (holders := self._open_holders(name)):
            return False
        panel = self.dice.choice(holders)
        is_edit = not self.model.spans or (panel, name) in self.known
        if not self.fleet.runs(panel) or not is_edit:
            return False
        quota: Quota = None if self.dice.random() < 0.15 else self._new_quota()
        if quota is None and self.may_switch:
            quota = self._new_quota()
        shown = self.fleet.panel_users(panel)[name]["data_limit"]
        if abs((shown or 0) - (quota or 0)) <= 2 * ROUNDING_BYTES:
            return False
        self.note("quota set", panel=panel, name=name, quota=quota)
        self.busy.add(name)
        self.quotas.setdefault(name, set()).add(quota)
        self.model.edit(panel, name, quota)
        self.fleet.ask_panel(panel, "PUT", f"/api/user/{name}", {"data_limit": quota or 0})
        return True

    def _delete(self) -> bool:
        name = self._pick(is_quiet=True)
        if not name or self.closed_panels:
            return False
        panel = self.dice.choice(self.model.holders(name))
        on_panel = sum(1 for each, _ in self.model.users if each == panel)
        if on_panel <= len(self.names) // 2 or not self.fleet.runs(panel):
            return False
        if self.model.spans and not self._is_founder_left(panel, name):
            return False
        self.note("deletion", panel=panel, name=name)
        self._drop(panel, name)
        self.busy.add(name)
        return True

    def _is_founder_left(self, panel: str, name: str) -> bool:
        """Tell whether, without this user, the name goes on with those it began with, or ends."""
        left = set(self.model.holders(name)) - {panel}
        founders = self.model.persons[name].founders
        return not left or any(
            (each, self.model.users[each, name].made) in founders for each in left
        )

    def _drop(self, panel: str, name: str) -> None:
        self.model.delete(panel, name)
        # Marzban deletes a user without an owner and answers 500.
        self.fleet.ask_panel(panel, "DELETE", f"/api/user/{name}", expects=(200, 500))

    def _make(self) -> bool:
        names = [
            name
            for name in self.names
            if name not in self.busy | self.touched and len(self.model.holders(name)) < len(PANELS)
        ]
        if not names or self.closed_panels:
            return False
        name = self.dice.choice(names)
        panel = self.dice.choice([e for e in PANELS if e not in self.model.holders(name)])
        if not self.fleet.runs(panel) or panel in self.wiped_panels:
            return False
        holders = self.model.holders(name)
        is_unlimited = bool(holders) and self.model.standing(holders[0], name).quota is None
        quota = None if is_unlimited else self._new_quota()
        self.note("creation", panel=panel, name=name, quota=quota)
        self._create(panel, name, quota)
        self.busy.add(name)
        return True

    def _create(self, panel: str, name: str, quota: Quota) -> None:
        self.model.create(panel, name, quota)
        self.quotas.setdefault(name, set()).add(quota)
        body = {
            "username": name,
            "data_limit": quota or 0,
            "proxies": {"vless": {}},
            "inbounds": {},
        }
        self.fleet.ask_panel(panel, "POST", "/api/user", body)

    def _remake(self) -> bool:
        """Delete and make again all users of a name, in any order, with one quota."""
        name = self._pick(is_quiet=True)
        if not name or self.closed_panels:
            return False
        panels = self.model.holders(name)
        if not all(map(self.fleet.runs, panels)) or self.wiped_panels:
            return False
        if len(panels) > 1 and self.is_place_open:
            return False
        quota = self._new_quota()
        self.note("made again everywhere", name=name, quota=quota)
        self.dice.shuffle(panels)
        deleted_first = self.dice.random() < 0.5
        if deleted_first:
            for panel in panels:
                self._drop(panel, name)
        for panel in panels:
            if not deleted_first:
                self._drop(panel, name)
            self._create(panel, name, quota)
        self.model.found_together(name)
        self.busy.add(name)
        return True

    def pressed_too_often(self, pressed: Mapping[tuple[str, str], int]) -> list[str]:
        """Say which resets the bridge pressed that nothing in the model asks for.

        A bridge that is killed may not have written down a reset that it pressed just before.
        """
        problems = []
        for (panel, name), count in pressed.items():
            asked = self.presses[panel, name]
            if count > asked + (self.kills if asked else 0):
                problems.append(f"{name} on {panel}: Reset was pressed {count} times, not {asked}")
        return problems
