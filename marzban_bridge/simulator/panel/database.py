"""What befalls a simulated panel's database: it is copied, restored, emptied or moved.

Steps are words, so that a file can ask for them: `dump NAME`, `restore NAME`, `empty`,
`cut-seconds` (as by a move to a database without fractions of a second).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.snapshot import restore_snapshot, to_snapshot


class PanelDatabase:
    """The users of one simulated panel, with copies of them by name."""

    def __init__(self, panel: SimulatedPanel) -> None:
        self._panel = panel
        self._copies: dict[str, dict[str, Any]] = {}
        self._steps_done = 0

    def dump(self, name: str = "backup") -> None:
        """Copy the database as it is now."""
        self._copies[name] = to_snapshot(self._panel)

    def restore(self, name: str = "backup") -> None:
        """Put a copy in the database's place; KeyError when there is none of that name."""
        restore_snapshot(self._panel, self._copies[name])

    def empty(self) -> None:
        """Begin with no users, as on a new volume; admins and tokens stay valid."""
        self._panel.users = {}
        self._panel.revision += 1

    def cut_seconds(self) -> None:
        """Drop the fractions of a second of every `created_at`."""
        for user in self._panel.users.values():
            if user.created_at is not None:
                user.created_at = user.created_at.replace(microsecond=0)
        self._panel.revision += 1

    def follow(self, steps: Sequence[str]) -> None:
        """Do what a growing list of steps asks for and was not done yet; ValueError for no step."""
        for step in steps[self._steps_done :]:
            self._do(step)
            self._steps_done += 1

    def _do(self, step: str) -> None:
        match step.split():
            case ["dump", name]:
                self.dump(name)
            case ["restore", name]:
                self.restore(name)
            case ["empty"]:
                self.empty()
            case ["cut-seconds"]:
                self.cut_seconds()
            case _:
                raise ValueError(f"no step of a panel's database: {step!r}")
