"""A bridge's store in PostgreSQL, opened as a leader does, and the two engines a test runs on."""

from __future__ import annotations

from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

from marzban_bridge.config.settings import StoreUrl
from marzban_bridge.panels.write_guard import WriteGuard
from marzban_bridge.store.postgres import schema as shared_schema
from marzban_bridge.store.postgres.lease import Lease
from marzban_bridge.store.postgres.link import PostgresLink
from marzban_bridge.store.postgres.replica import PostgresReplica, ReplicaReader
from marzban_bridge.store.postgres.rows import load
from marzban_bridge.store.postgres.schema import EVENTS, TABLES
from marzban_bridge.store.store import Store

FILE, POSTGRESQL = "file", "postgresql"
ENGINES = [FILE, POSTGRESQL]


def lead(url: str, *, seconds: float = 300) -> Lease:
    """Take the lease, whoever has it."""
    with closing(PostgresLink(url)) as link:
        return _lead(link, url, seconds=seconds)


def _lead(link: PostgresLink, url: str, *, seconds: float = 300) -> Lease:
    if link.ask(shared_schema.version_of) != shared_schema.VERSION:
        shared_schema.prepare(url)
    lease = Lease(seconds)
    link.ask(lambda db: db.execute("UPDATE lease SET expires_at = statement_timestamp()"))
    assert link.ask(lease.take)
    return lease


def give_back(url: str, lease: Lease) -> None:
    """Let another one lead at once."""
    with closing(PostgresLink(url)) as link:
        link.ask(lease.release)


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
    link = PostgresLink(place.value)
    stack.callback(link.close)
    lease = _lead(link, place.value)
    stack.callback(lambda: link.ask(lease.release))
    store = Store(PostgresReplica(place.value, lease))
    stack.callback(store.close)
    stack.callback(lambda: assert_written_through(store, place.value))
    return {"store": store, "guard": WriteGuard(lease)}


def assert_written_through(store: Store, url: str) -> None:
    """Compare the leader's copy with what another bridge would read."""
    with closing(load(url)) as read:
        for table in TABLES:
            if table is not EVENTS:
                columns = ", ".join(table.columns)
                query = f"SELECT {columns} FROM {table.name} ORDER BY {', '.join(table.keys)}"
                ours, theirs = (db.execute(query).fetchall() for db in (store._handle.db, read))
                assert ours == theirs, table.name


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
