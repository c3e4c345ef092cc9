"""Compares what panels and bridge show with the model: at any time, and when all is quiet."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from panel_fuzz.fleet import PANELS, AwayError, Fleet
from panel_fuzz.model import Standing
from panel_fuzz.scene import MIB, ROUNDING_BYTES, Scene

FLOOR_BYTES = MIB
STEP_BYTES, STEP_SHARE = 10 * MIB, 0.05
"""docs: a limit follows once 10 MiB, or 5 % of what is left, are not in it."""


class Checks:
    """Finds what is wrong; `watched` collects it from the gateways' threads."""

    def __init__(self, fleet: Fleet, scene: Scene) -> None:
        self._fleet = fleet
        self._scene = scene
        self._model = scene.model
        self.watched: list[str] = []
        self.users = 0
        self._since = fleet.now

    def begin_round(self) -> None:
        """Count the bridge's resets from now on."""
        self._since = self._fleet.now

    def watch(self, panel: str, name: str, body: Mapping[str, Any]) -> None:
        """Look at a write of the bridge before the panel carries it out."""
        quotas = self._scene.quotas.get(name)
        if not quotas:
            return
        limited = [each for each in quotas if each is not None]
        limit = body.get("data_limit")
        at = round(time.monotonic() - self._since, 2)
        if limit == 0 and None not in quotas:
            self.watched.append(f"{name} on {panel}: made unlimited, quotas {quotas} ({at} s)")
        elif limit and limited and limit > max(limited) + ROUNDING_BYTES and None not in quotas:
            self.watched.append(f"{name} on {panel}: limit {limit} above quotas {quotas} ({at} s)")
        user = self._model.users.get((panel, name))
        if user is None or not limited or self._scene.peaks[name] >= min(limited):
            return
        is_cut = body.get("status") == "disabled" or (limit and user.used >= limit)
        if is_cut:
            self.watched.append(
                f"{name} on {panel}: cut off by {dict(body)} with {user.used} used there, "
                f"{self._scene.peaks[name]} at most in all, of {quotas} ({at} s)"
            )

    def glance(self) -> list[str]:
        """Say what must not be at any time: a quota nobody set, more used than ever was."""
        problems: list[str] = []
        panel = PANELS[int(time.monotonic() * 10) % len(PANELS)]
        try:
            rows = self._fleet.bridge_users(panel)
        except AwayError:
            return []
        for name, row in rows.items():
            quotas, peak = self._scene.quotas.get(name), self._scene.peaks[name]
            if quotas and row["quota_bytes"] not in quotas:
                problems.append(f"{name} on {panel}: quota {row['quota_bytes']}, set were {quotas}")
            if (panel, name) in self._model.users and row["used_bytes"] > peak:
                problems.append(
                    f"{name} on {panel}: {row['used_bytes']} used, there never were more: {peak}"
                )
        return problems

    def pressed(self) -> list[str]:
        """Say which resets the bridge pressed in this round that nothing asked for.

        One whose answer the bridge never had, it presses again.
        """
        pressed: Counter[tuple[str, str]] = Counter()
        for panel, gateway in self._fleet.gateways.items():
            for each in gateway.since(self._since):
                if each.action == "reset" and each.status == 200:
                    pressed[panel, each.username] += 1
        return self._scene.pressed_too_often(pressed)

    def quiet(self) -> list[str]:
        """Say what is wrong now that everything has come to rest."""
        try:
            problems = [f"not ready: {each}" for each in self._fleet.reasons()]
            self._scene.known.clear()
            self.users = 0
            for panel in PANELS:
                problems += self._of_panel(panel)
        except AwayError as error:
            return [f"the bridge does not say: {error}"]
        totals = self._fleet.ledger_totals()
        problems += [
            f"the ledger has {totals.get(name, 0)} of {name}, {count} were acknowledged"
            for name, count in self._model.reported.items()
            if totals.get(name, 0) != count
        ]
        return problems

    def _of_panel(self, panel: str) -> list[str]:
        rows, accounts = self._fleet.panel_users(panel), self._fleet.bridge_users(panel)
        names = {name for each, name in self._model.users if each == panel}
        self._scene.known |= {(panel, name) for name in names & accounts.keys()}
        problems = [f"{name} is not on {panel}" for name in names - rows.keys()]
        problems += [f"{name} should not be on {panel}" for name in rows.keys() - names]
        for name in sorted(names & rows.keys()):
            right = self._model.standing(panel, name)
            found = problem_of(right, rows[name], accounts.get(name))
            problems += [f"{name} on {panel}: {each}" for each in found]
            self.users += 1
        return problems


def problem_of(
    right: Standing, row: Mapping[str, Any], account: Mapping[str, Any] | None
) -> list[str]:
    """Say what is wrong with a user: `row` is the panel's, `account` the bridge's."""
    problems = []
    if row["used_traffic"] != right.on_panel:
        problems.append(f"the panel counts {row['used_traffic']}, used there were {right.on_panel}")
    if account is None:
        if right.used != right.on_panel:
            problems.append(f"the bridge does not know it; {right.used} used")
    else:
        if account["quota_bytes"] != right.quota:
            problems.append(
                f"the bridge's quota is {account['quota_bytes']}, set was {right.quota}"
            )
        if account["used_bytes"] != right.used:
            problems.append(f"the bridge says {account['used_bytes']} used, right is {right.used}")
    return problems + _limit_problems(right, row["data_limit"], row["status"])


def _limit_problems(right: Standing, shown: int | None, status: str) -> list[str]:
    if right.quota is None or right.left is None:
        is_right = (shown, status) == (None, "active")
        return [] if is_right else [f"unlimited, shown {shown}, {status}"]
    if right.left <= 0:
        is_right = status in {"limited", "disabled"}
        return [] if is_right else [f"{-right.left} over its quota, and {status} (limit {shown})"]
    problems = []
    if status != "active":
        problems.append(f"{right.left} left, and {status} (limit {shown})")
    exact = max(min(FLOOR_BYTES, right.quota), right.on_panel + right.left)
    step = max(STEP_BYTES, right.left * STEP_SHARE)
    if shown is None or not -ROUNDING_BYTES <= shown - exact <= step + ROUNDING_BYTES:
        problems.append(f"limit {shown} shown, right is {exact}")
    return problems
