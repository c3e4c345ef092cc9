"""What waits for what at a panel that takes 200 ms for each answer, in virtual time.

    uv run --group bench python benchmarks/slow_panel.py [--moving 1600] [--per-second 80]
        [--commit-ms 3]

The bridge and a simulated panel share this process, whose clock stands still while they compute:
the figures are waiting alone, and the same on every machine. `--commit-ms` is how long a commit of
the bridge's store takes, for which nothing else of the bridge runs. 80 limits a second have to be
published, and two users a second use up their quotas, while a pass over all is under way. With a
high `--per-second` all limits wait at once, and the time is what the bridge takes for them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import selectors
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]


class VirtualTime(selectors.DefaultSelector):
    """Lets time pass only while all tasks sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.now_seconds = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Jump to the next timer."""
        self.now_seconds += max(0.0, timeout or 0.0)
        return super().select(0)


TIMES = VirtualTime()
time.monotonic = lambda: TIMES.now_seconds  # before the bridge's modules are read, which keep it

from crossings import settle  # noqa: E402

from marzban_bridge.store.handle import StoreHandle  # noqa: E402
from tests.support.bridge.bridge_builders import gib  # noqa: E402
from tests.support.bridge.world import World  # noqa: E402

ANSWER_SECONDS = 0.2
SEED = 49
TICK_SECONDS = 0.1
BETWEEN_CROSSINGS_SECONDS = 0.5
BEFORE_CROSSINGS_SECONDS = 2.0
LONGEST_SECONDS = 3600.0


class SlowPanel(httpx.AsyncBaseTransport):
    """Answers each request after a while, however many there are."""

    longest_factor = 1.0

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self._dice = random.Random(SEED)  # noqa: S311 - no secret
        self._in_flight = self.most_in_flight = 0
        self.written_at: dict[str, float] = {}
        self.requests: Counter[str] = Counter()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        place, _, name = request.url.path.removeprefix("/api/").partition("/")
        self.requests[f"{request.method} {place}"] += 1
        if request.method == "PUT":
            self.written_at.setdefault(name, time.monotonic())
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        await asyncio.sleep(ANSWER_SECONDS * self._dice.uniform(1.0, self.longest_factor))
        self._in_flight -= 1
        return await self._inner.handle_async_request(request)


class SlowCommits:
    """Lets the bridge's clock go on by the time of each commit, and counts them."""

    def __init__(self, *, seconds: float) -> None:
        self.count = 0
        commit = StoreHandle._commit  # noqa: SLF001 - measured

        def slow_commit(handle: StoreHandle) -> None:
            self.count += 1
            TIMES.now_seconds += seconds
            commit(handle)

        StoreHandle._commit = slow_commit  # type: ignore[method-assign]  # noqa: SLF001


def main() -> int:
    """Measure once and print what waited how long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moving", type=int, default=1600)
    parser.add_argument("--crossing", type=int, default=40)
    parser.add_argument("--per-second", type=int, default=80, help="limits that move (80)")
    parser.add_argument(
        "--longest-factor",
        type=float,
        default=1.0,
        help="answers take from 200 ms to so many times as long, evenly distributed (1)",
    )
    parser.add_argument("--commit-ms", type=float, default=0.0)
    arguments = parser.parse_args()
    SlowPanel.longest_factor = arguments.longest_factor
    loop = asyncio.SelectorEventLoop(TIMES)
    loop.time = time.monotonic  # type: ignore[method-assign]
    asyncio.new_event_loop = lambda: loop
    moving = [f"moving{number:05}" for number in range(arguments.moving)]
    crossing = [f"crossing{number:05}" for number in range(arguments.crossing)]
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        panel = settle(world, [*moving, *crossing], slowed=SlowPanel)
        commits = SlowCommits(seconds=arguments.commit_ms / 1000)
        world.run(measure(world, panel, moving, crossing, per_second=arguments.per_second))
        world.close()
        print(f"{commits.count:,} commits")  # noqa: T201
    return 0


async def measure(
    world: World, panel: SlowPanel, moving: list[str], crossing: list[str], *, per_second: int
) -> None:
    """Let usage grow, and print how soon each write arrived in the panel."""
    running = asyncio.create_task(world.bridges.run())
    await asyncio.sleep(BEFORE_CROSSINGS_SECONDS)
    began_at = time.monotonic()
    sent_at: dict[str, float] = {}

    async def report(names: list[str], used_bytes: int, at_once: int, pause_seconds: float) -> None:
        for first in range(0, len(names), at_once):
            for name in names[first : first + at_once]:
                sent_at[name] = time.monotonic()
                world.ledger.report(name, used_bytes)
            await asyncio.sleep(pause_seconds)

    await asyncio.gather(
        report(moving, gib(1), max(1, round(per_second * TICK_SECONDS)), TICK_SECONDS),
        report(crossing, gib(11), 1, BETWEEN_CROSSINGS_SECONDS),
    )
    while panel.written_at.keys() < sent_at.keys():
        assert time.monotonic() < began_at + LONGEST_SECONDS, "not all limits were written"
        await asyncio.sleep(TICK_SECONDS)
    for what, names in (("published", moving), ("used up", crossing)):
        seconds = sorted(panel.written_at[name] - sent_at[name] for name in names)
        p99 = seconds[int(len(seconds) * 0.99)]
        print(f"{what}: median {statistics.median(seconds):.2f} s, p99 {p99:.2f} s")  # noqa: T201
    metrics = world.bridge.metrics
    print(  # noqa: T201
        f"all written after {max(panel.written_at.values()) - began_at:.0f} s; a pass took "
        f"{metrics.pass_seconds._value.get():.1f} s (0: none ended); at most "  # noqa: SLF001
        f"{panel.most_in_flight} requests at once; {dict(panel.requests)}"
    )
    running.cancel()
    await asyncio.wait([running])


if __name__ == "__main__":
    sys.exit(main())
