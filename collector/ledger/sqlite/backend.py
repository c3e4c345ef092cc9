"""The embedded ledger: one file."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar

from collector.ledger.sql.administration import SqlAdministration
from collector.ledger.sql.database import Database
from collector.ledger.sqlite import file as sqlite_file
from collector.ledger.sqlite.database import SqliteDatabase
from collector.ledger.sqlite.reader import SqliteReader
from collector.ledger.sqlite.writer import SqliteLedger
from collector.ledger.url import ledger_path
from collector.runtime.sqlite.background_check import BackgroundCheck

T = TypeVar("T")


class SqliteBackend(SqlAdministration):
    """A ledger file, by its `sqlite:///` URL."""

    is_shared: Final = False

    def __init__(self, url: str) -> None:
        self.path: Path = ledger_path(url)

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self.path)

    def prepare(self) -> None:
        """Create or migrate the file."""
        SqliteLedger(self.path).close()

    def open(self) -> SqliteLedger:
        """Open the ledger for writing."""
        return SqliteLedger(self.path)

    def open_at_once(self) -> SqliteLedger:
        """Open the ledger for writing, before it is checked and added up."""
        return SqliteLedger(self.path, is_at_once=True)

    def check(self, *, on_fault: Callable[[Exception], None]) -> BackgroundCheck:
        """Return what checks the ledger beside its writer."""
        return BackgroundCheck(sqlite_file.LEDGER, self.path, on_fault=on_fault)

    def reader(self) -> SqliteReader:
        """Open the ledger for reading."""
        return SqliteReader(self.path)

    def remembers_imports(self) -> bool:
        """Whether there is a file with tables for imports and ratios."""
        if not self.path.exists():
            return False
        with closing(sqlite_file.connect(self.path, read_only=True)) as db:
            query = "SELECT count(*) FROM sqlite_master WHERE name IN ('imported', 'ratio')"
            return int(db.execute(query).fetchone()[0]) == 2

    def identity(self) -> tuple[int, int] | None:
        """Return the file's device and inode."""
        return sqlite_file.identity_of(self.path)

    def free_disk_bytes(self) -> int:
        """Return the free bytes of its disk."""
        return shutil.disk_usage(self.path.parent).free

    def administer(self, work: Callable[[Database], T], *, only_reads: bool = False) -> T:
        """Run something in one transaction, also beside a running collector."""
        with closing(sqlite_file.connect(self.path, read_only=only_reads)) as db:
            try:
                db.execute("BEGIN" if only_reads else "BEGIN IMMEDIATE")
                result = work(SqliteDatabase(db))
                db.execute("COMMIT")
            except sqlite3.Error as error:
                raise sqlite_file.not_stored(self.path, error) from error
            return result
