"""Where a person finds a user in the panel's own pages; pure."""

from __future__ import annotations

from urllib.parse import quote

from marzban_bridge.panels.dialect import PanelKind

_PAGES = "/dashboard/"
"""Where both kinds have their pages, unless their DASHBOARD_PATH says otherwise."""


def user_page(panel_url: str, kind: PanelKind, username: str) -> str:
    """Return the address of the panel's list of users, searched for a name where it can be.

    Marzban has one page, which takes no name; PasarGuard's list of users does.
    """
    pages = panel_url.rstrip("/") + _PAGES
    if kind is PanelKind.PASARGUARD:
        return f"{pages}#/users?search={quote(username, safe='')}"
    return pages
