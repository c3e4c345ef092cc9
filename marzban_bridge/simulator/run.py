"""The simulated panel as a process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn

from collector.runtime.daemon_executor import run_loop
from marzban_bridge.errors import SettingsError
from marzban_bridge.simulator.background import Intervals, every, jobs_running
from marzban_bridge.simulator.crowd import (
    DAY_SECONDS,
    Member,
    activity,
    crowd,
    describe_panel,
)
from marzban_bridge.simulator.driving import router as driving_router
from marzban_bridge.simulator.faults import following
from marzban_bridge.simulator.http.app import create_simulator_app
from marzban_bridge.simulator.panel.database import PanelDatabase
from marzban_bridge.simulator.panel.dialect import DIALECTS
from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.panel import SimulatedPanel
from marzban_bridge.simulator.panel.webhook_settings import WebhookReceiver
from marzban_bridge.simulator.snapshot import (
    SavesFirst,
    WrongKindError,
    restore_snapshot,
    write_state,
)

log = logging.getLogger(__name__)

SAVE_SECONDS = 1.0
CROWD_SECONDS = 5.0
CROWD_SLICE = 500
"""How many users of the crowd use the node in one step; the panel answers between two steps."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `run` reads."""
    defaults = Intervals()
    add = parser.add_argument
    add(
        "--kind",
        choices=list(DIALECTS),
        default="marzban",
        help="which panel to be: Marzban 0.8.4, PasarGuard 5.2.1 or PasarGuard 3.1.0 (marzban)",
    )
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    add("--port", type=int, default=8000, help="port to listen on (8000)")
    add("--username", default="admin", help="the panel's environment admin, or owner (admin)")
    add("--password", default="admin", help="that admin's password (admin)")
    add("--users", type=Path, metavar="FILE", help="JSON with `users` and `admins` to begin with")
    add("--crowd", type=int, default=0, help="so many made-up users, who use the panel's node too")
    add("--speed", type=float, default=1, help="how many days' traffic the crowd uses in a day (1)")
    add("--state", type=Path, metavar="FILE", help="keep users here over restarts")
    add("--durable", action="store_true", help="write --state before each answer to a change")
    add(
        "--faults",
        type=Path,
        metavar="FILE",
        help="JSON with `delay_seconds`, `is_down`, `database` and others, followed",
    )
    add(
        "--driven", action="store_true", help="take traffic and databases at /simulation, for tests"
    )
    add("--webhook-address", metavar="URL", help="where to send webhooks")
    add("--webhook-secret", metavar="TEXT", help="the secret to send along")
    for name, default, what in (
        ("--review-seconds", defaults.review_seconds, "limiting and expiring"),
        ("--periodic-reset-seconds", defaults.periodic_reset_seconds, "the reset strategies"),
        ("--webhook-seconds", defaults.webhook_seconds, "batches of webhooks"),
    ):
        add(name, type=float, default=default, help=f"interval of {what} ({default:g})")
    add("--token-minutes", type=float, default=1440, help="life of a bearer token (1440)")
    add("--subscription-path", default="sub", help="prefix of subscription URLs (sub)")
    add(
        "--database",
        choices=["mysql", "sqlite"],
        default="mysql",
        help="whose rules for names and pages to follow (mysql)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop; SettingsError for files that cannot be used."""
    panel = open_panel(arguments)
    run_loop(serve(panel, arguments))
    return 0


def open_panel(arguments: argparse.Namespace) -> SimulatedPanel:
    """Return the panel of the state file if there is one, else one with the users to begin with."""
    panel = SimulatedPanel(
        kind=arguments.kind,
        clock=lambda: datetime.now(UTC),
        admins={arguments.username: (arguments.password, True)},
        database=arguments.database,
        subscription_path=arguments.subscription_path,
        token_minutes=arguments.token_minutes,
        secret=secrets.token_urlsafe(24),
        sends_webhooks=bool(arguments.webhook_address),
    )
    if arguments.state and arguments.state.exists():
        try:
            restore_snapshot(panel, _read_json(arguments.state))
        except WrongKindError as error:
            raise SettingsError(f"{arguments.state}: {error}") from error
    elif arguments.crowd:
        add_users(panel, describe_panel(crowd(arguments.crowd), password=arguments.password))
    elif arguments.users:
        try:
            add_users(panel, _read_json(arguments.users))
        except (RefusedError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise SettingsError(
                f"{arguments.users} does not describe users of a panel ({error!r}): expected "
                '{"admins": [{"username", "password"}], "users": [{"username", "data_limit"}]}'
            ) from error
    return panel


def add_users(panel: SimulatedPanel, description: dict[str, Any]) -> None:
    """Create the described admins and users.

    A user takes the fields of the panel's API, and `owner` and `used_traffic`.
    """
    for admin in description.get("admins", []):
        panel.add_admin(
            admin["username"],
            password=admin["password"],
            is_sudo=admin.get("is_sudo", False),
        )
    for user in description.get("users", []):
        fields = dict(user)
        owner, used = fields.pop("owner", None), fields.pop("used_traffic", 0)
        panel.create_user(fields.pop("username"), by=owner, **fields)
        panel.use_traffic(user["username"], used)


class _Server(uvicorn.Server):
    """A server that leaves signals to `serve`: uvicorn's own way ends before the last save."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(panel: SimulatedPanel, arguments: argparse.Namespace) -> None:
    """Serve the panel and run its jobs until SIGINT or SIGTERM.

    Raises SettingsError when the address is taken.
    """
    app = create_simulator_app(panel)
    if arguments.driven:
        app.include_router(driving_router)
    if arguments.durable and arguments.state:
        app.add_middleware(SavesFirst, panel=panel, path=arguments.state)
    server = _Server(
        uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=2)
    )

    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    intervals = Intervals(
        review_seconds=arguments.review_seconds,
        periodic_reset_seconds=arguments.periodic_reset_seconds,
        webhook_seconds=arguments.webhook_seconds,
    )
    receiver = (
        WebhookReceiver(url=arguments.webhook_address, secret=arguments.webhook_secret)
        if arguments.webhook_address
        else None
    )
    with _listener(arguments.host, arguments.port) as listener:
        host, port = listener.getsockname()[:2]
        log.info(
            "simulated %s on http://%s:%s with %s users, admin %s",
            panel.dialect.title,
            host,
            port,
            len(panel.users),
            panel.environment_admin.username,
        )
        async with (
            jobs_running(panel, intervals=intervals, receiver=receiver),
            _kept(panel, arguments.state),
            following(app.state.faults, arguments.faults, database=PanelDatabase(panel)),
            _crowded(panel, crowd(arguments.crowd), speed=arguments.speed),
        ):
            await server.serve(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}") from error


@contextlib.asynccontextmanager
async def _crowded(
    panel: SimulatedPanel, members: list[Member], *, speed: float
) -> AsyncIterator[None]:
    """Let a crowd use the panel's node; those who are cut off or deleted do not."""

    async def use() -> None:
        at = panel.clock()
        for number, each in enumerate(members):
            if number % CROWD_SLICE == 0:
                await asyncio.sleep(0)
            per_second = each.panel_bytes_per_day * speed / DAY_SECONDS
            with contextlib.suppress(RefusedError):
                panel.use_traffic(
                    each.username, int(per_second * CROWD_SECONDS * activity(each, at))
                )

    using = asyncio.ensure_future(every(CROWD_SECONDS, use))
    try:
        yield
    finally:
        using.cancel()


@contextlib.asynccontextmanager
async def _kept(panel: SimulatedPanel, path: Path | None) -> AsyncIterator[None]:
    """Keep a copy of the panel in a file; what a kill may lose is the last second."""
    if path is None:
        yield
        return
    saved_revision = -1

    async def save() -> None:
        nonlocal saved_revision
        if panel.revision != saved_revision:
            saved_revision = panel.revision
            write_state(panel, path)

    await save()
    saving = asyncio.ensure_future(every(SAVE_SECONDS, save))
    try:
        yield
    finally:
        saving.cancel()
        await save()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} holds no JSON object")
    return content
