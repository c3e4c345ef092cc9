"""What the bridge costs the panel and itself, beside a poller of the panel's whole user list.

    uv run --group bench python benchmarks/bridge.py [--sizes huge] [--against TREE] [--seconds 60]

The bridge runs on core 0 alone; a simulated panel that counts its requests, a real collector and
this command share core 1. Twice: 100,000 panel users of whom 10,000 have external traffic, and a
tenth of both; 1,000 users change per minute in either. Every change is big enough to be published,
which is the worst case. Idle is the same without changes, so the difference is what changes cost.

`--sizes huge`: a million panel users, 100,000 of them with external traffic, 5,000 changes and 60
users who use up their quota a minute, while a pass over all is under way, at a panel that answers
at once and at one that takes 200 ms (`--answer-ms`).

`--against` measures the bridge of another checkout, too, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import counting_panel
import naive_poller
from bridge_changes import Changes, Sent, describe, latencies, send
from bridge_processes import BRIDGE_CORE, OTHERS_CORE, ROOT, Stack, stack
from counting_panel import GIB, name_of
from rich.console import Console
from rich.table import Table

CHANGES_PER_MINUTE = 1000
HUGE_PANEL_USERS, HUGE_USERS = 1_000_000, 100_000
HUGE_CHANGES_PER_MINUTE = 5000
CROSSINGS_PER_MINUTE = 60
CHANGE_BYTES = 6 * GIB
"""More than the 5 % of 100 GiB at which a limit is published."""
SMALL_CHANGE_BYTES = 2**20
CROSSING_BYTES = counting_panel.QUOTA_BYTES
FIRST_BYTES = 2**20
console = Console(width=110)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What a stretch of time cost, per minute, and how fast changes arrived in the panel."""

    name: str
    changes: int
    requests: Counter[str]
    cpu_seconds: float
    panel_cpu_seconds: float
    written_mib: float
    rss_mib: float
    published: str
    """How fast reports became limits in the panel; of the next one, those that used up a quota."""
    crossings: str
    most_in_flight: int
    pass_seconds: float
    """How long the last pass took; 0 if none has ended."""


def main() -> int:
    """Run it all and print the tables; or be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="length of each measurement (60)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["small", "large"])
    parser.add_argument("--against", type=Path, metavar="TREE", help="another checkout, in turns")
    parser.add_argument("--rounds", type=int, default=1, help="how often each size is measured (1)")
    parser.add_argument("--answer-ms", type=int, nargs="+", default=[0, 200])
    parser.add_argument("--serve-panel", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--poll", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_panel:
        users, port = arguments.serve_panel
        counting_panel.serve(users=users, port=port)
    elif arguments.poll:
        os.sched_setaffinity(0, BRIDGE_CORE)
        naive_poller.poll(arguments.poll)
    else:
        os.sched_setaffinity(0, OTHERS_CORE)
        trees = [ROOT, *([arguments.against.resolve()] if arguments.against else [])]
        for size in arguments.sizes:
            for _ in range(arguments.rounds):
                for tree in trees:
                    console.rule(f"{size}, the bridge of {tree}")
                    with (
                        tempfile.TemporaryDirectory() as folder,
                        stack(Path(folder), panel_users=PANEL_USERS[size], tree=tree) as it,
                    ):
                        SIZES[size](it, arguments)
    return 0


def measure_small(it: Stack, arguments: argparse.Namespace) -> None:
    """Measure a panel of 10,000 users, 1,000 with external traffic."""
    title = "10,000 panel users, 1,000 external"
    measure_steady(it, users=1000, seconds=arguments.seconds, title=title)


def measure_large(it: Stack, arguments: argparse.Namespace) -> None:
    """Measure a panel of 100,000 users, 10,000 with external traffic; then all of them."""
    title = "100,000 panel users, 10,000 external"
    measure_steady(it, users=10_000, seconds=arguments.seconds, title=title)
    measure_poller(it)
    measure_full_pass(it, users=100_000)


def measure_huge(it: Stack, arguments: argparse.Namespace) -> None:
    """Measure a panel of a million users, 100,000 with external traffic, during passes over all."""
    names = [name_of(number) for number in range(HUGE_USERS)]
    crossing = iter(names[::-1])
    console.print(f"{time.strftime('%X')} reporting and adopting (one to three minutes)")
    adopt(it, names, title="1,000,000 panel users, 100,000 external")
    order = cycle(names[: HUGE_USERS // 2])
    windows = []
    for millis in arguments.answer_ms:
        it.stop("bridge")
        it.start("bridge")
        it.answer_after(millis / 1000)
        changes = Changes(
            order=order,
            amount_bytes=CHANGE_BYTES,
            per_minute=HUGE_CHANGES_PER_MINUTE,
            crossing=crossing,
            crossing_bytes=CROSSING_BYTES,
            crossings_per_minute=CROSSINGS_PER_MINUTE,
        )
        name = f"5,000 changes, answers after {millis} ms"
        windows.append(tell(measure(it, name, changes, arguments.seconds)))
        it.answer_after(0)
    console.print(f"{time.strftime('%X')} waiting for the end of the pass")
    it.until("a whole pass", lambda: it.metrics()["bridge_pass_seconds"] > 0)
    windows.append(tell(measure(it, "idle", None, arguments.seconds)))
    show("1,000,000 panel users, 100,000 external", windows)
    console.print(f"peak RSS {it.rss_mib(is_peak=True):.0f} MiB")


def tell(window: Window) -> Window:
    """Print the main figures of a window at once, and return it."""
    console.print(
        f"{time.strftime('%X')} {window.name}: {window.cpu_seconds:.1f} CPU s a minute, "
        f"{window.rss_mib:.0f} MiB, report to PUT {window.published}, "
        f"used-up quotas {window.crossings}"
    )
    return window


def measure_steady(it: Stack, *, users: int, seconds: int, title: str) -> None:
    """Let the bridge adopt the users, then measure it under changes and idle."""
    names = [name_of(number) for number in range(users)]
    adopt(it, names, title=title)
    order = cycle(names)
    windows = [
        measure(it, "1,000 changes, all published", steady(order, CHANGE_BYTES), seconds),
        measure(it, "1,000 changes, too small", steady(order, SMALL_CHANGE_BYTES), seconds),
        measure(it, "idle", None, seconds),
    ]
    show(title, windows)


def steady(order: Iterator[str], amount_bytes: int) -> Changes:
    """Return a thousand changes a minute."""
    return Changes(order=order, amount_bytes=amount_bytes, per_minute=CHANGES_PER_MINUTE)


def adopt(it: Stack, names: Sequence[str], *, title: str) -> None:
    """Report these users, and start a bridge that finds them."""
    it.report(names, amount_bytes=FIRST_BYTES)
    started_at = time.monotonic()
    it.start("bridge")
    it.wait_adopted(accounts=len(names))
    console.print(
        f"[bold]{title}[/]: adopted in {time.monotonic() - started_at:.1f} s with "
        f"{it.counted()['requests']}, {it.cpu_seconds('bridge'):.1f} CPU s, "
        f"peak RSS {it.rss_mib(is_peak=True):.0f} MiB"
    )


def measure(it: Stack, name: str, changes: Changes | None, seconds: float) -> Window:
    """Report changes at an even pace for so long, and take the difference of all counters."""
    before = (it.cpu_seconds("bridge"), it.cpu_seconds("panel"), it.written_bytes())
    requests = Counter(it.counted()["requests"])
    started_at = time.monotonic()
    sent = send(it, changes, until=started_at + seconds) if changes else Sent()
    time.sleep(max(0.0, started_at + seconds - time.monotonic()))
    minutes = (time.monotonic() - started_at) / 60
    after = (it.cpu_seconds("bridge"), it.cpu_seconds("panel"), it.written_bytes())
    counted = it.counted()
    cpu, panel_cpu, written = ((b - a) / minutes for a, b in zip(before, after, strict=True))
    made = Counter(counted["requests"]) - requests
    published = sent.changes if changes and changes.amount_bytes >= CHANGE_BYTES else {}
    return Window(
        name=name,
        changes=round((len(sent.changes) + len(sent.crossings)) / minutes),
        requests=Counter({route: round(count / minutes) for route, count in made.items()}),
        cpu_seconds=cpu,
        panel_cpu_seconds=panel_cpu,
        written_mib=written / 2**20,
        rss_mib=it.rss_mib(),
        most_in_flight=counted["most_in_flight"],
        crossings=describe(latencies(it, sent.crossings), sent=len(sent.crossings)),
        published=describe(latencies(it, published), sent=len(published)),
        pass_seconds=it.metrics()["bridge_pass_seconds"],
    )


def measure_poller(it: Stack) -> None:
    """Run the poller over the whole panel once."""
    panel_before = it.cpu_seconds("panel")
    command = [sys.executable, str(ROOT / "benchmarks" / "bridge.py"), "--poll", it.url("panel")]
    output = subprocess.run(  # noqa: S603 - this very file
        command, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    figures = json.loads(output)
    console.print(
        f"polling the whole list in pages of {naive_poller.PAGE}, each minute: "
        f"{figures['requests']:,} requests, {figures['cpu_seconds']:.1f} CPU s, "
        f"panel {it.cpu_seconds('panel') - panel_before:.1f} CPU s, "
        f"{figures['seconds']:.1f} s, peak RSS {figures['peak_rss_mib']:.0f} MiB\n"
    )


def measure_full_pass(it: Stack, *, users: int) -> None:
    """Give every panel user external traffic; time a pass over them, and interrupt another."""
    names = [name_of(number) for number in range(users)]
    it.report(names, amount_bytes=FIRST_BYTES)
    started_at, cpu_before = time.monotonic(), it.cpu_seconds("bridge")
    it.wait_adopted(accounts=users)
    console.print(
        f"[bold]{users:,} external users[/]: adopted in {time.monotonic() - started_at:.0f} s, "
        f"{it.cpu_seconds('bridge') - cpu_before:.0f} CPU s, peak RSS "
        f"{it.rss_mib(is_peak=True):.0f} MiB; stopped in {it.stop('bridge'):.1f} s"
    )
    before = Counter(it.counted()["requests"])
    it.start("bridge")
    sent_at: dict[str, float] = {}
    changes = steady(cycle(names), CHANGE_BYTES)
    while it.metrics()["bridge_pass_seconds"] == 0:
        sent_at |= send(it, changes, until=time.monotonic() + 2).changes
    cpu_seconds, pass_seconds = it.cpu_seconds("bridge"), it.metrics()["bridge_pass_seconds"]
    made = Counter(it.counted()["requests"]) - before
    found = latencies(it, sent_at)
    console.print(
        f"full pass: {pass_seconds:.1f} s, {cpu_seconds:.1f} CPU s with {len(sent_at):,} changes "
        f"meanwhile; {dict(made)}; {describe(found, sent=len(sent_at))}; "
        f"RSS {it.rss_mib():.0f} MiB, peak {it.rss_mib(is_peak=True):.0f} MiB"
    )
    it.stop("bridge")
    it.start("bridge")
    time.sleep(pass_seconds / 2)
    stop_seconds = it.stop("bridge")
    (began, reached), before = it.counted()["lists"], it.signed_in()
    it.start("bridge")
    it.until("a list request", lambda: it.signed_in() > before and it.counted()["lists"][0])
    resumed = it.counted()["lists"][0]
    console.print(
        f"SIGTERM within a pass: gone after {stop_seconds:.2f} s; the pass had begun with the list "
        f"from {began[0]} and come to the one from {reached[0]}; after a restart it went on with "
        f"the one from {resumed[0]}"
    )


def show(title: str, windows: Sequence[Window]) -> None:
    """Print what each window cost per minute."""
    table = Table(title=f"{title}; per minute", title_justify="left")
    table.add_column("")
    for each in windows:
        table.add_column(each.name, justify="right")
    routes = sorted({route for each in windows for route in each.requests})
    rows: list[tuple[str, list[Any]]] = [
        ("changes", [f"{each.changes:,}" for each in windows]),
        *((route, [f"{each.requests[route]:,}" for each in windows]) for route in routes),
        ("panel requests", [f"{each.requests.total():,}" for each in windows]),
        ("bridge CPU s", [f"{each.cpu_seconds:.2f}" for each in windows]),
        ("bridge wrote MiB", [f"{each.written_mib:.1f}" for each in windows]),
        ("panel CPU s", [f"{each.panel_cpu_seconds:.2f}" for each in windows]),
        ("bridge RSS MiB", [f"{each.rss_mib:.0f}" for each in windows]),
        ("most requests in flight", [str(each.most_in_flight) for each in windows]),
        ("last pass", [f"{each.pass_seconds:.0f} s" for each in windows]),
        ("report to PUT, median / p99", [each.published for each in windows]),
        ("the same of used-up quotas", [each.crossings for each in windows]),
    ]
    for name, cells in rows:
        table.add_row(name, *cells)
    console.print(table)


SIZES = {"small": measure_small, "large": measure_large, "huge": measure_huge}
PANEL_USERS = {"small": 10_000, "large": 100_000, "huge": HUGE_PANEL_USERS}

if __name__ == "__main__":
    sys.exit(main())
