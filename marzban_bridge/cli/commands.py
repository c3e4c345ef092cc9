"""What each command of `marzban-bridge` does.

A command is sent to the running bridge, if there is one that can carry it out; otherwise the
command opens the store itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from pathlib import Path

from collector.runtime.cli import print_json
from marzban_bridge.bridge import Bridge, Bridges
from marzban_bridge.cli import exclusive
from marzban_bridge.cli.exclusive import with_bridges
from marzban_bridge.cli.objects import (
    event_object,
    has_user,
    unknown_user,
    user_objects,
    user_rows,
)
from marzban_bridge.cli.output import console, say
from marzban_bridge.cli.running_bridge import RunningBridge
from marzban_bridge.config.panels_file import PanelSettings, load_panels
from marzban_bridge.config.settings import Settings
from marzban_bridge.errors import SettingsError
from marzban_bridge.panels.names import scoped
from marzban_bridge.reconcile.pass_result import PassResult
from marzban_bridge.sizes import human_bytes
from marzban_bridge.store.backup import back_up
from marzban_bridge.store.metas import PANEL_IS, STOPPED_ADMINS
from marzban_bridge.store.open import open_to_read
from marzban_bridge.store.store import Store
from marzban_bridge.tables import (
    PlannedRow,
    events_table,
    plan_table,
    unknown_names_table,
    users_table,
)

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0


async def once(settings: Settings) -> int:
    """Make one pass and show all users with external traffic."""

    async def make_a_pass(bridges: Bridges) -> PassResult:
        result = await bridges.run_once()
        _show_users(bridges.store)
        return result

    result = await with_bridges(settings, make_a_pass)
    say(f"{result.users} users evaluated in {result.seconds:.1f} s, {result.failures} failures")
    if result.suspension_text:
        say(result.suspension_text)
    return 1 if result.failures or result.suspension_text else 0


def plan(settings: Settings, *, as_json: bool = False) -> int:
    """Show what a pass would change."""

    async def preview(bridges: Bridges) -> list[PlannedRow]:
        rows: list[PlannedRow] = []
        for bridge in bridges.by_name.values():
            await _check_panel(bridge, is_shown=not as_json)
            rows += [
                _row(bridge.panel_settings, PlannedRow.of(each.change))
                async for each in bridge.reconciler.previews()
                if each.change
            ]
        return rows

    rows: list[PlannedRow] = []
    for panel in load_panels(settings):
        with RunningBridge.find(settings, panel) as running:
            if running is None:
                rows = asyncio.run(with_bridges(settings, preview))
                break
            for problem in running.problems():
                log.warning("%s", problem)
            found = running.call("GET", "/v1/plan")
            rows += [_row(panel, PlannedRow(**change)) for change in found]
    if as_json:
        print_json([row._asdict() for row in rows])
    elif rows:
        console.print(plan_table(rows))
    else:
        console.print("Nothing to change: no user with external traffic needs a write.")
    return 0


def _row(panel: PanelSettings, row: PlannedRow) -> PlannedRow:
    return row._replace(username=scoped(panel.name, row.username))


async def _check_panel(bridge: Bridge, *, is_shown: bool) -> None:
    """Print the admin the bridge signed in as; warn if it may not read and write every user."""
    found = await bridge.reconciler.health.check()
    if not is_shown:
        return
    say(f"Signed in to {bridge.panel_settings.url} as {found.admin} ({found.panel}).")


def users(settings: Settings, username: str | None = None, *, as_json: bool = False) -> int:
    """Show every user with external traffic as of its last evaluation, or one of them.

    Raises BridgeError for a name that no user with external traffic has.
    """
    store = open_to_read(settings)
    try:
        if username is not None and not has_user(store, username):
            raise unknown_user(store, username)
        if as_json:
            print_json(list(user_objects(store, username)))
            return 0
        _show_users(store, username)
        if store.suspended:
            say(store.suspended)
        for panel in store.panels:
            if text := store.of(panel).suspension.text:
                say(text)
    finally:
        store.close()
    return 0


def events(settings: Settings, username: str | None, limit: int, *, as_json: bool = False) -> int:
    """Show the events, oldest first. Raises BridgeError for a name without a user or an event."""
    store = open_to_read(settings)
    try:
        panels, name = list(store.panels), username
        if username is not None:
            panel, name = _place_of(store, username)
            panels = [panel]
        found = [
            replace(
                each, username=stored.placement.public_name(each.username) if each.username else ""
            )
            for panel in panels
            for stored in (store.of(panel),)
            for each in stored.events.newest(username=name, limit=limit)
        ]
        found.sort(key=lambda each: each.seq)
        if username is not None and not found and not has_user(store, username):
            raise unknown_user(store, username)
        if as_json:
            print_json([event_object(each) for each in found[-limit:]])
        else:
            console.print(events_table(found[-limit:]))
    finally:
        store.close()
    return 0


def _place_of(store: Store, username: str) -> tuple[str, str]:
    """Split a public name (`panel/name`, or a name alone) into the panel and the name there."""
    return store.placement.place_of(username)


def cleanup(settings: Settings, days: int) -> int:
    """Have the collector delete reports and daily rows older than `days`."""

    async def purge(bridges: Bridges) -> dict[str, object]:
        return await bridges.first.actions.cleanup(days=days, actor="command line")

    first, *_ = load_panels(settings)
    with RunningBridge.find(settings, first) as running:
        if running is None:
            answer = asyncio.run(with_bridges(settings, purge))
        else:
            answer = running.call("POST", "/v1/cleanup", params={"days": days})
    say(
        f"{answer['removed_reports']} reports and {answer['removed_day_rows']} daily rows older "
        f"than {days} days were removed; totals and quotas stay"
    )
    return 0


def backup(settings: Settings, target: Path) -> int:
    """Copy the store, while a bridge may be using it, and print what the copy contains."""
    told_at = time.monotonic()

    def tell(done_bytes: int, all_bytes: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= PROGRESS_SECONDS:
            told_at = time.monotonic()
            log.info("%s of %s copied", human_bytes(done_bytes), human_bytes(all_bytes))

    if not isinstance(settings.store, Path):
        raise SettingsError(
            "a store in PostgreSQL is backed up by its own tools: "
            "pg_dump --format=custom --schema=bridge (docs/scale.md)"
        )
    copy = back_up(settings.store, target, on_progress=tell)
    say(
        f"{copy.path}: {copy.users} users, {human_bytes(copy.size_bytes)}, whole, "
        f"in {copy.seconds:.1f} s"
    )
    return 0


async def move_store(settings: Settings, file: Path) -> int:
    """Move a store from its file into PostgreSQL, and print what was moved."""
    accounts, events = await exclusive.move_store(settings, file)
    say(
        f"{accounts} users and {events} events are in {settings.store}, each compared; "
        f"{file} is unchanged: move it away, no bridge may use it any more"
    )
    return 0


def _show_users(store: Store, username: str | None = None) -> None:
    rows, unknown_names = list(user_rows(store, username)), []
    for panel in store.panels if username is None else ():
        unknown_names += [
            replace(each, username=scoped(panel, each.username))
            for each in store.of(panel).unknown_names.all()
        ]
    console.print(users_table(rows))
    if unknown_names:
        console.print(unknown_names_table(unknown_names))
    for panel in store.panels:
        if text := store.meta(f"{PANEL_IS}{panel}"):
            say(f"panel {panel}: {text}")
        for text in (store.meta(f"{STOPPED_ADMINS}{panel}") or "").splitlines():
            say(f"panel {panel}: {text}")
