"""Checks that the configured panels are the ones the store was written for.

The store identifies a panel by its configured name. Under another name it would be a new panel,
whose published limits (what was left of quotas) would be taken for quotas.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from urllib.parse import urlsplit

from marzban_bridge.config.panels_file import PanelSettings
from marzban_bridge.errors import SettingsError
from marzban_bridge.store.metas import PANEL_ADDRESS
from marzban_bridge.store.store import Store


def check_panels(store: Store, panels: Sequence[PanelSettings]) -> None:
    """Compare each panel's address with the stored ones, and store it.

    Raises SettingsError when the address is stored under another panel's name. A known panel may
    move to a new address.
    """
    marks = {each.name: _mark(each.url) for each in panels}
    metas = store.metas(PANEL_ADDRESS)
    known = {name.removeprefix(PANEL_ADDRESS): mark for name, mark in metas.items()}
    for name, mark in marks.items():
        for other, known_mark in known.items():
            if mark == known_mark and other != name:
                raise SettingsError(
                    f"panel {name} has the address that panel {other} had: the store has its "
                    f"users under {other}. Name it {other} again. If it is a different panel: "
                    f"where {other} has a new address, start once with that in its table; where "
                    f"{other} was removed, run `marzban-bridge panels forget {other}`"
                )
    for name, mark in marks.items():
        if known.get(name) != mark:
            store.set_meta(f"{PANEL_ADDRESS}{name}", mark)


def _mark(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return hashlib.sha256(f"{parts.hostname}:{port}{parts.path}".lower().encode()).hexdigest()[:32]
