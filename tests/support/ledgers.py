"""Builds reports for a ledger, and opens ledgers of every kind there is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from collector.ledger import Batch, Ledger, LedgerReader
from collector.ledger.sqlite import SqliteLedger
from collector.ledger.sqlite_reader import SqliteReader
from collector.reports import Report

DAY = 20_000
NOON_MILLIS = DAY * 86_400_000 + 43_200_000


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


@dataclass(kw_only=True)
class SqlitePlace:
    """Where a ledger is kept between openings."""

    path: Path

    def open(self) -> Ledger:
        return SqliteLedger(self.path)

    def reader(self) -> LedgerReader:
        return SqliteReader(self.path)
