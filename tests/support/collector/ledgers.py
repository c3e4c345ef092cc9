"""Builds reports for a ledger, and opens ledgers of every kind there is."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from collector.ledger import Batch
from collector.ledger.ports import Ledger, LedgerReader
from collector.ledger.postgres.reader import PostgresReader
from collector.ledger.postgres.writer import PostgresLedger
from collector.ledger.sqlite.backend import SqliteBackend
from collector.ledger.sqlite.reader import SqliteReader
from collector.ledger.sqlite.writer import SqliteLedger
from collector.reports.report import Report

DAY = 20_000
NOON_MILLIS = DAY * 86_400_000 + 43_200_000
LEASE_SECONDS = 3600.0


def report(
    username: str = "alice",
    *,
    up: int = 1,
    down: int = 2,
    server: str = "de-1",
    port: int = 443,
    protocol: str = "vless",
    connections: int = 1,
    at: int = NOON_MILLIS,
    key: str | None = None,
    billed: int | None = None,
) -> Report:
    return Report(
        username,
        server,
        port,
        protocol,
        up,
        down,
        connections,
        at,
        None if key is None else key.encode().rjust(16, b"\0"),
        billed,
    )


def batch(*reports: Report, reporter: str = "reporter:r") -> Batch:
    return Batch(reporter, reports)


def damage(path: Path) -> None:
    """Overwrite a table of a ledger file that no report touches."""
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'imported'"
        ).fetchone()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xa5" * 4096)


def beside(path: Path) -> SqliteBackend:
    """Return what administers a ledger file, beside its collector."""
    return SqliteBackend(f"sqlite:///{path}")


class Place(Protocol):
    """Where a ledger is kept between openings."""

    numbers_when_stored: bool
    """Whether a report has its seq when it is stored, or when it is added up."""

    def open(self) -> Ledger: ...

    def reader(self) -> LedgerReader: ...


@dataclass(kw_only=True)
class SqlitePlace:
    """A file."""

    path: Path
    numbers_when_stored = True

    def open(self) -> Ledger:
        return SqliteLedger(self.path)

    def reader(self) -> LedgerReader:
        return SqliteReader(self.path)


@dataclass(kw_only=True)
class PostgresPlace:
    """A database. Its ledger leads from its opening to its closing, however slow the engine is."""

    url: str
    numbers_when_stored = False

    def open(self) -> PostgresLedger:
        return PostgresLedger(self.url, lease_seconds=LEASE_SECONDS)

    def reader(self) -> PostgresReader:
        return PostgresReader(self.url)
