"""Builds the adapter of a configured panel; all else knows panels by their port."""

from __future__ import annotations

import httpx

from marzban_bridge.panels.dialect import PanelKind
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.rest_panel import RestPanel
from marzban_bridge.panels.write_guard import WriteGuard


def open_panel(
    url: str,
    *,
    username: str,
    password: str,
    api_key: str = "",
    kind: PanelKind | None = None,
    name: str,
    timeout_seconds: float,
    transport: httpx.AsyncBaseTransport | None = None,
    guard: WriteGuard | None = None,
) -> Panel:
    """Return the panel called `name`, to be closed in the end; nothing is asked of it yet.

    With an `api_key` that is used in place of name and password; without a `kind` the panel is
    asked what it is. `transport` replaces the network to it, and a `guard` is asked before each try
    of each write.
    """
    return RestPanel(
        url,
        username=username,
        password=password,
        api_key=api_key,
        kind=kind,
        name=name,
        timeout_seconds=timeout_seconds,
        transport=transport,
        guard=guard,
    )
