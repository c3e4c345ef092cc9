"""`marzban-bridge reset`: through the API of a running bridge, else on the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from urllib.parse import quote

from marzban_bridge.bridge import Bridges, first_failure
from marzban_bridge.cli.exclusive import with_bridges
from marzban_bridge.cli.output import say
from marzban_bridge.cli.running_bridge import RunningBridge
from marzban_bridge.config.panels_file import PanelSettings, load_panels
from marzban_bridge.config.settings import Settings
from marzban_bridge.panels.names import FIRST_PANEL, take_apart
from marzban_bridge.reconcile.action_names import RESET_ALL_PHRASE
from marzban_bridge.sizes import human_bytes
from marzban_bridge.store.open import is_there, open_to_read

RESET_ALL_BODY = {"confirm": RESET_ALL_PHRASE, "all_panels": True}


def reset_user(settings: Settings, username: str, *, changes_panel: bool = False) -> int:
    """Reset a user: start a new period in the panel and in the bridge."""

    async def reset(bridges: Bridges) -> int:
        bridge, name = bridges.find(username)
        usage = await bridge.actions.reset_user(
            name, actor="command line", changes_panel=changes_panel
        )
        return usage.balance.used_bytes

    panels = {panel.name: panel for panel in load_panels(settings)}
    panel, name = _find(settings, username, panels)
    with RunningBridge.find(settings, panel) as running:
        if running is None:
            used_bytes = asyncio.run(with_bridges(settings, reset))
        else:
            path = f"/v1/users/{quote(name, safe='')}/reset"
            answer = running.call("POST", path, params=_change(changes_panel))
            used_bytes = answer["total_usage_bytes"]
    say(f"{username} was reset: {human_bytes(used_bytes)} used in the new period")
    return 0


def _change(changes_panel: bool) -> Mapping[str, str]:  # noqa: FBT001 - it becomes a parameter
    """Return the query that has a running bridge change the panel even in observe mode."""
    return {"change_panel": "true"} if changes_panel else {}


def _find(
    settings: Settings, username: str, panels: Mapping[str, PanelSettings]
) -> tuple[PanelSettings, str]:
    """Return the panel that a public name is a user of, and the name there; may read the store."""
    name = take_apart(username, panels=panels)
    if len(panels) > 1 and is_there(settings):
        store = open_to_read(settings)
        try:
            panel, key = store.placement.place_of(username)
        finally:
            store.close()
        if panel in panels:
            return panels[panel], key
    return panels[name.panel or FIRST_PANEL], name.key


def reset_all(settings: Settings, *, changes_panel: bool = False) -> int:
    """Reset all users, through the panels' call for that."""

    async def reset(bridges: Bridges) -> int:
        results = await bridges.reset_everybody(actor="command line", changes_panel=changes_panel)
        done = [each for each in results.values() if isinstance(each, int)]
        failure = first_failure(results)
        if failure and not done:
            raise failure
        await bridges.run_once()
        if failure:
            raise failure
        return sum(done)

    with RunningBridge.find(settings) as running:
        if running is None:
            count = asyncio.run(with_bridges(settings, reset))
        else:
            path, params = "/v1/reset-all", _change(changes_panel)
            count = running.call("POST", path, json=RESET_ALL_BODY, params=params)["users"]
    say(f"{count} users with external traffic were reset")
    return 0
