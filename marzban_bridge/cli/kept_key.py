"""The admin key that `marzban-bridge up` generates when none is configured."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from marzban_bridge.config.settings import Settings

ADMIN_KEY_FILE = "collector-admin.key"


def is_of_up(settings: Settings) -> bool:
    """Tell whether the bridge was set up by `up`, with a collector that uses the stored key."""
    return not settings.collector_admin_key and bool(_kept(settings))


def with_kept_key(settings: Settings) -> Settings:
    """Return the settings; without a configured key, with the one `up` stored beside its store."""
    if settings.collector_admin_key:
        return settings
    return replace(settings, collector_admin_key=_kept(settings))


def _kept(settings: Settings) -> str:
    if isinstance(settings.store, Path):
        with contextlib.suppress(FileNotFoundError):
            return settings.store.with_name(ADMIN_KEY_FILE).read_text().strip()
    return ""
