"""Runs a function while this process alone may write the store: no bridge, no other command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from marzban_bridge.bridge import Bridges
from marzban_bridge.config.settings import Settings
from marzban_bridge.opening import open_bridges
from marzban_bridge.store.open import url_of
from marzban_bridge.store.store import Store

T = TypeVar("T")


async def with_bridges(settings: Settings, act: Callable[[Bridges], Awaitable[T]]) -> T:
    """Run `act` with the bridges of all panels.

    Raises StoreError, naming the other process, when it holds the store.
    """
    if isinstance(settings.store, Path):
        async with open_bridges(settings) as bridges:
            return await act(bridges)
    url = url_of(settings)
    from marzban_bridge.store.postgres.leadership import Leadership  # noqa: PLC0415 - the driver is an extra

    leadership = Leadership(url)

    async def lead(store: Store) -> T:
        async with open_bridges(settings, store=store, guard=leadership.guard) as bridges:
            return await act(bridges)

    return await leadership.lead_once(lead)


async def with_store(settings: Settings, act: Callable[[Store], Awaitable[T]]) -> T:
    """Run `act` with the store alone; neither a panel nor the collector is called.

    Raises StoreError, naming the other process, when it holds the store.
    """
    if isinstance(settings.store, Path):
        store = Store(settings.store)
        try:
            return await act(store)
        finally:
            store.close()
    url = url_of(settings)
    from marzban_bridge.store.postgres.leadership import Leadership  # noqa: PLC0415 - the driver is an extra

    return await Leadership(url).lead_once(act)


async def move_store(settings: Settings, file: Path) -> tuple[int, int]:
    """Move a store from its file into PostgreSQL; return the numbers of accounts and events.

    Raises StoreError when either is in use, or when there is a store in PostgreSQL already.
    """
    url = url_of(settings)
    from marzban_bridge.store.postgres import move as store_move  # noqa: PLC0415 - the driver is an extra
    from marzban_bridge.store.postgres.leadership import Leadership  # noqa: PLC0415 - the driver is an extra

    leadership = Leadership(url)

    async def move(_: Store) -> store_move.Moved:
        return await asyncio.to_thread(store_move.move, file, url, leadership.lease)

    moved = await leadership.lead_once(move)
    return moved.accounts, moved.events
