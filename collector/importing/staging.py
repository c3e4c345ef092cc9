"""Adds up a file's rows before they are compared with the ledger, in a temporary SQLite file."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from collector.errors import ImportFileError
from collector.importing.rows import Row
from collector.ledger.import_amounts import Amounts, Sums
from collector.reports.report import Report

_CREATE = """
    CREATE TABLE sums (
        identity BLOB NOT NULL, protocol TEXT NOT NULL, username TEXT NOT NULL,
        server TEXT NOT NULL, port INTEGER NOT NULL, at INTEGER NOT NULL,
        upload_bytes INTEGER NOT NULL, download_bytes INTEGER NOT NULL,
        connections INTEGER NOT NULL, PRIMARY KEY (identity, protocol)
    ) STRICT, WITHOUT ROWID
"""
_ADD = """
    INSERT INTO sums VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (identity, protocol) DO UPDATE SET
        at = max(at, excluded.at),
        upload_bytes = upload_bytes + excluded.upload_bytes,
        download_bytes = download_bytes + excluded.download_bytes,
        connections = connections + excluded.connections
"""
_ROWS_PER_STATEMENT = 5000


@dataclass(slots=True)
class Statement:
    """The sum that a file states for one user, server, port and day, or for one report id."""

    identity: bytes
    reports: dict[str, Report] = field(default_factory=dict)
    """By protocol."""

    @property
    def sums(self) -> Sums:
        """The amounts by protocol."""
        return {
            protocol: Amounts(each.upload_bytes, each.download_bytes)
            for protocol, each in self.reports.items()
        }


class Staging:
    """The sums of one file."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a temporary file, in memory if small
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute(_CREATE)
        self._db.execute("BEGIN")
        self._pending: list[tuple[Any, ...]] = []

    def close(self) -> None:
        """Close and delete the temporary file."""
        self._db.close()

    def add(self, row: Row) -> None:
        """Add a row to the statement it belongs to."""
        report = row.report
        self._pending.append(
            (
                *(row.identity, report.protocol, report.username, report.server, report.port),
                *(report.reported_at_millis, report.upload_bytes, report.download_bytes),
                report.connections,
            )
        )
        if len(self._pending) >= _ROWS_PER_STATEMENT:
            self._flush()

    def _flush(self) -> None:
        try:
            self._db.executemany(_ADD, self._pending)
        except sqlite3.IntegrityError as error:
            raise ImportFileError("a sum of the file exceeds the largest integer") from error
        except sqlite3.Error as error:
            raise ImportFileError(f"the file's rows cannot be added up: {error}") from error
        self._pending.clear()

    def count(self) -> int:
        """Return the number of sums."""
        self._flush()
        return int(self._db.execute("SELECT count(*) FROM sums").fetchone()[0])

    def __iter__(self) -> Iterator[Statement]:
        """Yield the statements."""
        self._flush()
        rows = self._db.execute("SELECT * FROM sums ORDER BY identity, protocol")
        for identity, group in itertools.groupby(rows, key=lambda row: row[0]):
            statement = Statement(identity)
            for _, protocol, username, server, port, at_millis, up, down, connections in group:
                statement.reports[protocol] = Report(
                    username, server, port, protocol, up, down, connections, at_millis
                )
            yield statement
