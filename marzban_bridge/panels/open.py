"""Builds the adapter of a configured panel; all else knows panels by their port."""

from __future__ import annotations

import httpx

from marzban_bridge.panels.marzban import Marzban
from marzban_bridge.panels.port import Panel
from marzban_bridge.panels.write_guard import WriteGuard


def open_panel(
    url: str,
    *,
    username: str,
    password: str,
    name: str,
    timeout_seconds: float,
    transport: httpx.AsyncBaseTransport | None = None,
    guard: WriteGuard | None = None,
) -> Panel:
    """Return the panel called `name`, to be closed in the end; nothing is asked of it yet.

    `transport` replaces the network to it, and a `guard` is asked before each try of each write.
    """
    return Marzban(
        url,
        username=username,
        password=password,
        name=name,
        timeout_seconds=timeout_seconds,
        transport=transport,
        guard=guard,
    )
