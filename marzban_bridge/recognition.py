"""Tells whether the panels that are configured are the ones a store is of.

A store knows a panel by the name it was given. Under another name it would be a new panel, whose
limits, which are what was left of quotas, would be taken for the quotas.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from urllib.parse import urlsplit

from marzban_bridge.errors import SettingsError
from marzban_bridge.panels_file import PanelSettings
from marzban_bridge.store import Store

_META = "panel_address:"


def recognize(store: Store, panels: Sequence[PanelSettings]) -> None:
    """Remember by what address each panel is reached.

    Raises SettingsError when a panel's address is known of a panel of another name. That a known
    panel moves to a new address is nothing unusual.
    """
    marks = {each.name: _mark(each.url) for each in panels}
    known = {name.removeprefix(_META): mark for name, mark in store.metas(_META).items()}
    for name, mark in marks.items():
        for other, known_mark in known.items():
            if mark == known_mark and other != name:
                raise SettingsError(
                    f"panel {name} has the address that panel {other} had: the store knows its "
                    f"users as those of {other}. Give it that name again; if it really is another "
                    f"panel at that address now, start once with {other} at its new address"
                )
    for name, mark in marks.items():
        if known.get(name) != mark:
            store.set_meta(f"{_META}{name}", mark)


def _mark(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return hashlib.sha256(f"{parts.hostname}:{port}{parts.path}".lower().encode()).hexdigest()[:32]
