"""Builds the adapter of a configured panel; all else knows panels by their port."""

from __future__ import annotations

import httpx

from marzban_bridge.config.panels_file import PanelSettings
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.rest_panel import RestPanel
from marzban_bridge.panels.write_guard import WriteGuard


def open_panel(
    configured: PanelSettings,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    guard: WriteGuard | None = None,
) -> Panel:
    """Return a configured panel, to be closed in the end; nothing is asked of it yet.

    Its API key is used in place of name and password where it has one; without a kind the panel is
    asked what it is. `transport` replaces the network to it, and a `guard` is asked before each try
    of each write.
    """
    return RestPanel(
        configured.url,
        username=configured.username,
        password=configured.password,
        api_key=configured.api_key,
        kind=configured.kind,
        name=configured.name,
        timeout_seconds=configured.timeout_seconds,
        transport=transport,
        guard=guard,
    )
