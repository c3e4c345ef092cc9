"""Locates the bridge's store, and opens it for reading."""

from __future__ import annotations

from pathlib import Path

from marzban_bridge.config.settings import Settings, StoreUrl
from marzban_bridge.errors import SettingsError
from marzban_bridge.store.store import Store


def file_of(settings: Settings) -> Path:
    """Return the store's file; SettingsError where it is in PostgreSQL."""
    if isinstance(settings.store, StoreUrl):
        raise SettingsError("BRIDGE_STORE: this needs a store in a file, and it is in PostgreSQL")
    return settings.store


def url_of(settings: Settings) -> str:
    """Return the store's PostgreSQL URL; SettingsError if it is malformed, or a file."""
    if not isinstance(settings.store, StoreUrl):
        raise SettingsError("BRIDGE_STORE: this needs a store in PostgreSQL: postgresql://…")
    try:
        from marzban_bridge.store.postgres.link import name_of  # noqa: PLC0415 - the driver is an extra
    except ImportError as error:
        raise SettingsError(
            "BRIDGE_STORE: a store in PostgreSQL needs its driver: "
            "pip install 'marzban-external-traffic[postgres]'"
        ) from error
    name_of(settings.store.value)
    return settings.store.value


def open_to_read(settings: Settings) -> Store:
    """Open the store for reading, while a bridge may run; StoreError where there is none."""
    if isinstance(settings.store, Path):
        return Store(settings.store, read_only=True)
    url = url_of(settings)
    from marzban_bridge.store.postgres.replica import ReplicaReader  # noqa: PLC0415 - the driver is an extra

    return Store(ReplicaReader(url))


def is_there(settings: Settings) -> bool:
    """Tell whether the store exists; StoreAwayError when the database does not answer."""
    if isinstance(settings.store, Path):
        return settings.store.exists()
    url = url_of(settings)
    from marzban_bridge.store.postgres.replica import is_there as is_in_database  # noqa: PLC0415 - an extra

    return is_in_database(url)
