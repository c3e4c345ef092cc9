"""`marzban-bridge rebuild`: rebuilds a lost store from the lines in users' notes."""

from __future__ import annotations

import argparse
from dataclasses import replace

from marzban_bridge.bridge import Bridge, Bridges
from marzban_bridge.cli.exclusive import with_bridges
from marzban_bridge.cli.output import console, say
from marzban_bridge.config.settings import Settings
from marzban_bridge.quota.balance import balance_with_raw
from marzban_bridge.reconcile.rebuilding import Rebuilding, Rebuilt
from marzban_bridge.tables import seen_totals, users_table


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    command.add_argument(
        "--store", metavar="NAME", help="which store's lines to use, if there are several"
    )
    command.add_argument(
        "--yes", action="store_true", help="store the result; without it, only show it"
    )


async def rebuild(settings: Settings, *, from_store: str | None, is_carried_out: bool) -> int:
    """Show the accounts that users' notes give; store them only if `is_carried_out`."""

    async def read(bridges: Bridges) -> list[tuple[Bridge, Rebuilding]]:
        return await bridges.rebuild(
            from_store=from_store, is_carried_out=is_carried_out, actor="command line"
        )

    for bridge, found in await with_bridges(settings, read):
        for lines in found.stores:
            where = " ".join(lines.places) or "an unknown host"
            say(
                f"panel {found.panel}: {lines.users} users have lines of store {lines.store}, "
                f"whose bridge ran on {where}"
            )
        with_line = [each for each in found.accounts if each.has_line]
        without = [each for each in found.accounts if not each.has_line]
        _show(bridge, with_line, f"Panel {found.panel}: from the lines in notes")
        _show(
            bridge, without, f"Panel {found.panel}: without a line; the panel's limit is the quota"
        )
        done = "are rebuilt" if is_carried_out else "would be rebuilt; nothing was changed yet"
        say(
            f"panel {found.panel}: {len(with_line)} users from their lines and {len(without)} "
            f"without {done}"
        )
    if not is_carried_out:
        say("run it again with --yes to do so")
    return 0


def _show(bridge: Bridge, rebuilt: list[Rebuilt], title: str) -> None:
    accounts = [
        replace(each.account, username=bridge.store.placement.public_name(each.account.username))
        for each in rebuilt
    ]
    if accounts:
        rows = [(each, balance_with_raw(each, seen_totals(each))) for each in accounts]
        console.print(users_table(rows, title=title))
