"""A bridge's store in PostgreSQL, opened as a leader does, and the two engines a test runs on."""

from __future__ import annotations

from pathlib import Path

from marzban_bridge import shared_schema
from marzban_bridge.lease import Lease
from marzban_bridge.postgres_link import PostgresLink
from marzban_bridge.settings import StoreUrl
from marzban_bridge.shared_store import ReadHandle, SharedHandle
from marzban_bridge.store import Store

FILE, POSTGRESQL = "file", "postgresql"
ENGINES = [FILE, POSTGRESQL]


def lead(url: str, *, seconds: float = 300) -> Lease:
    """Take the lease, whoever has it."""
    shared_schema.prepare(url)
    link = PostgresLink(url)
    lease = Lease(seconds)
    link.run(lambda db: db.execute("UPDATE lease SET expires_at = clock_timestamp()"))
    assert link.run(lease.take)
    link.close()
    return lease


def open_shared(url: str) -> tuple[Store, Lease]:
    """Open a store as its leader."""
    lease = lead(url)
    return Store(SharedHandle(url, lease)), lease


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
        return Store(ReadHandle(self.place))
