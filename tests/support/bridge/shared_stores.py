"""A bridge's store in PostgreSQL, opened as a leader does, and the two engines a test runs on."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from marzban_bridge.config.settings import StoreUrl
from marzban_bridge.panels.write_guard import WriteGuard
from marzban_bridge.store.postgres import schema as shared_schema
from marzban_bridge.store.postgres.lease import Lease
from marzban_bridge.store.postgres.link import PostgresLink
from marzban_bridge.store.postgres.replica import PostgresReplica, ReplicaReader
from marzban_bridge.store.postgres.schema import EVENTS, TABLES
from marzban_bridge.store.store import Store

FILE, POSTGRESQL = "file", "postgresql"
ENGINES = [FILE, POSTGRESQL]


def lead(url: str, *, seconds: float = 300) -> Lease:
    """Take the lease, whoever has it."""
    shared_schema.prepare(url)
    link = PostgresLink(url)
    lease = Lease(seconds)
    link.ask(lambda db: db.execute("UPDATE lease SET expires_at = clock_timestamp()"))
    assert link.ask(lease.take)
    link.close()
    return lease


def give_back(url: str, lease: Lease) -> None:
    """Let another one lead at once."""
    link = PostgresLink(url)
    link.ask(lease.release)
    link.close()


def open_shared(url: str) -> tuple[Store, Lease]:
    """Open a store as its leader."""
    lease = lead(url)
    return Store(PostgresReplica(url, lease)), lease


def leading(place: Path | StoreUrl, stack: AsyncExitStack) -> dict[str, Any]:
    """Return what `open_bridges` needs beside its settings; nothing for a file.

    At the end what was in memory must be what is in the database.
    """
    if isinstance(place, Path):
        return {}
    store, lease = open_shared(place.value)
    stack.callback(lambda: give_back(place.value, lease))
    stack.callback(store.close)
    stack.callback(lambda: assert_written_through(store, place.value))
    return {"store": store, "guard": WriteGuard(lease)}


def assert_written_through(store: Store, url: str) -> None:
    """Compare the leader's copy with what another bridge would read."""
    other = Store(ReplicaReader(url))
    for table in TABLES:
        if table is not EVENTS:
            columns = ", ".join(table.columns)
            query = f"SELECT {columns} FROM {table.name} ORDER BY {', '.join(table.keys)}"
            ours, theirs = (each._handle.db.execute(query).fetchall() for each in (store, other))
            assert ours == theirs, table.name
    other.close()


class StorePlace:
    """Where a test's store is, on either engine."""

    def __init__(self, place: Path | str) -> None:
        self.place = place

    @property
    def setting(self) -> Path | StoreUrl:
        """Return what `BRIDGE_STORE` says of it."""
        return self.place if isinstance(self.place, Path) else StoreUrl(self.place)

    def open(self) -> Store:
        """Open it to write."""
        return Store(self.place) if isinstance(self.place, Path) else open_shared(self.place)[0]

    def read(self) -> Store:
        """Open it to read."""
        if isinstance(self.place, Path):
            return Store(self.place, read_only=True)
        return Store(ReplicaReader(self.place))
