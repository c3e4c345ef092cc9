"""Collector and bridge in one process: `marzban-bridge up`, and what the demo runs on.

The only module of the bridge that imports the collector's application.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from rich.console import Console

import collector.app
import collector.settings
from collector.errors import CollectorError
from collector.ledger.backend import LedgerBackend
from collector.ledger.engines import backend_of
from collector.reports.reporters import hash_key
from collector.runtime.daemon_executor import run_loop
from collector.runtime.http.server import Server, Signals, serving
from collector.runtime.listening import listen, loopback_url
from collector.runtime.private_files import keep_private, make_private, put_in_place
from collector.runtime.wall_clock import wall_clock_millis
from collector.sources.file import load_sources
from marzban_bridge.bridge import Bridges
from marzban_bridge.cli.kept_key import ADMIN_KEY_FILE, with_kept_key
from marzban_bridge.cli.output import LoopFailure
from marzban_bridge.cli.serve import CreateApp, server_of
from marzban_bridge.cli.subscription_urls import subscription_urls
from marzban_bridge.config.panels_file import load_panels
from marzban_bridge.config.settings import Settings
from marzban_bridge.errors import SettingsError
from marzban_bridge.store.open import file_of
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)

FIRST_REPORTER = "first"
CreateCollector = Callable[..., FastAPI]
"""Makes the collector's application: `collector.app.create_app`, given some of its parameters."""


def up(environment: Mapping[str, str], create_app: CreateApp) -> int:
    """Run collector and bridge until told to stop; return the exit code.

    Without a configured admin key, one is generated and stored beside the bridge's store. Without
    any reporter, a first one is created, and its key is printed this once. The collector asks all
    panels about subscription tokens.
    """
    settings, where, asked = read_settings(environment)
    path = file_of(settings)  # keys are stored beside it
    with (  # first: fails before any change
        listen(where.host, where.port) as collector_listener,
        listen(settings.host, settings.port) as bridge_listener,
        contextlib.ExitStack() as opened,
    ):
        Store(path).close()  # a store that cannot be used is a one-line error here
        folder, own = path.parent, dict(environment)
        admin_key = _kept_key(folder / ADMIN_KEY_FILE, settings.collector_admin_key)
        own |= {"COLLECTOR_ADMIN_KEY": admin_key, "COLLECTOR_SUBSCRIPTION_URLS": asked}
        try:
            where = collector.settings.Settings.from_env(own)
            place = backend_of(where.ledger_url)
            create_collector: CreateCollector = collector.app.create_app
            if place.is_shared:
                place.prepare()
            else:  # an unusable ledger is a one-line error here, too
                ledger = opened.enter_context(contextlib.closing(place.open_at_once()))
                create_collector = partial(create_collector, embedded_ledger=ledger)
            first_key = ""
            if not where.reporter_keys:
                first_key = _first_reporter(place, folder / "first-reporter.key")
        except CollectorError as error:
            raise SettingsError(str(error)) from error
        bridge_settings = replace(
            settings,
            collector_url=loopback_url(collector_listener),
            collector_admin_key=admin_key,
        )
        if first_key:
            _show_first_key(first_key, loopback_url(collector_listener))
        code = run_loop(
            _up(
                own,
                bridge_settings,
                (collector_listener, bridge_listener),
                create_collector=create_collector,
                create_app=create_app,
            )
        )
        gc.freeze()  # as `run` does, so that it has ended soon
        return code


def read_settings(
    environment: Mapping[str, str],
) -> tuple[Settings, collector.settings.Settings, str]:
    """Return both programs' settings and the addresses asked about subscription tokens.

    Raises SettingsError for what is wrong with them, with the panels file or the sources file.
    """
    settings = Settings.from_env(environment)
    panels = load_panels(settings)
    where = collector.settings.Settings.from_env(environment)
    try:
        load_sources(where.sources_file)
    except CollectorError as error:
        raise SettingsError(str(error)) from error
    return settings, where, subscription_urls(panels, dict(where.subscription_urls))


def beside_collector(
    environment: Mapping[str, str], act: Callable[[Settings], Coroutine[None, None, int]]
) -> int:
    """Run `act` beside the collector that `up` would run, while `up` is stopped.

    Raises StoreError, naming the process, while `up` runs.
    """
    settings = with_kept_key(Settings.from_env(environment))
    Store(file_of(settings)).close()
    where = collector.settings.Settings.from_env(
        dict(environment) | {"COLLECTOR_ADMIN_KEY": settings.collector_admin_key}
    )

    place = backend_of(where.ledger_url)
    create_collector: CreateCollector = collector.app.create_app
    if not place.is_shared:  # checked first: what a command does by it would not be undone
        create_collector = partial(create_collector, embedded_ledger=place.open())

    async def both() -> int:
        with listen("127.0.0.1", 0) as listener:
            async with serving(_collector_server(where, create_collector), listener):
                return await act(replace(settings, collector_url=loopback_url(listener)))

    return asyncio.run(both())


def _collector_server(
    settings: collector.settings.Settings, create_collector: CreateCollector
) -> Server:
    app = create_collector(settings)
    return collector.app.server_of(app, settings, signals=Signals.LEFT_ALONE)


@contextlib.asynccontextmanager
async def running_pair(
    collector_environment: Mapping[str, str],
    settings: Settings,
    *,
    collector_listener: socket.socket,
    bridge_listener: socket.socket,
    app: FastAPI,
    create_collector: CreateCollector = collector.app.create_app,
) -> AsyncIterator[Bridges]:
    """Run a collector and a bridge that reads it, whose application is `app`; yield the bridges."""
    collector_settings = collector.settings.Settings.from_env(collector_environment)
    async with (
        serving(_collector_server(collector_settings, create_collector), collector_listener),
        serving(server_of(app, settings, signals=Signals.LEFT_ALONE), bridge_listener),
    ):
        yield app.state.bridges


async def _up(
    collector_environment: Mapping[str, str],
    settings: Settings,
    listeners: tuple[socket.socket, socket.socket],
    *,
    create_collector: CreateCollector,
    create_app: CreateApp,
) -> int:
    collector_listener, bridge_listener = listeners
    failure = LoopFailure()
    stopped = asyncio.Event()
    damage: list[Exception] = []

    def end(error: Exception) -> None:
        damage.append(error)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with running_pair(
        collector_environment,
        settings,
        collector_listener=collector_listener,
        bridge_listener=bridge_listener,
        app=create_app(settings, on_loop_failure=failure),
        create_collector=partial(create_collector, on_damage=end),
    ):
        log.info(
            "up: collector %s, bridge %s, panel %s, enforcement %s",
            loopback_url(collector_listener),
            loopback_url(bridge_listener),
            settings.marzban_url,
            settings.enforcement,
        )
        await stopped.wait()
        log.info("stopping")
    for error in damage:
        raise SettingsError(str(error)) from error  # as where it cannot be opened
    return failure.exit_code


def _first_reporter(place: LedgerBackend, former: Path) -> str:
    """Create the first reporter of a ledger; return its key, empty where the ledger has reporters.

    `former` is the file in which older versions stored that key.
    """
    with contextlib.closing(place.reader()) as reader:
        reporters = reader.reporters()
    now_millis = wall_clock_millis()
    with contextlib.suppress(FileNotFoundError):
        key = former.read_text().strip()
        if key and hash_key(key) not in {each.key_hash for each in reporters}:
            names = {each.name for each in reporters}
            name = FIRST_REPORTER if FIRST_REPORTER not in names else f"{FIRST_REPORTER}-of-up"
            place.add_reporter(name, now_millis=now_millis, key=key)
            log.info("the key of %s is in the list of `traffic-collector reporters` now", former)
        former.unlink()
        return ""
    return "" if reporters else place.add_reporter(FIRST_REPORTER, now_millis=now_millis)


def _kept_key(path: Path, configured: str) -> str:
    """Return the configured admin key, else the one kept in a file, else a new one."""
    if configured:
        return configured
    with contextlib.suppress(FileNotFoundError):
        if kept := path.read_text().strip():
            keep_private(path)
            return kept
    key = "ak_" + secrets.token_urlsafe(32)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # an empty one
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    make_private(draft)
    draft.write_text(key + "\n")
    put_in_place(draft, path)
    return key


def _show_first_key(key: str, url: str) -> None:
    console = Console()
    console.print("\n[bold]Your first reporter key[/] (it can report for any user):\n")
    console.print(f"  {key}\n", highlight=False, soft_wrap=True)
    body = (
        '{"user_token": "USERNAME", "server": "de-1", "port": 443, "protocol": "vless", '
        '"bytes_uploaded": 1000, "bytes_downloaded": 2000}'
    )
    lines: Sequence[str] = (
        f"  curl -sS {url}/v1/reports \\",
        f"    -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\",
        f"    -d '{body}'\n",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
