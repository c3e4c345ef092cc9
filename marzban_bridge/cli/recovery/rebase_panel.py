"""`marzban-bridge rebase --panel`: through the API of a running bridge, else on the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rich.console import Console

from marzban_bridge.api.answers import PanelRebaseAnswer, shown_plan
from marzban_bridge.bridge import Bridges
from marzban_bridge.cli.exclusive import with_bridges
from marzban_bridge.cli.running_bridge import RunningBridge
from marzban_bridge.config.panels_file import PanelSettings, load_panels
from marzban_bridge.config.settings import Settings
from marzban_bridge.errors import SettingsError
from marzban_bridge.reconcile.trust.panel_rebase import REBASE_PANEL_PHRASE
from marzban_bridge.tables import panel_rebase_table

PATH = "/v1/rebase-panel"


def rebase_panel(settings: Settings, name: str | None, *, confirmed: Callable[[], bool]) -> int:
    """Show what accepting a panel as it is would change, and change it once confirmed.

    `name` may be None where there is one panel. Raises SettingsError for an unknown panel.
    """
    console = Console()
    panel = _find(settings, name)
    plan = _ask(settings, panel, is_done=False)
    if plan.doubt is None:
        console.print(f"Panel {panel.name} is not suspended: there is nothing to accept.")
        return 0
    console.print(plan.doubt, markup=False, highlight=False, soft_wrap=True)
    console.print(panel_rebase_table(plan.accounts))
    if not confirmed():
        return 1
    done = _ask(settings, panel, is_done=True)
    console.print(
        f"Panel {panel.name} is accepted as it is; its {len(done.accounts)} accounts are settled "
        "next."
    )
    return 0


def _find(settings: Settings, name: str | None) -> PanelSettings:
    panels = {panel.name: panel for panel in load_panels(settings)}
    if name is None and len(panels) == 1:
        return next(iter(panels.values()))
    if name in panels:
        return panels[name]
    raise SettingsError(f"rebase --panel: name one of {', '.join(panels)}")


def _ask(settings: Settings, panel: PanelSettings, *, is_done: bool) -> PanelRebaseAnswer:
    with RunningBridge.find(settings, panel) as running:
        if running is None:
            return asyncio.run(_alone(settings, panel, is_done=is_done))
        if is_done:
            answer = running.call("POST", PATH, json={"confirm": REBASE_PANEL_PHRASE})
        else:
            answer = running.call("GET", PATH)
        return PanelRebaseAnswer.model_validate(answer)


async def _alone(settings: Settings, panel: PanelSettings, *, is_done: bool) -> PanelRebaseAnswer:
    async def act(bridges: Bridges) -> PanelRebaseAnswer:
        bridge = bridges.by_name[panel.name]
        if not is_done:
            return shown_plan(bridge.store, await bridge.panel_rebase.plan())
        done = shown_plan(bridge.store, await bridge.panel_rebase.apply(actor="command line"))
        await bridges.run_once()
        return done

    return await with_bridges(settings, act)
