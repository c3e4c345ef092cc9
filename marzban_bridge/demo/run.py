"""Sets the stage, lets it run, and says whether the books balance."""

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
from collections.abc import AsyncIterator
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
from marzban_bridge.demo.stories import RESELLER_PASSWORD, STORIES, Story
from marzban_bridge.demo.verdict import Line, check
from marzban_bridge.demo.view import final_table, live
from marzban_bridge.errors import BridgeError
from marzban_bridge.simulator.background import Intervals, jobs_running
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.panel.webhook_settings import WebhookReceiver

REPORTERS = 3
QUIET_SECONDS = 10.0
PLAIN_WIDTH = 110
PICTURE_WIDTH = 160
PICTURE_AT = 0.9
ADMIN_PASSWORD = "admin-password"  # noqa: S105 - of a panel that exists for a minute


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `run` reads."""
    parser.add_argument("--seconds", type=float, default=30, help="how long traffic flows (30)")
    parser.add_argument("--seed", type=int, default=None, help="repeat the same amounts")
    parser.add_argument("--picture", type=Path, help="save the view as an SVG before the end")
    parser.add_argument("--plain", action="store_true", help="lines instead of a live view")


def run(arguments: argparse.Namespace) -> int:
    """Run the demonstration; exit code 0 only if every user's books balance."""
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
    is_live: bool,
    picture: Path | None,
    seconds: float,
    dice: random.Random,
) -> int:
    started_at = time.monotonic()
    async with _set_stage(folder, seconds=seconds, dice=dice) as stage:
        console.print(
            f"A simulated panel, a collector ({stage.collector_url}) and a bridge "
            f"({stage.bridge_url}) in this process: {len(CAST)} users, {seconds:g} s of traffic."
        )
        headers = {"authorization": f"Bearer {stage.bridges.settings.collector_admin_key}"}
        async with httpx.AsyncClient(
            base_url=stage.collector_url, headers=headers, timeout=30
        ) as client:
            failures = await _play(stage, console, is_live=is_live, picture=picture)
            await _until_quiet(stage, client)
            lines = await check(stage, client)
    return _conclude(console, stage, lines, failures, time.monotonic() - started_at)


@contextlib.asynccontextmanager
async def _set_stage(folder: Path, *, seconds: float, dice: random.Random) -> AsyncIterator[Stage]:
    panel = SimulatedPanel(
        clock=utc_now,
        admins={"admin": (ADMIN_PASSWORD, True), "reseller": (RESELLER_PASSWORD, False)},
    )
    for role in CAST:
        panel.create_user(
            role.username, by=role.owner, data_limit=role.quota_bytes or 0, **role.panel_fields
        )
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


async def _play(
    stage: Stage, console: Console, *, is_live: bool, picture: Path | None
) -> list[str]:
    """Let traffic flow and stories happen; return which stories went otherwise."""
    failures: list[str] = []

    async def play(story: Story) -> None:
        try:
            await story(stage)
        except Exception as error:  # noqa: BLE001 - a story that fails is what the demo reports
            failures.append(f"{story.__name__}: {error}")
            stage.tell(f"[red]{error}[/]")

    async with httpx.AsyncClient(timeout=30) as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(stages.use_panel_nodes(stage))
        for number in range(REPORTERS):
            tasks.create_task(stages.report_with_key(stage, client, f"agent-{number}"))
        tasks.create_task(stages.report_for_oneself(stage, client))
        tasks.create_task(stages.knock_as_stranger(stage, client))
        for story in STORIES:
            tasks.create_task(play(story))
        tasks.create_task(_show(stage, console, is_live=is_live))
        if picture:
            tasks.create_task(_take_picture(stage, picture))
    return failures


async def _show(stage: Stage, console: Console, *, is_live: bool) -> None:
    shown = 0
    if is_live:
        with Live(live(stage), console=console, refresh_per_second=8) as view:
            while time.monotonic() < stage.ends_at:
                view.update(live(stage))
                await asyncio.sleep(0.12)
        return
    while time.monotonic() < stage.ends_at:
        lines = list(stage.news)
        for line in lines[shown:]:
            console.print(line, highlight=False)
        shown = len(lines)
        await asyncio.sleep(0.2)


async def _take_picture(stage: Stage, path: Path) -> None:
    """Save what is to be seen shortly before the end; the picture loads nothing from anywhere."""
    await asyncio.sleep((stage.ends_at - time.monotonic()) * PICTURE_AT)
    recorder = Console(record=True, width=PICTURE_WIDTH, file=io.StringIO())
    recorder.print(live(stage))
    drawing = recorder.export_svg(title="marzban-bridge demo")
    drawing = re.sub(r"@font-face \{.*?\}", "", drawing, flags=re.DOTALL)
    await asyncio.to_thread(path.write_text, drawing)


async def _until_quiet(stage: Stage, client: httpx.AsyncClient) -> None:
    """Wait until the bridge has read all there is and has looked at everybody since."""
    head = (await client.get("/v1/usage/changes", params={"after": 0})).json()["head"]
    deadline = time.monotonic() + QUIET_SECONDS
    while stage.bridges.store.usage.cursor < head and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    read_at = stage.bridges.clock()
    while time.monotonic() < deadline:
        stage.panel.review()
        if all(
            account.sighting.seen_at > read_at for account in stage.bridges.store.accounts.all()
        ):
            return
        await asyncio.sleep(0.05)


def _conclude(
    console: Console, stage: Stage, lines: list[Line], failures: list[str], seconds: float
) -> int:
    console.print(final_table(lines))
    for what, count in sorted(stage.counts.items()):
        console.print(f"  {count:>8,} {what}", highlight=False)
    for failure in failures:
        console.print(f"[bold red]A story went otherwise:[/] {failure}", highlight=False)
    balances = not failures and not any(line.problems for line in lines)
    total_bytes = sum(line.reported_bytes for line in lines)
    verdict = "[bold green]The books balance" if balances else "[bold red]The books do NOT balance"
    console.print(
        f"{verdict}[/]: {total_bytes:,} bytes reported, counted once, enforced. ({seconds:.0f} s)",
        highlight=False,
    )
    return 0 if balances else 1
