"""A PostgreSQL ledger: one database that collectors share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Final, TypeVar

from collector.ledger.postgres.database import PostgresDatabase
from collector.ledger.postgres.link import Link, name_of
from collector.ledger.postgres.reader import PostgresReader
from collector.ledger.postgres.schema import bring_forward, version_of
from collector.ledger.postgres.writer import PostgresLedger
from collector.ledger.sql.administration import SqlAdministration
from collector.ledger.sql.database import Database

T = TypeVar("T")


class PostgresBackend(SqlAdministration):
    """A database, by its `postgresql://` URL.

    Raises NotStoredError and its kinds where the server cannot be reached.
    """

    is_shared: Final = True

    def __init__(self, url: str) -> None:
        self._url = url
        self.name = name_of(url)  # raises SettingsError for a malformed one

    def prepare(self) -> None:
        """Create or migrate the tables."""
        with closing(Link(self._url)) as link:
            bring_forward(link)

    def open(self, *, partitions: int = 1) -> PostgresLedger:
        """Open the ledger for writing; take the lease if it is free."""
        return PostgresLedger(self._url, partitions=partitions)

    def reader(self) -> PostgresReader:
        """Open the ledger for reading; LedgerError if that is not possible."""
        with closing(Link(self._url, only_reads=True)) as link:
            link.connect()
        return PostgresReader(self._url)

    def remembers_imports(self) -> bool:
        """Whether there is a ledger; nothing is created."""
        with closing(Link(self._url, only_reads=True)) as link:
            return link.ask(version_of) > 0

    def identity(self) -> None:
        """None: a replaced database is noticed by its lease."""

    def free_disk_bytes(self) -> None:
        """None: the disk is the server's."""

    def administer(self, work: Callable[[Database], T], *, only_reads: bool = False) -> T:
        """Run something in one transaction, also beside running collectors.

        With `only_reads` it also works while commits wait for a standby.
        """
        with closing(Link(self._url, only_reads=only_reads)) as link:
            bring_forward(link)
            return link.run(lambda db: work(PostgresDatabase(db)))
