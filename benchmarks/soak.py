"""Hours of accidents in minutes: do the books balance, is memory flat, is every limit right after?

    uv run --group bench python benchmarks/soak.py [--minutes 30] [--seed N] [--panel-kind KIND]

Runs collector, bridge and a simulated panel as processes, and a real InfluxDB where there is one
(see tests/support/engines/influx_engine.py). Senders report all the time, one in a hundred again,
one in a hundred garbage, a stranger for names that no panel can have, and a user for itself, beyond
its bounds; an admin resets users, sets quotas, deletes users and makes them again; random accidents
kill programs, fill the disk (as root), slow the panel, empty it, restore it from a backup, refuse
its lists, have its writes carried out late, step the clock (with libfaketime) and leave connections
half open. In the last third nothing is killed, and memory must stay flat. Then, after quiet: what
was acknowledged, the ledger, InfluxDB and every user in the panel must agree.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from tests.support.engines import influx_engine  # noqa: E402
from tests.support.engines.influx_engine import InfluxEngine  # noqa: E402
from tests.support.processes import BRIDGE, COLLECTOR, PANEL, REPORTER_KEY, Stack, feed_totals  # noqa: E402
from tests.support.soak.soak_admin import (  # noqa: E402
    SPIKE_KEY,
    SPIKE_REPORTER,
    AdminAtWork,
    Meant,
)
from tests.support.soak.soak_chaos import (  # noqa: E402
    FAKETIME,
    Chaos,
    SteppedClock,
    Supervisor,
    rss_mib,
    small_disk,
)
from tests.support.soak.soak_lies import GREEDY_BOUNDS, Greedy, LyingPanel, Stranger  # noqa: E402
from tests.support.soak.soak_load import Books, Sender  # noqa: E402

USERS, SENDERS = 24, 6
GREEDY = "greedy"
DISK_MIB = 1024
SETTLE_SECONDS = 240
GROWTH_SHARE, GROWTH_MIB = 0.15, 16
STARTING_SECONDS = 15.0
"""A program is not compared with what it took before it had loaded all its modules."""
SUMS = (
    'SELECT sum("upload_bytes") AS up, sum("download_bytes") AS down, count("upload_bytes") AS n '
    'FROM "{}"."traffic"'
)
console = Console(soft_wrap=True)


def main() -> int:
    """Run the soak and print its table; 1 when anything does not balance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311 - dice
    parser.add_argument("--panel-kind", choices=["marzban", "pasarguard"], default="marzban")
    parser.add_argument("--keep", type=Path, help="a folder for files and logs, to be kept")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as opened:
        folder = arguments.keep or Path(opened.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        disk = opened.enter_context(small_disk(folder / "disk", mebibytes=DISK_MIB))
        influx = None
        if influx_engine.describe():
            (folder / "influxd").mkdir(exist_ok=True)
            influx = opened.enter_context(contextlib.closing(InfluxEngine(folder / "influxd")))
        soak = Soak(
            folder,
            disk,
            influx,
            kind=arguments.panel_kind,
            seconds=arguments.minutes * 60,
            seed=arguments.seed,
        )
        opened.callback(soak.stack.close)
        return soak.run()


class Soak:
    """One run with its parts."""

    def __init__(
        self,
        folder: Path,
        disk: Path | None,
        influx: InfluxEngine | None,
        *,
        kind: str,
        seconds: float,
        seed: int,
    ) -> None:
        self.kind = kind
        self.seconds = seconds
        self.seed = seed
        self.influx = influx
        dice = random.Random(seed)  # noqa: S311 - dice
        is_short = seconds < 300
        self.clock = SteppedClock(folder) if FAKETIME.exists() else None
        place = disk or folder
        faults = folder / "faults.json"
        users = [_user(number) for number in range(USERS)]
        greedy = {"username": GREEDY, "data_limit": 10 * 2**30, "used_traffic": 0}
        self.stack = Stack(
            folder,
            [*users, greedy],
            {
                "LEDGER_URL": f"sqlite:///{place}/ledger.sqlite3",
                "BRIDGE_STORE": str(place / "bridge.sqlite3"),
                "BRIDGE_SNAPSHOT_SECONDS": "20",
                "COLLECTOR_MIN_FREE_DISK_BYTES": "1000000",
                "COLLECTOR_REPORTER_KEYS": f"test:{REPORTER_KEY},{SPIKE_REPORTER}:{SPIKE_KEY}",
                **GREEDY_BOUNDS,
                **(influx.environment() if influx else {}),
                **(self.clock.environment() if self.clock else {}),
            },
            panel_arguments=("--kind", kind, "--faults", str(faults), "--durable"),
        )
        names = [str(user["username"]) for user in users]
        self.books = Books(names)
        self.ending = threading.Event()
        self.closing_time = threading.Event()
        self.senders = [
            Sender(
                number,
                self.stack.urls[COLLECTOR],
                self.books,
                self.ending,
                seed=seed,
                pause_seconds=0.1 if is_short else 0.03,
            )
            for number in range(SENDERS)
        ]
        meant = {
            str(user["username"]): Meant(
                quota_bytes=int(str(user["data_limit"])),
                is_disabled_by_admin=user["username"] == "user1",
            )
            for user in users
        }
        self.admin = AdminAtWork(
            self.stack,
            place / "bridge.sqlite3",
            meant,
            self.books,
            self.ending,
            kind=kind,
            dice=dice,
            pause_seconds=2 if is_short else 5,
            taken_seconds=240,
        )
        self.supervisor = Supervisor(self.stack, self.closing_time)
        self.chaos = Chaos(
            self.stack,
            influx=influx,
            disk=disk,
            clock=self.clock,
            faults=faults,
            supervisor=self.supervisor,
            books=self.books,
            dice=random.Random(seed + 1),  # noqa: S311 - dice
            slow_seconds=3 if is_short else 30,
            slow_for_seconds=4 if is_short else 40,
            # An admin's edit in the seconds in which a write lands late is lost (decision 0015),
            # and in a short run the admin edits every two seconds.
            has_late_writes=not is_short,
            lies=LyingPanel(
                self.stack,
                faults,
                guard=self.supervisor.guard,
                paused=self.admin.paused,
                dice=random.Random(seed + 3),  # noqa: S311 - dice
                seconds=3 if is_short else 12,
            ),
        )
        self.stranger = Stranger(
            self.stack, self.books, self.ending, seed=seed, pause_seconds=0.5 if is_short else 2
        )
        self.greedy = Greedy(
            self.stack,
            self.books,
            self.ending,
            username=GREEDY,
            pause_seconds=0.5 if is_short else 2,
        )
        self.memory: dict[str, list[tuple[float, int, float]]] = defaultdict(list)
        self.sums: dict[str, int | None] = {}

    def run(self) -> int:
        """Run it all and return the exit code."""
        console.print(
            f"seed {self.seed}, {self.seconds / 60:.1f} minutes on a {self.kind}; InfluxDB: "
            f"{influx_engine.describe() or 'none'}; disk: "
            f"{'small' if self.chaos.has_disk else 'never full (needs root)'}; clock: "
            f"{'stepped' if self.clock else 'not stepped (needs libfaketime)'}",
            highlight=False,
        )
        self.stack.start(PANEL, COLLECTOR, BRIDGE)
        self.stack.until_up(PANEL, COLLECTOR, BRIDGE)
        self.stack.modify("user1", status="disabled")
        threads = [*self.senders, self.admin, self.stranger, self.greedy, self.supervisor]
        threading.Thread(target=self._watch_memory, daemon=True).start()
        for each in threads:
            each.start()
        # What is reported of a user whom the bridge does not know, in an empty panel, is forgiven.
        self.admin.until_adopted()
        self._have_accidents()
        self.ending.set()
        self.chaos.end()
        for each in [*self.senders, self.admin, self.stranger, self.greedy]:
            each.join(SETTLE_SECONDS * 2)
            if each.is_alive():
                self.books.note(f"{each.name} did not come to an end")
        quiet_since = time.monotonic()
        problems = self._until_balanced()
        settled_seconds = time.monotonic() - quiet_since
        self.closing_time.set()
        problems += self.books.defects + self._memory_problems()
        self._show(settled_seconds)
        for each in problems:
            console.print(f"[bold red]problem:[/] {each}", highlight=False, soft_wrap=True)
        console.print("[bold green]balanced[/]" if not problems else "[bold red]NOT balanced[/]")
        return 1 if problems else 0

    def _have_accidents(self) -> None:
        started_at = time.monotonic()
        pauses = random.Random(self.seed + 2)  # noqa: S311 - dice
        while (passed := time.monotonic() - started_at) < self.seconds:
            told = self.chaos.cause(kills=passed < self.seconds * 2 / 3)
            console.print(
                f"{time.monotonic() - started_at:6.0f} s  {self.books.reports:9,} reports  "
                f"{sum(self.admin.done_counts.values()):4} by the admin  {told}",
                highlight=False,
            )
            time.sleep(min(pauses.uniform(0.5, self.seconds / 60 + 1), 8))

    def _watch_memory(self) -> None:
        started_at = time.monotonic()
        while not self.closing_time.wait(min(2.0, self.seconds / 40)):
            for name in (COLLECTOR, BRIDGE, PANEL):
                pid = self.stack.pid(name)
                if pid and (mib := rss_mib(pid)):
                    self.memory[name].append((time.monotonic() - started_at, pid, mib))

    def _memory_problems(self) -> list[str]:
        """Compare the last third's beginning and end, in the process that lived through it."""
        problems = []
        for name in (COLLECTOR, BRIDGE):
            samples = self.memory[name]
            own = [each for each in samples if each[1] == samples[-1][1]]
            last = [mib for at, _, mib in own if at > own[0][0] + STARTING_SECONDS]
            if len(last) < 20:
                continue
            tenth = len(last) // 10
            before = statistics.median(last[tenth : 2 * tenth])
            after = statistics.median(last[-tenth:])
            if after > before * (1 + GROWTH_SHARE) + GROWTH_MIB:
                problems.append(f"the {name} grew from {before:.0f} to {after:.0f} MiB")
        return problems

    def _until_balanced(self) -> list[str]:
        """Return what is still wrong when nothing has changed for long enough."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while (problems := self._problems()) and time.monotonic() < deadline:
            time.sleep(0.5)
        return problems

    def _problems(self) -> list[str]:
        problems: list[str] = []
        checks: tuple[Callable[[], list[str]], ...] = (
            self._ledger_problems,
            self._influx_problems,
            self._panel_problems,
            self._health_problems,
        )
        for check in checks:
            try:
                problems += check()
            except Exception as error:  # noqa: BLE001 - a program may still be starting
                problems.append(f"{check.__name__}: {error!r}")
        return problems

    def _ledger_problems(self) -> list[str]:
        totals = Counter(feed_totals(self.stack.client, self.stack.urls[COLLECTOR]))
        self.sums["ledger"] = sum(totals.values())
        problems = [
            f"{name}: the ledger has {totals[name]}, acknowledged were {self.books.bytes[name]}"
            for name in self.books.bytes
            if totals[name] != self.books.bytes[name]
        ]
        problems += [f"{name} was never reported" for name in totals.keys() - self.books.bytes]
        reports = self.stack.ask_collector("/v1/usage")["reports"]
        counted = self.books.reports - self.books.voided
        if reports != counted:
            problems.append(f"{reports} reports in the ledger, {counted} acknowledged, not voided")
        if not problems and (checked := self.stack.run("collector", "check")).returncode:
            problems.append(f"traffic-collector check: {checked.stdout[-500:]}")
        return problems

    def _influx_problems(self) -> list[str]:
        if self.influx is None:
            return []
        wanted = (self.sums.get("ledger") or 0) - self.books.corrected_bytes
        for policy in ("raw", "daily"):
            row = (self.influx.query(SUMS.format(policy)) or [{"up": 0, "down": 0, "n": 0}])[0]
            self.sums[policy] = row["up"] + row["down"]
            if policy == "raw":
                self.sums["raw points"] = row["n"]
        problems = [
            f"InfluxDB's {policy} sums to {self.sums[policy]}, the ledger net to {wanted}"
            for policy in ("raw", "daily")
            if self.sums[policy] != wanted
        ]
        points = self.books.reports + self.books.adjustments
        if self.sums["raw points"] != points:
            problems.append(f"{self.sums['raw points']} points for {points} reports")
        return problems

    def _panel_problems(self) -> list[str]:
        found = ((name, self.admin.problem(name)) for name in self.books.names)
        return [f"{name}: {problem}" for name, problem in found if problem]

    def _health_problems(self) -> list[str]:
        problems = []
        for name in (COLLECTOR, BRIDGE):
            answer = self.stack.client.get(f"{self.stack.urls[name]}/readyz")
            warnings = [
                each
                for each in answer.json()["warnings"]
                if "without a key" not in each and "had a spike" not in each
            ]
            if answer.status_code != 200 or warnings:
                problems.append(f"{name} is not ready: {answer.text}")
        return problems

    def _show(self, settled_seconds: float) -> None:
        books = self.books
        table = Table(
            title=f"Soak of {self.seconds / 60:.1f} minutes, seed {self.seed}",
            title_justify="left",
            show_header=False,
        )
        rows: list[tuple[str, object]] = [
            ("reports acknowledged", f"{books.reports:,}"),
            ("sent again after that", f"{books.duplicates:,}"),
            ("garbage sent", f"{books.garbage:,}"),
            ("tries that had to be repeated", _counts(books.retries)),
            ("bytes acknowledged", f"{sum(books.bytes.values()):,}"),
            ("bytes in the ledger", f"{self.sums.get('ledger'):,}"),
            ("refused of who reports for itself beyond its bounds", f"{self.greedy.refused:,}"),
            ("of these taken back", f"{books.corrected_bytes:,}"),
        ]
        rows += [
            (f"bytes in InfluxDB, {policy}", f"{self.sums[policy]:,}")
            for policy in ("raw", "daily")
            if self.sums.get(policy) is not None
        ]
        rows += [
            ("by the admin", _counts(self.admin.done_counts)),
            ("accidents", _counts(self.chaos.counts)),
            ("ended by themselves (exit code)", _counts(self.supervisor.ended) or "none"),
            ("right after quiet, in", f"{settled_seconds:.1f} s"),
        ]
        for name, seconds in self.chaos.recovery_seconds.items():
            text = f"median {statistics.median(seconds):.1f} s, longest {max(seconds):.1f} s"
            rows.append((f"recovery: {name}", text))
        for name, samples in self.memory.items():
            values = [mib for _, _, mib in samples]
            middle = values[len(values) // 2]
            text = f"{values[0]:.0f} · {middle:.0f} · {values[-1]:.0f} MiB, most {max(values):.0f}"
            rows.append((f"RSS start · middle · end: {name}", text))
        for what, value in rows:
            table.add_row(what, str(value))
        console.print(table)


def _user(number: int) -> dict[str, object]:
    """Describe a user: small, middling and large quotas, some with traffic of the panel's own."""
    quota_mib = (1024 + 256 * number, 8 * 1024 + 512 * number, 512 * 1024)[number % 3]
    used_bytes = (number % 4) * 100 * 2**20 if number % 2 else 0
    is_unlimited = number in {5, 17}
    return {
        "username": f"user{number}",
        "data_limit": 0 if is_unlimited else quota_mib * 2**20,
        "used_traffic": 0 if number == 1 else used_bytes,
    }


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())


if __name__ == "__main__":
    sys.exit(main())
