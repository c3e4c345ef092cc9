"""Starts panel, collector and bridge, runs traffic and stories, and compares all sums."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import logging
import random
import re
import secrets
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from fastapi import FastAPI
from rich.console import Console
from rich.live import Live

from collector.runtime.http.server import Server, Signals, serving
from collector.runtime.listening import listen, loopback_url
from marzban_bridge.app import create_app
from marzban_bridge.bridge import Bridges
from marzban_bridge.cli.standalone import running_pair
from marzban_bridge.clock import utc_now
from marzban_bridge.config.settings import Settings
from marzban_bridge.demo import stage as stages
from marzban_bridge.demo.cast import CAST
from marzban_bridge.demo.stage import Stage
from marzban_bridge.demo.stories import RESELLER_PASSWORD, STORIES, Story, UnfinishedStoryError
from marzban_bridge.demo.verdict import Line, check
from marzban_bridge.demo.view import final_table, live
from marzban_bridge.errors import BridgeError
from marzban_bridge.simulator.background import Intervals, jobs_running
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.dialect import DIALECTS
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.panel.webhook_settings import WebhookReceiver

REPORTERS = 3
SETTLING_SECONDS = 60.0
PLAIN_WIDTH = 110
PICTURE_WIDTH = 160
PICTURE_AT = 0.9
ADMIN_PASSWORD = "admin-password"  # noqa: S105 - of a panel that exists for a minute


@dataclass(slots=True)
class Outcome:
    """The stories that failed or did not end, in sentences for people."""

    failures: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    """What did not happen in time: this machine is too slow, or something does not work."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `run` reads."""
    parser.add_argument(
        "--panel",
        choices=list(DIALECTS),
        default="marzban",
        help="which panel to simulate: Marzban 0.8.4 or PasarGuard 5.2.1 (marzban)",
    )
    parser.add_argument("--seconds", type=float, default=30, help="how long traffic flows (30)")
    parser.add_argument("--seed", type=int, default=None, help="repeat the same amounts")
    parser.add_argument("--picture", type=Path, help="save the view as an SVG before the end")
    parser.add_argument("--plain", action="store_true", help="lines instead of a live view")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; exit code 0 only if all sums of every user agree."""
    logging.getLogger().setLevel(logging.ERROR)
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    is_live = console.is_terminal and not arguments.plain
    with tempfile.TemporaryDirectory(prefix="traffic-demo-") as folder:
        return asyncio.run(
            _run(
                Path(folder),
                console,
                kind=arguments.panel,
                is_live=is_live,
                picture=arguments.picture,
                seconds=arguments.seconds,
                dice=random.Random(arguments.seed),  # noqa: S311 - amounts of made-up traffic
            )
        )


async def _run(
    folder: Path,
    console: Console,
    *,
    kind: str,
    is_live: bool,
    picture: Path | None,
    seconds: float,
    dice: random.Random,
) -> int:
    started_at = time.monotonic()
    async with _set_stage(folder, kind=kind, seconds=seconds, dice=dice) as stage:
        console.print(
            f"A simulated {stage.panel.dialect.title}, a collector ({stage.collector_url}) and "
            f"a bridge ({stage.bridge_url}) in this process: {len(CAST)} users, "
            f"{seconds:g} s of traffic."
        )
        headers = {"authorization": f"Bearer {stage.bridges.settings.collector_admin_key}"}
        async with stages.http_client(stage.collector_url, headers) as client:
            outcome = await _play(stage, console, is_live=is_live, picture=picture)
            if not await _is_settled(stage, client):
                outcome.late.append(f"the bridge did not read all within {SETTLING_SECONDS:g} s")
            lines = await check(stage, client)
    return conclude(console, stage.counts, lines, outcome, time.monotonic() - started_at)


@contextlib.asynccontextmanager
async def _set_stage(
    folder: Path, *, kind: str, seconds: float, dice: random.Random
) -> AsyncIterator[Stage]:
    panel = SimulatedPanel(
        kind=kind,
        clock=utc_now,
        admins={"admin": (ADMIN_PASSWORD, True), "reseller": (RESELLER_PASSWORD, False)},
    )
    for role in CAST:
        panel.create_user(role.username, by=role.owner, **role.fields_on(panel.dialect))
    reporter_key, admin_key, webhook_secret = (secrets.token_urlsafe(32) for _ in range(3))
    with (
        listen("127.0.0.1", 0) as panel_listener,
        listen("127.0.0.1", 0) as collector_listener,
        listen("127.0.0.1", 0) as bridge_listener,
    ):
        settings = Settings(
            marzban_url=loopback_url(panel_listener),
            marzban_username="admin",
            marzban_password=ADMIN_PASSWORD,
            collector_url=loopback_url(collector_listener),
            collector_admin_key=admin_key,
            store=folder / "bridge.sqlite3",
            webhook_secret=webhook_secret,
            pass_seconds=2,
        )
        collector_environment = {
            "LEDGER_URL": f"sqlite:///{folder}/ledger.sqlite3",
            "COLLECTOR_ADMIN_KEY": admin_key,
            "COLLECTOR_REPORTER_KEYS": f"demo:{reporter_key}",
            "MARZBAN_URL": settings.marzban_url,
        }
        receiver = WebhookReceiver(
            url=f"{loopback_url(bridge_listener)}/webhooks/marzban", secret=webhook_secret
        )
        async with (
            serving(_server_of(create_simulator_app(panel)), panel_listener),
            _pair(collector_environment, settings, collector_listener, bridge_listener) as bridges,
            jobs_running(
                panel,
                intervals=Intervals(review_seconds=0.5, webhook_seconds=0.5),
                receiver=receiver,
            ),
        ):
            yield Stage(
                panel=panel,
                bridges=bridges,
                collector_url=settings.collector_url,
                bridge_url=loopback_url(bridge_listener),
                reporter_key=reporter_key,
                random=dice,
                ends_at=time.monotonic() + seconds,
                untold={story.__name__ for story in STORIES},
            )


def _server_of(panel: FastAPI) -> Server:
    return Server(panel, connections=1024, read_seconds=15, signals=Signals.LEFT_ALONE)


def _pair(
    collector_environment: dict[str, str],
    settings: Settings,
    collector_listener: socket.socket,
    bridge_listener: socket.socket,
) -> contextlib.AbstractAsyncContextManager[Bridges]:
    def fail(error: BaseException) -> None:
        raise BridgeError(f"the bridge's loop stopped: {error!r}")

    return running_pair(
        collector_environment,
        settings,
        collector_listener=collector_listener,
        bridge_listener=bridge_listener,
        app=create_app(settings, on_loop_failure=fail),
    )


async def _play(stage: Stage, console: Console, *, is_live: bool, picture: Path | None) -> Outcome:
    """Run traffic and stories; return how the stories ended."""
    outcome = Outcome()

    async def play(story: Story) -> None:
        try:
            await story(stage)
        except UnfinishedStoryError as error:
            outcome.late.append(f"{story.__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - a story that fails is what the demo reports
            outcome.failures.append(f"{story.__name__}: {error}")
            stage.tell(f"[red]{error}[/]")
        stage.untold.discard(story.__name__)

    async with stages.http_client() as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(stages.use_panel_nodes(stage))
        for number in range(REPORTERS):
            tasks.create_task(stages.report_with_key(stage, client, f"agent-{number}"))
        tasks.create_task(stages.report_for_oneself(stage, client))
        tasks.create_task(stages.report_without_key(stage, client))
        for story in STORIES:
            tasks.create_task(play(story))
        tasks.create_task(_show(stage, console, is_live=is_live))
        if picture:
            tasks.create_task(_take_picture(stage, picture))
    return outcome


async def _show(stage: Stage, console: Console, *, is_live: bool) -> None:
    shown = 0
    if is_live:
        with Live(live(stage), console=console, refresh_per_second=8) as view:
            while not stage.is_over:
                view.update(live(stage))
                await asyncio.sleep(0.12)
        return
    while not stage.is_over:
        lines = list(stage.news)
        for line in lines[shown:]:
            console.print(line, highlight=False)
        shown = len(lines)
        await asyncio.sleep(0.2)


async def _take_picture(stage: Stage, path: Path) -> None:
    """Save the view shortly before the end as an SVG that loads nothing from the network."""
    await asyncio.sleep((stage.ends_at - time.monotonic()) * PICTURE_AT)
    recorder = Console(record=True, width=PICTURE_WIDTH, file=io.StringIO())
    recorder.print(live(stage))
    drawing = recorder.export_svg(title="marzban-bridge demo")
    drawing = re.sub(r"@font-face \{.*?\}", "", drawing, flags=re.DOTALL)
    await asyncio.to_thread(path.write_text, drawing)


async def _is_settled(stage: Stage, client: httpx.AsyncClient) -> bool:
    """Wait up to SETTLING_SECONDS until the bridge has read all reports and evaluated all users."""
    head = (await client.get("/v1/usage/changes", params={"after": 0})).json()["head"]
    deadline = time.monotonic() + SETTLING_SECONDS
    while stage.bridges.store.usage.cursor < head and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    read_at = stage.bridges.clock()
    while time.monotonic() < deadline:
        stage.panel.review()
        if all(
            account.sighting.seen_at > read_at for account in stage.bridges.store.accounts.all()
        ):
            return True
        await asyncio.sleep(0.05)
    return False


def conclude(
    console: Console,
    counts: Mapping[str, int],
    lines: Sequence[Line],
    outcome: Outcome,
    seconds: float,
) -> int:
    """Print the final table and the verdict; return the exit code, 0 where the books balance.

    Where something came too late, the expected sums are not known, and there is no verdict.
    """
    console.print(final_table(lines))
    for what, count in sorted(counts.items()):
        console.print(f"  {count:>8,} {what}", highlight=False)
    for failure in outcome.failures:
        console.print(f"[bold red]A story went otherwise:[/] {failure}", highlight=False)
    for late in outcome.late:
        console.print(f"[bold yellow]Not in time:[/] {late}", highlight=False)
    total_bytes = sum(line.reported_bytes for line in lines)
    end = f"{total_bytes:,} bytes reported, counted once, enforced. ({seconds:.0f} s)"
    code = 1
    if outcome.late and not outcome.failures:
        verdict = "[bold yellow]The books cannot be judged[/]"
        end = (
            f"this machine is too slow for --seconds, or something does not work. ({seconds:.0f} s)"
        )
    elif outcome.failures or any(line.problems for line in lines):
        verdict = "[bold red]The books do NOT balance[/]"
    else:
        verdict, code = "[bold green]The books balance[/]", 0
    console.print(f"{verdict}: {end}", highlight=False)
    return code
