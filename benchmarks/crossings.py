"""How soon users at a crossing are cut off while many published limits move.

    uv run --group bench python benchmarks/crossings.py [--moving 1000] [--crossing 50]

The bridge and a simulated panel share this process. The panel carries out one write at a time and
takes 50 ms for each. First the usage of many users grows by what is worth publishing; two seconds
later some others use up their quotas.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import httpx
from rich.console import Console

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from tests.support.bridge.bridge_builders import gib  # noqa: E402
from tests.support.bridge.bridge_world import WaitingFeed  # noqa: E402
from tests.support.bridge.world import World  # noqa: E402

Transport = httpx.AsyncBaseTransport
Slow = TypeVar("Slow", bound=Transport)
WRITE_SECONDS = 0.05
console = Console(width=110)


class SlowPanel(httpx.AsyncBaseTransport):
    """Carries out one write at a time, slowly; counts requests and notes when each user's was."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self._writing = asyncio.Lock()
        self.written_at: dict[str, float] = {}
        self.requests: Counter[str] = Counter()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        place, _, name = request.url.path.removeprefix("/api/").partition("/")
        self.requests[f"{request.method} {place}"] += 1
        if request.method != "PUT":
            return await self._inner.handle_async_request(request)
        async with self._writing:
            await asyncio.sleep(WRITE_SECONDS)
            answer = await self._inner.handle_async_request(request)
        self.written_at.setdefault(name, time.monotonic())
        return answer


def main() -> int:
    """Measure once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moving", type=int, default=1000)
    parser.add_argument("--crossing", type=int, default=50)
    arguments = parser.parse_args()
    moving = [f"moving{number}" for number in range(arguments.moving)]
    crossing = [f"crossing{number}" for number in range(arguments.crossing)]
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        try:
            panel = settle(world, [*moving, *crossing], slowed=SlowPanel)
            world.run(measure(world, panel, moving, crossing))
        finally:
            world.close()
    return 0


def settle(world: World, names: Iterable[str], *, slowed: Callable[[Transport], Slow]) -> Slow:
    """Settle users with a GiB of ten, then put `slowed` before the panel, and return that."""
    for name in names:
        world.panel.create_user(name, data_limit=gib(10))
        world.panel.use_traffic(name, gib(1))
        world.ledger.report(name, 1)
    world.one_pass()
    feed = WaitingFeed(world.ledger)
    world.ledger.transport = lambda: feed
    world.restart()
    panel = slowed(world.transport._inner)  # noqa: SLF001 - a test's
    world.transport._inner = panel  # noqa: SLF001 - a test's
    return panel


async def measure(world: World, panel: SlowPanel, moving: list[str], crossing: list[str]) -> None:
    """Let usage grow, and print when each write was carried out."""
    loop = asyncio.create_task(world.bridges.run())
    await asyncio.sleep(2)
    moved_at = time.monotonic()
    for name in moving:
        world.ledger.report(name, gib(1))
    await asyncio.sleep(2)
    crossed_at = time.monotonic()
    for name in crossing:
        world.ledger.report(name, gib(11))
    while not panel.written_at.keys() >= {*moving, *crossing}:
        await asyncio.sleep(0.05)
    seconds = sorted(panel.written_at[name] - crossed_at for name in crossing)
    all_seconds = max(panel.written_at.values()) - moved_at
    console.print(
        f"cut off after: first {seconds[0]:.1f} s, median {statistics.median(seconds):.1f} s, "
        f"last {seconds[-1]:.1f} s; everything written after {all_seconds:.1f} s"
    )
    console.print(dict(panel.requests))
    loop.cancel()
    await asyncio.wait([loop])


if __name__ == "__main__":
    sys.exit(main())
