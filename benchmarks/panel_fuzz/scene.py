"""What is going on: who may be touched, what was meant and used in this round, and the journal."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from panel_fuzz.fleet import Fleet
from panel_fuzz.gateway import PASSES
from panel_fuzz.model import Model, Quota

MIB = 2**20
ROUNDING_BYTES = 2**14
QUOTAS_MIB = (300, 3000)
KILL_SECONDS = 5.0


class Scene:
    """The fleet and its model, with what accidents and people have to know of each other."""

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
        self.reported_at_rest: set[str] = set()
        """Names that had been reported at the last quiet point: whose a name alone is that is
        reported for the first time, panels are asked first."""
        self.is_rewritten = False
        """Whether the bridge writes to users whom nobody touched in this round: an edit within
        milliseconds of a write is lost (decision 0004)."""
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
        self._journal = journal.open("a", encoding="utf-8")
        self._sent = 0
        self._began_at = time.monotonic()

    def close(self) -> None:
        """End the journal."""
        self._journal.close()

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
            self.is_rewritten = False
            self.reported_at_rest = set(self.model.reported)
            self.quotas = {}
            self.peaks.clear()
            self.remember()

    def allow_own_limits(self) -> None:
        """Let each user's own limit be the quota until the bridge has seen all of its panels."""
        for (_, name), user in self.model.users.items():
            self.quotas[name].add(user.quota)

    def bridge_was_killed(self) -> None:
        """Note that the bridge may not have written down what it did just before."""
        self.kills += 1
        for gateway in self.fleet.gateways.values():
            lately = gateway.since(self.fleet.now - KILL_SECONDS)
            gateway.unsure_resets.update(it.username for it in lately if it.action == "reset")

    def is_unsure(self, name: str) -> bool:
        """Tell whether the bridge may take a reset of a name for one of its own that was late."""
        return any(name in gateway.unsure_resets for gateway in self.fleet.gateways.values())

    def remember(self) -> None:
        """Keep what is meant and used now for what may be seen of it until the next quiet point."""
        for panel, name in self.model.users:
            self.quotas.setdefault(name, set()).add(self.model.standing(panel, name).quota)
            self.peaks[name] = max(self.peaks[name], self.model.expected_total(name))

    def pick(self, *, is_quiet: bool = False, holders: int = 1) -> str | None:
        """Return a name that something may be done with; quiet: nothing was done in the round."""
        names = [
            name
            for name in self.names
            if name not in self.busy
            and not (is_quiet and name in self.touched)
            and len(self.model.holders(name)) >= holders
        ]
        return self.dice.choice(names) if names else None

    def open_holders(self, name: str) -> list[str]:
        """Return the panels of a name whose databases are theirs."""
        return [panel for panel in self.model.holders(name) if panel not in self.closed_panels]

    def is_reached(self, panel: str) -> bool:
        """Tell whether the bridge can reach a panel."""
        return self.fleet.gateways[panel].fault == PASSES and self.fleet.runs(panel)

    def new_quota(self) -> int:
        """Return a quota that somebody may type."""
        return self.dice.randrange(*QUOTAS_MIB) * MIB

    def send(self, reported: str, count: int) -> None:
        """Report something until it is acknowledged, now and then twice."""
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
