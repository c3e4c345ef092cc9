"""`marzban-bridge panels`: list the panels, print webhook secrets, forget or tell apart panels."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress

from rich.console import Console
from rich.table import Table

from collector.runtime.cli import add_json, print_json
from marzban_bridge.cli.exclusive import with_store
from marzban_bridge.cli.output import say
from marzban_bridge.clock import utc_now
from marzban_bridge.config.panels_file import PanelSettings, load_panels
from marzban_bridge.config.settings import Settings
from marzban_bridge.config.webhook_secrets import webhook_path
from marzban_bridge.errors import NotLeadingError, SettingsError, StoreAwayError
from marzban_bridge.opening import open_panels
from marzban_bridge.reconcile.trust.twin_panels import TwinPanels
from marzban_bridge.store.handle import StoreHandle
from marzban_bridge.store.open import is_there, open_to_read
from marzban_bridge.store.sqlite import in_memory
from marzban_bridge.store.store import Store

FORGET_PHRASE = "forget panel"
"""Has to be typed before a panel's accounts are dropped."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the subcommands; without one, the panels are listed."""
    add_json(command)
    asked = command.add_subparsers(dest="asked", metavar="WHAT")
    webhook = asked.add_parser(
        "webhook", help="print WEBHOOK_ADDRESS and WEBHOOK_SECRET for a panel's own .env"
    )
    webhook.add_argument("panel", metavar="NAME")
    apart = asked.add_parser(
        "apart",
        help="state that two entries with the same users are two panels (one was copied from the "
        "other); stop the bridge first",
    )
    apart.add_argument("panels", metavar="NAME", nargs=2)
    forget = asked.add_parser(
        "forget",
        help="delete the accounts and the address of a panel that was removed; stop the bridge "
        "first",
    )
    forget.add_argument("panel", metavar="NAME")
    forget.add_argument("--yes", action="store_true", help="do not ask for a typed confirmation")


def show(settings: Settings, *, as_json: bool = False) -> int:
    """Print the panels in configured order."""
    if as_json:
        found = [
            {"name": each.name, "url": each.url, "has_webhook": bool(each.webhook_secret)}
            for each in load_panels(settings)
        ]
        print_json(found)
        return 0
    table = Table("panel", "address", "webhooks")
    for panel in load_panels(settings):
        table.add_row(panel.name, panel.url, _webhooks(panel))
    Console().print(table)
    return 0


def _webhooks(panel: PanelSettings) -> str:
    if not panel.webhook_secret:
        return "refused: BRIDGE_WEBHOOK_SECRET is not set"
    return f"accepted at {webhook_path(panel.name)}"


def show_webhook(settings: Settings, name: str) -> int:
    """Print the lines for the panel's .env. Raises SettingsError where the panel has no secret."""
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
    """Delete all that the store has of a panel that is no longer configured.

    Raises SettingsError where it is still configured or unknown to the store, and StoreError where
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
        f"panel {name} and its {count} accounts are deleted from the store: another panel may now "
        "use its address and its name. The limits in the panel were not changed"
    )
    return 0


async def tell_apart(settings: Settings, one: str, other: str) -> int:
    """Store that two configured entries are two panels, even though their users are the same.

    Raises SettingsError where they are not configured, and StoreError where a bridge runs.
    """
    panels = [panel.name for panel in load_panels(settings)]
    if one == other or not {one, other} <= set(panels):
        raise SettingsError(f"panels apart: name two of {', '.join(panels)}")

    async def act(store: Store) -> None:
        store.tell_apart(one, other, actor="command line", at=utc_now())

    await with_store(settings, act)
    say(f"{one} and {other} are treated as two panels from now on")
    return 0


def demand_different(settings: Settings) -> None:
    """Raise SettingsError where two entries are one panel, and one of them has no accounts yet.

    Called before the start. A panel or store that does not answer yet is not an error: the running
    bridge repeats the check.
    """
    if settings.panels_file is None:
        return
    panels = load_panels(settings)
    with suppress(StoreAwayError, NotLeadingError):
        asyncio.run(_compare(panels, _open_known(settings)))


def _open_known(settings: Settings) -> Store:
    """Open the store for reading; an empty one if there is none yet."""
    return open_to_read(settings) if is_there(settings) else Store(StoreHandle(in_memory()))


async def _compare(panels: Sequence[PanelSettings], store: Store) -> None:
    async with AsyncExitStack() as stack:
        stack.callback(store.close)
        asked = open_panels(panels, stack)
        await TwinPanels(asked, store=store, clock=utc_now, metrics={}).demand_different()
