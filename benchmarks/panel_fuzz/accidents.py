"""What befalls programs, ways and databases while people are at work."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from panel_fuzz.fleet import BRIDGE, COLLECTOR, PANELS, AwayError, Fleet
from panel_fuzz.gateway import FAULTS
from panel_fuzz.model import Quota
from panel_fuzz.scene import Scene

from tests.support.processes import until

SHOWN_SECONDS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Accident:
    """Something that has begun, and how it ends; `on` is what it is about."""

    kind: str
    on: str
    end: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A user in a backup: as the model had it, and what the panel counted with its log."""

    made: int
    used: int
    quota: Quota
    lifetime: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A panel's database of some quiet point, and its users by name."""

    database: dict[str, Any]
    users: dict[str, Saved]


class Accidents:
    """Begins accidents; one that is about the same program as one under way is not begun."""

    def __init__(self, fleet: Fleet, scene: Scene, *, dice: random.Random) -> None:
        self._fleet = fleet
        self._scene = scene
        self._model = scene.model
        self._dice = dice
        self.under_way: list[Accident] = []
        self.counts: Counter[str] = Counter()
        self._ended: set[float] = set()
        self._lost_writes: set[str] = set()
        """Panels put forward over writes of the bridge to their backup: really older than it."""
        self._backups: dict[str, Backup] = {}

    def begin(self) -> None:
        """Begin one more accident, if there is one that does not meet another."""
        begins = self._dice.choice(
            (
                *(self._kill_bridge, self._kill_bridge, self._kill_collector, self._kill_panel),
                *(self._break, self._break, self._empty, self._restore, self._move_address),
                self._move_database,
            )
        )
        with self._scene.lock:
            accident = begins()
        if accident is not None:
            self.under_way.append(accident)
            self.counts[accident.kind] += 1
            self._scene.note("accident", what=accident.kind, on=accident.on)

    def end_one(self) -> None:
        """End the accident that has lasted longest."""
        if self.under_way:
            accident = self.under_way.pop(0)
            accident.end()
            self._scene.note("accident over", what=accident.kind, on=accident.on)

    def _free(self, *names: str) -> list[str]:
        taken = {each.on for each in self.under_way}
        return [name for name in names if name not in taken]

    def _free_panel(self) -> str | None:
        panels = self._free(*PANELS)
        return self._dice.choice(panels) if panels else None

    def _kill(self, name: str, kind: str) -> Accident | None:
        if not self._free(name):
            return None
        self._fleet.kill(name)
        if name == BRIDGE:
            self._scene.bridge_was_killed()

        def end() -> None:
            self._fleet.start(name)
            self._fleet.until_up(name)

        return Accident(kind=kind, on=name, end=end)

    def _kill_bridge(self) -> Accident | None:
        return self._kill(BRIDGE, "kill -9 of the bridge")

    def _kill_collector(self) -> Accident | None:
        return self._kill(COLLECTOR, "kill -9 of the collector")

    def _kill_panel(self) -> Accident | None:
        panel = self._free_panel()
        return self._kill(panel, "kill -9 of a panel") if panel else None

    def _break(self) -> Accident | None:
        panel = self._free_panel()
        if panel is None:
            return None
        fault = self._dice.choice(FAULTS)
        gateway = self._fleet.gateways[panel]
        gateway.break_(fault)
        return Accident(kind=f"a panel that {_said(fault)}", on=panel, end=gateway.mend)

    def _move_address(self) -> Accident | None:
        """Have a panel answer elsewhere, and restart the bridge with its new address."""
        panel = self._free_panel()
        if panel is None or not self._free(BRIDGE):
            return None
        self._fleet.kill(BRIDGE)
        self._scene.bridge_was_killed()
        self._fleet.gateways[panel].move()

        def end() -> None:
            self._fleet.start(BRIDGE)
            self._fleet.until_up(BRIDGE)

        return Accident(kind="a panel moved to another address", on=BRIDGE, end=end)

    def _move_database(self) -> Accident | None:
        panel = self._closable_panel()
        if panel is None:
            return None
        self._close(panel)
        self._fleet.simulate(panel, "POST", "/database/cut-seconds")
        return Accident(
            kind="a panel moved to a database without microseconds",
            on=panel,
            end=lambda: self._open(panel),
        )

    def _empty(self) -> Accident | None:
        panel = self._closable_panel()
        if panel is None:
            return None
        return self._exchange(panel, lambda newest: {**newest, "users": []}, "an empty panel")

    def _restore(self) -> Accident | None:
        panel = self._closable_panel()
        if panel is None or panel not in self._backups or not self._is_told_from_edits(panel):
            return None
        database = self._backups[panel].database
        return self._exchange(panel, lambda _: database, "a panel on its backup for a while")

    def _closable_panel(self) -> str | None:
        """Return a panel that is reached and where nobody is at work on users in this round."""
        panels = [
            panel
            for panel in self._free(*PANELS)
            if not any(
                name in self._scene.busy for each, name in self._model.users if each == panel
            )
        ]
        return self._dice.choice(panels) if panels else None

    def _close(self, panel: str) -> None:
        self._scene.closed_panels.add(panel)

    def _open(self, panel: str) -> None:
        self._scene.closed_panels.discard(panel)

    def _exchange(
        self, panel: str, other: Callable[[dict[str, Any]], dict[str, Any]], kind: str
    ) -> Accident:
        self._close(panel)
        since = self._fleet.now
        newest = self._fleet.simulate(panel, "GET", "/database")
        self._fleet.simulate(panel, "PUT", "/database", other(newest))

        def end() -> None:
            self._fleet.simulate(panel, "PUT", "/database", newest)
            self._open(panel)
            if self._fleet.gateways[panel].since(since):
                self._lost_writes.add(panel)

        return Accident(kind=kind, on=panel, end=end)

    def back_up(self) -> None:
        """Take a backup of a panel; at a quiet point."""
        panel = self._dice.choice(PANELS)
        rows = self._fleet.panel_users(panel)
        users = {
            name: Saved(
                made=user.made,
                used=user.used,
                quota=self._model.standing(panel, name).quota,
                lifetime=rows[name]["lifetime_used_traffic"],
            )
            for (each, name), user in self._model.users.items()
            if each == panel
        }
        database = self._fleet.simulate(panel, "GET", "/database")
        self._backups[panel] = Backup(database=database, users=users)

    def drop_backups(self, panels: Iterable[str]) -> None:
        """Restore no backup from before a reset of all users.

        A user whose log had something in the backup, and has nothing since, looks as if it were
        reset once more.
        """
        for panel in panels:
            self._backups.pop(panel, None)

    def restore_for_good(self) -> str | None:
        """Put a panel back to its backup and accept it as an operator does; at a quiet point.

        Nothing for a panel whose users are others than in the backup, or whose quotas span panels
        and were reset since: what such a panel's users have used then, the page does not say. Nor
        for one whose quotas alone are others.
        """
        panels = [panel for panel in PANELS if self._is_restorable(panel)]
        if not panels:
            return None
        panel = self._dice.choice(panels)
        backup = self._backups[panel]
        now = {name: user for (each, name), user in self._model.users.items() if each == panel}
        used = {name: saved.used for name, saved in backup.users.items()}
        self._scene.note("accident", what="a panel restored for good", on=panel)
        self.counts["a panel restored for good"] += 1
        passes = self._fleet.passes().get(panel)
        moved = {name: (user.used, used[name]) for name, user in now.items()}
        moved = {name: (new, old) for name, (new, old) in moved.items() if new != old}
        self._fleet.simulate(panel, "PUT", "/database", backup.database)
        self._model.restored(panel, used)
        self._scene.remember()
        if not self._accept(panel, beyond=passes):
            assert not moved, f"panel {panel} was restored, and is in no doubt: {moved}"
        return panel

    def _is_restorable(self, panel: str) -> bool:
        if panel not in self._backups:
            return False
        users = self._backups[panel].users
        now = {name: user for (each, name), user in self._model.users.items() if each == panel}
        if {name: user.made for name, user in now.items()} != {
            name: saved.made for name, saved in users.items()
        }:
            return False
        was_reset = any(users[name].used > user.used for name, user in now.items())
        return not (self._model.spans and was_reset) and self._is_told_from_edits(panel)

    def _is_told_from_edits(self, panel: str) -> bool:
        """Tell whether the bridge can tell a panel's backup from admins who set quotas back.

        Of one user or two it cannot where nothing but quotas was changed since; one user whom the
        bridge saw use more of the panel is enough (decision 0016).
        """
        users = self._backups[panel].users
        kept = [name for name, saved in users.items() if self._is_there(panel, name, saved)]
        seen = self._fleet.seen_lifetimes(panel)
        if any(seen.get(name, 0) > users[name].lifetime for name in kept):
            return True
        return all(self._model.standing(panel, name).quota == users[name].quota for name in kept)

    def _is_there(self, panel: str, name: str, saved: Saved) -> bool:
        user = self._model.users.get((panel, name))
        return user is not None and user.made == saved.made

    def accept_lost_writes(self) -> None:
        """Accept, where it is asked for, panels that lack writes of the bridge; when all run."""
        while self._lost_writes:
            self._accept(self._lost_writes.pop(), beyond=None)

    def _accept(self, panel: str, *, beyond: float | None) -> bool:
        """Accept a panel as an operator does, once it is in doubt; return whether it was.

        It is not where nothing of its backup is older than what the bridge knows.
        """
        self._ended = set()
        until(
            f"panel {panel} is in doubt, or has been looked at",
            lambda: self._is_doubted(panel) or self._has_passed(panel, beyond=beyond),
            seconds=SHOWN_SECONDS,
        )
        if not self._is_doubted(panel):
            return False
        done = self._fleet.command("rebase", "--panel", panel, "--yes")
        assert done.returncode == 0, f"rebase --panel {panel}: {done.stdout}{done.stderr}"
        return True

    def _has_passed(self, panel: str, *, beyond: float | None) -> bool:
        """Tell whether two passes over a panel have ended since one that ended at a moment."""
        try:
            at = self._fleet.passes().get(panel)
        except AwayError:
            return False
        if at is not None and at != beyond:
            self._ended.add(at)
        return len(self._ended) >= 3

    def _is_doubted(self, panel: str) -> bool:
        try:
            return any(f"rebase --panel {panel}`" in each for each in self._fleet.reasons())
        except AwayError:
            return False


def _said(fault: str) -> str:
    return {
        "refuses": "answers 502",
        "hangs": "does not answer",
        "deaf": "does not answer and does what it is asked",
        "late": "carries writes out late",
    }[fault]
