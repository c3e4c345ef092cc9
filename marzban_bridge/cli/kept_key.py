"""The admin key that `marzban-bridge up` made, where nobody configured one."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from marzban_bridge.config.settings import Settings

ADMIN_KEY_FILE = "collector-admin.key"


def is_of_up(settings: Settings) -> bool:
    """Tell whether the bridge runs as `up`, with a collector that nobody but it can ask."""
    return not settings.collector_admin_key and bool(_kept(settings))


def with_kept_key(settings: Settings) -> Settings:
    """Return the settings with the key that `up` keeps beside its store, if none is configured."""
    if settings.collector_admin_key:
        return settings
    return replace(settings, collector_admin_key=_kept(settings))


def _kept(settings: Settings) -> str:
    if isinstance(settings.store, Path):
        with contextlib.suppress(FileNotFoundError):
            return settings.store.with_name(ADMIN_KEY_FILE).read_text().strip()
    return ""
