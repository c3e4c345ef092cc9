"""Three panels, one bridge, and what may befall them: is each user treated as it should?

    uv run --group bench python benchmarks/three_panels.py [--minutes 5] [--seed N]
        [--spanning | --separate | --switching] [--keep FOLDER] [--go-on]

Runs collector, bridge and three simulated panels as processes. In rounds of a few seconds people
use traffic on panels, senders report it under every name it may have, admins set quotas, reset,
delete and make users, while programs are killed and panels cannot be reached, are emptied, restored
or moved. After each round everything is let come to rest, and each user on each panel is compared
with a model made of docs/several-panels.md alone (`panel_fuzz/model.py`). `events.jsonl` in the
folder of `--keep` says what was done.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from panel_fuzz.accidents import Accidents  # noqa: E402
from panel_fuzz.checks import Checks  # noqa: E402
from panel_fuzz.director import Director  # noqa: E402
from panel_fuzz.fleet import BRIDGE, COLLECTOR, PANELS, Fleet  # noqa: E402
from panel_fuzz.model import Model  # noqa: E402
from panel_fuzz.scene import Scene  # noqa: E402

NAMES = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan"]
PASSES_SECONDS = 60
SETTLE_SECONDS = 20
MODES = ("spanning", "separate", "switching")
console = Console(soft_wrap=True)


def main() -> int:
    """Run the fuzz and print its table; 1 when anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seconds", type=float, help="instead of --minutes")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311 - dice
    parser.add_argument("--keep", type=Path, help="a folder for files and logs, to be kept")
    parser.add_argument("--without", action="append", default=[], help="do no such thing: _remake")
    parser.add_argument("--go-on", action="store_true", help="go on after the first wrong round")
    modes = parser.add_mutually_exclusive_group()
    for mode in MODES:
        modes.add_argument(f"--{mode}", dest="mode", action="store_const", const=mode)
    arguments = parser.parse_args()
    with contextlib.ExitStack() as opened:
        folder = arguments.keep or Path(opened.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        mode = arguments.mode or MODES[arguments.seed % len(MODES)]
        fuzz = Fuzz(folder.resolve(), mode=mode, seed=arguments.seed)
        fuzz.director.without = frozenset(arguments.without)
        opened.callback(fuzz.scene.close)
        opened.callback(fuzz.fleet.close)
        return fuzz.run(
            seconds=arguments.seconds or arguments.minutes * 60, goes_on=arguments.go_on
        )


class Fuzz:
    """One run with its parts."""

    def __init__(self, folder: Path, *, mode: str, seed: int) -> None:
        self.mode = mode
        self.seed = seed
        self.dice = random.Random(seed)  # noqa: S311 - dice
        spans = mode == "spanning"
        self.fleet = Fleet(
            folder,
            spans=spans,
            watch=self._watch,
        )
        self.scene = Scene(
            self.fleet,
            Model(PANELS, spans=spans),
            NAMES,
            dice=self.dice,
            journal=folder / "events.jsonl",
            may_switch=mode == "switching",
        )
        self.director = Director(self.scene)
        self.accidents = Accidents(self.fleet, self.scene, dice=self.dice)
        self.checks = Checks(self.fleet, self.scene)
        self.rounds = self.users_checked = 0
        self.slowest_seconds = 0.0
        self.wrong: list[str] = []

    def _watch(self, panel: str, name: str, body: Mapping[str, Any]) -> None:
        self.checks.watch(panel, name, body)

    def run(self, *, seconds: float, goes_on: bool) -> int:
        """Run it all and return the exit code."""
        console.print(f"seed {self.seed}, {self.mode}, {seconds / 60:.1f} minutes", highlight=False)
        self.fleet.start(COLLECTOR, *PANELS)
        self.fleet.until_up(COLLECTOR, *PANELS)
        self.director.populate()
        self.scene.begin_round()
        self.scene.allow_own_limits()
        self.fleet.start(BRIDGE)
        self.fleet.until_up(BRIDGE)
        began_at = time.monotonic()
        self._come_to_rest(began_at)
        while time.monotonic() - began_at < seconds and (goes_on or not self.wrong):
            self._round()
            self._come_to_rest(began_at)
        self._show(time.monotonic() - began_at)
        return 1 if self.wrong else 0

    def _round(self) -> None:
        self.accidents.drop_backups(self.scene.wiped_panels)
        self.scene.begin_round()
        self.checks.begin_round()
        if self.mode == "switching" and self.dice.random() < 0.5:
            self._switch()
        elif self.dice.random() < 0.3:
            self.scene.is_rewritten = self.accidents.restore_for_good() is not None
        elif self.dice.random() < 0.6:
            self.accidents.back_up()
        for _ in range(self.dice.randrange(8, 30)):
            if self.dice.random() < 0.12 and len(self.accidents.under_way) < 2:
                self.accidents.begin()
            elif self.dice.random() < 0.1:
                self.accidents.end_one()
            self.director.act()
            if self.dice.random() < 0.3:
                self._note_wrong(self.checks.glance())
            time.sleep(self.dice.expovariate(1 / 0.08))  # people are no faster
        while self.accidents.under_way:
            self.accidents.end_one()

    def _switch(self) -> None:
        with self.scene.lock, self.fleet.bridge_down():
            self.fleet.spans = not self.fleet.spans
            self.scene.note("switched", spans=self.fleet.spans)
            self.scene.model.switch(spans=self.fleet.spans)
            self.scene.remember()
            self.scene.is_rewritten = True
        self.accidents.counts["quotas shared or parted"] += 1

    def _come_to_rest(self, began_at: float) -> None:
        """Wait for two passes over each panel; say what is wrong when nothing changes any more."""
        quiet_at = time.monotonic()
        problems: list[str] = []
        try:
            self.accidents.accept_lost_writes()
            self.fleet.two_passes(seconds=PASSES_SECONDS)
            deadline = time.monotonic() + SETTLE_SECONDS
            while (problems := self.checks.quiet()) and time.monotonic() < deadline:
                time.sleep(0.2)
        except AssertionError as error:
            problems = [str(error), *self.checks.quiet()]
        settled_seconds = time.monotonic() - quiet_at
        self.slowest_seconds = max(self.slowest_seconds, settled_seconds)
        problems += self.checks.watched + self.checks.pressed()
        self.checks.watched.clear()
        self._note_wrong(problems)
        self.scene.note("quiet", problems=problems)
        self.rounds += 1
        self.users_checked += self.checks.users
        console.print(
            f"{time.monotonic() - began_at:6.0f} s  round {self.rounds:3}  "
            f"{'spanning' if self.fleet.spans else 'separate'}  {self.checks.users} users right in "
            f"{settled_seconds:4.1f} s  {sum(self.scene.counts.values()):5} events  "
            f"{self.accidents.counts.total():3} accidents  {len(problems)} wrong",
            highlight=False,
        )

    def _note_wrong(self, problems: list[str]) -> None:
        for each in problems:
            console.print(f"[bold red]wrong:[/] {each}", highlight=False, soft_wrap=True)
        self.wrong += problems

    def _show(self, seconds: float) -> None:
        table = Table(
            title=f"Three panels, {self.mode}, {seconds / 60:.1f} minutes, seed {self.seed}",
            title_justify="left",
            show_header=False,
        )
        done = Counter(
            {
                kind: count
                for kind, count in self.scene.counts.items()
                if not kind.startswith(("accident", "quiet"))
            }
        )
        for what, value in (
            ("rounds", self.rounds),
            ("users compared", f"{self.users_checked:,}"),
            ("done by people and senders", _counts(done)),
            ("accidents", _counts(self.accidents.counts)),
            ("longest until right after quiet", f"{self.slowest_seconds:.1f} s"),
            ("wrong", len(self.wrong)),
        ):
            table.add_row(what, str(value))
        console.print(table)
        console.print("[bold green]all right[/]" if not self.wrong else "[bold red]NOT right[/]")


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


if __name__ == "__main__":
    sys.exit(main())
