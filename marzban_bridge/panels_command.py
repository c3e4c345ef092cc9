"""`marzban-bridge panels`: which panels there are, their webhooks' secrets, and forgetting one."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.table import Table

from marzban_bridge.app import utc_now
from marzban_bridge.commands import say
from marzban_bridge.errors import SettingsError
from marzban_bridge.panel_names import FIRST_PANEL
from marzban_bridge.panels_file import PanelSettings, load_panels
from marzban_bridge.settings import Settings
from marzban_bridge.sole_writer import with_store
from marzban_bridge.store import Store

FORGET_PHRASE = "forget panel"
"""Typed by whoever has a panel's accounts dropped, so that no slip of the hand does it."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare what can be asked about panels; nothing lists them."""
    asked = command.add_subparsers(dest="asked", metavar="WHAT")
    webhook = asked.add_parser(
        "webhook", help="print WEBHOOK_ADDRESS and WEBHOOK_SECRET for a panel's own .env"
    )
    webhook.add_argument("panel", metavar="NAME")
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
