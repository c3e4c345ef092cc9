"""What of imported files is counted already; kept for ever, or a file could be counted twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence

from collector.errors import LedgerError
from collector.ledger import Batch, Receipt
from collector.ledger.import_amounts import Amounts, Sums
from collector.ledger.sql.statistics import sums_of_users
from collector.ledger.sqlite.database import SqliteDatabase
from collector.ledger.sqlite.writer import SqliteLedger
from collector.reports.report import Report

KEYS_PER_QUERY = 500


def counted_of(
    db: sqlite3.Connection, identities: Sequence[bytes]
) -> dict[bytes, dict[str, Amounts]]:
    """Return what was counted under each identity, by protocol."""
    found: dict[bytes, dict[str, Amounts]] = {}
    for start in range(0, len(identities), KEYS_PER_QUERY):
        page = identities[start : start + KEYS_PER_QUERY]
        marks = ",".join("?" * len(page))
        rows = db.execute(
            "SELECT identity, protocol, upload_bytes, download_bytes FROM imported "
            f"WHERE identity IN ({marks})",
            page,
        )
        for identity, protocol, up, down in rows:
            found.setdefault(identity, {})[protocol] = Amounts(up, down)
    return found


def has_memory(db: sqlite3.Connection) -> bool:
    """Tell whether the ledger knows of imports and ratios; one of an older version does not yet."""
    query = "SELECT count(*) FROM sqlite_master WHERE name IN ('imported', 'ratio')"
    return int(db.execute(query).fetchone()[0]) == 2


def total_bytes(db: sqlite3.Connection) -> tuple[int, int]:
    """Return the sums of all users' traffic since for ever: raw, and billed."""
    sums = sums_of_users(SqliteDatabase(db))
    return sums.raw_bytes, sums.billed_bytes


def count(
    ledger: SqliteLedger,
    reports: Sequence[Report],
    growth: Mapping[bytes, Sums],
    *,
    origin: str,
    now_millis: int,
) -> None:
    """Store reports and, in the same commit, that they are counted under their identities.

    Raises LedgerError when a user's total would not fit the ledger, NotStoredError and
    DiskFullError as any commit; then nothing is stored.
    """
    batch = Batch(f"import:{origin}", reports)
    ledger.record([batch], received_at_millis=now_millis, alongside=_note(growth))


def _note(
    growth: Mapping[bytes, Sums],
) -> Callable[[sqlite3.Connection, Sequence[Receipt]], None]:
    def note(db: sqlite3.Connection, receipts: Sequence[Receipt]) -> None:
        if any(receipt.full for receipt in receipts):
            raise LedgerError("a user's total would be beyond what the ledger can count")
        db.executemany(
            "INSERT INTO imported (identity, protocol, upload_bytes, download_bytes) "
            "VALUES (?, ?, ?, ?) ON CONFLICT (identity, protocol) DO UPDATE SET "
            "upload_bytes = upload_bytes + excluded.upload_bytes, "
            "download_bytes = download_bytes + excluded.download_bytes",
            [
                (identity, protocol, *amounts)
                for identity, sums in growth.items()
                for protocol, amounts in sums.items()
            ],
        )

    return note
