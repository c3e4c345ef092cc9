"""`marzban-bridge panels`: which panels there are, their webhooks' secrets, and forgetting one."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

from rich.console import Console
from rich.table import Table

from marzban_bridge.cli.exclusive import with_store
from marzban_bridge.cli.output import say
from marzban_bridge.clock import utc_now
from marzban_bridge.config.panels_file import PanelSettings, load_panels
from marzban_bridge.config.settings import Settings
from marzban_bridge.errors import NotLeadingError, SettingsError, StoreAwayError
from marzban_bridge.panels.names import FIRST_PANEL
from marzban_bridge.panels.open import open_panel
from marzban_bridge.panels.port import Panel
from marzban_bridge.reconcile.trust.twin_panels import TwinPanels
from marzban_bridge.store.handle import StoreHandle
from marzban_bridge.store.open import is_there, open_to_read
from marzban_bridge.store.sqlite import in_memory
from marzban_bridge.store.store import Store

FORGET_PHRASE = "forget panel"
"""Typed by whoever has a panel's accounts dropped, so that no slip of the hand does it."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare what can be asked about panels; nothing lists them."""
    asked = command.add_subparsers(dest="asked", metavar="WHAT")
    webhook = asked.add_parser(
        "webhook", help="print WEBHOOK_ADDRESS and WEBHOOK_SECRET for a panel's own .env"
    )
    webhook.add_argument("panel", metavar="NAME")
    apart = asked.add_parser(
        "apart",
        help="say that two panels with the same users are two, as one is a copy of the other; stop "
        "the bridge first",
    )
    apart.add_argument("panels", metavar="NAME", nargs=2)
    forget = asked.add_parser(
        "forget",
        help="drop the accounts and the address of a panel that is gone for good; stop the bridge "
        "first",
    )
    forget.add_argument("panel", metavar="NAME")
    forget.add_argument("--yes", action="store_true", help="do not ask for a typed confirmation")


def show(settings: Settings) -> int:
    """List the panels in their order."""
    table = Table("panel", "address", "webhooks")
    for panel in load_panels(settings):
        table.add_row(panel.name, panel.url, _webhooks(panel))
    Console().print(table)
    return 0


def _webhooks(panel: PanelSettings) -> str:
    if not panel.webhook_secret:
        return "refused: BRIDGE_WEBHOOK_SECRET is not set"
    return f"taken at {webhook_path(panel.name)}"


def webhook_path(panel: str) -> str:
    """Return where a panel's webhooks are taken."""
    prefix = "" if panel == FIRST_PANEL else f"/panels/{panel}"
    return f"{prefix}/webhooks/marzban"


def show_webhook(settings: Settings, name: str) -> int:
    """Print what goes into a panel's own .env. Raises SettingsError where it has no secret."""
    panels = {panel.name: panel for panel in load_panels(settings)}
    panel = panels.get(name)
    if panel is None:
        raise SettingsError(f"panels webhook: name one of {', '.join(panels)}")
    if not panel.webhook_secret:
        raise SettingsError(
            f"panel {name} has no secret: set BRIDGE_WEBHOOK_SECRET, or webhook_secret in its table"
        )
    say(f"WEBHOOK_ADDRESS=http://<this machine>:{settings.port}{webhook_path(name)}")
    say(f"WEBHOOK_SECRET={panel.webhook_secret}")
    return 0


async def forget(settings: Settings, name: str) -> int:
    """Drop all that the store knows of a panel, which must not be configured any more.

    Raises SettingsError where it is, or where the store knows nothing of it, and StoreError where
    a bridge runs.
    """
    panels = [panel.name for panel in load_panels(settings)]
    if name in panels:
        raise SettingsError(
            f"panel {name} is configured: take its table out of BRIDGE_PANELS_FILE first"
        )

    async def act(store: Store) -> int:
        store.configure(panels, shares_quotas=settings.quotas_span_panels)
        try:
            return store.forget_panel(name, actor="command line", at=utc_now())
        except ValueError as error:
            raise SettingsError(f"panels forget: {error}") from error

    count = await with_store(settings, act)
    say(
        f"panel {name} is forgotten, with {count} accounts: its address and its name may be "
        "another panel's now. The limits that it shows are as they were"
    )
    return 0


async def tell_apart(settings: Settings, one: str, other: str) -> int:
    """Store that two configured panels are two, whatever their users look like.

    Raises SettingsError where they are not configured, and StoreError where a bridge runs.
    """
    panels = [panel.name for panel in load_panels(settings)]
    if one == other or not {one, other} <= set(panels):
        raise SettingsError(f"panels apart: name two of {', '.join(panels)}")

    async def act(store: Store) -> None:
        store.tell_apart(one, other, actor="command line", at=utc_now())

    await with_store(settings, act)
    say(f"panels {one} and {other} are taken for two from now on")
    return 0


def demand_different(settings: Settings) -> None:
    """Raise SettingsError where two entries are one panel, and one of them has no accounts yet.

    For before the start. What does not answer yet, panel or store, is left to the running bridge.
    """
    if settings.panels_file is None:
        return
    panels = load_panels(settings)
    with suppress(StoreAwayError, NotLeadingError):
        asyncio.run(_compare(panels, _open_known(settings)))


def _open_known(settings: Settings) -> Store:
    """Open the store to read; an empty one where there is none yet."""
    return open_to_read(settings) if is_there(settings) else Store(StoreHandle(in_memory()))


async def _compare(panels: Sequence[PanelSettings], store: Store) -> None:
    async with AsyncExitStack() as stack:
        stack.callback(store.close)
        asked: dict[str, Panel] = {}
        for panel in panels:
            asked[panel.name] = open_panel(
                panel.url,
                username=panel.username,
                password=panel.password,
                name=panel.name,
                timeout_seconds=panel.timeout_seconds,
            )
            stack.push_async_callback(asked[panel.name].close)
        await TwinPanels(asked, store=store, clock=utc_now, metrics={}).demand_different()
