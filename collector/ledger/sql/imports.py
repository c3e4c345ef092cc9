"""What of imported files is counted already; kept for ever, or a file could be counted twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from collector.errors import LedgerError
from collector.ledger import Receipt
from collector.ledger.import_amounts import Amounts, Grown, Sums
from collector.ledger.sql.database import Database, last_seq, one_row, whole

KEYS_PER_QUERY = 500
_MARKS = ", ".join(f":key_{number}" for number in range(KEYS_PER_QUERY))
Counted = Mapping[bytes, Sums]
"""What is counted under each identity."""


def scope_of(origin: str) -> str:
    """Return who reported what is imported."""
    return f"import:{origin}"


def counted_of(db: Database, identities: Sequence[bytes]) -> dict[bytes, dict[str, Amounts]]:
    """Return what was counted under each identity, by protocol; nothing where nothing was."""
    found: dict[bytes, dict[str, Amounts]] = {}
    for start in range(0, len(identities), KEYS_PER_QUERY):
        page = identities[start : start + KEYS_PER_QUERY]
        keys = [*page, *[b""] * (KEYS_PER_QUERY - len(page))]
        rows = db.rows(
            "SELECT identity, protocol, upload_bytes, download_bytes FROM imported "
            f"WHERE identity IN ({_MARKS})",
            {f"key_{number}": key for number, key in enumerate(keys)},
        )
        for identity, protocol, up, down in rows:
            found.setdefault(bytes(identity), {})[protocol] = Amounts(up, down)
    return found


def stored_since(db: Database, origin: str, *, after_seq: int) -> Grown:
    """Return what the imports of an origin stored after a number; of one moment.

    With what has no number yet. Reports that were dropped since are missing.
    """
    dialect = db.dialect
    reports = " UNION ALL ".join(
        "SELECT upload_bytes + download_bytes AS raw_bytes, coalesce(billed_bytes, upload_bytes "
        f"+ download_bytes) AS billed_bytes FROM {table} AS r WHERE reporter = :scope {only}"
        for table, only in ((dialect.numbered, ""), (dialect.reports, "AND seq IS NULL"))
    )
    raw, billed = one_row(
        db,
        f"SELECT {dialect.sum_of('raw_bytes')}, {dialect.sum_of('billed_bytes')} "
        f"FROM ({reports}) AS stored",
        {**db.bounds(after=after_seq, through=last_seq(db)), "scope": scope_of(origin)},
    )
    return Grown(whole(raw), whole(billed))


def noting(
    growth: Mapping[bytes, Sums], before: Counted
) -> Callable[[Database, Sequence[Receipt]], None]:
    """Return what notes that reports are counted, in the commit that stores them.

    `before` is what was counted by when the growth was worked out. What it returns raises
    LedgerError, and then nothing is stored, when a user's total would not fit the ledger, or
    another import has counted some of the same meanwhile.
    """

    def note(db: Database, receipts: Sequence[Receipt]) -> None:
        if any(receipt.full for receipt in receipts):
            raise LedgerError("a user's total would be beyond what the ledger can count")
        # A row to lock: of two imports at once, the second sees what the first has counted.
        db.change("UPDATE meta SET value = value WHERE key = 'ledger_id'")
        identities = list(growth)
        if counted_of(db, identities) != {key: before[key] for key in identities if key in before}:
            raise LedgerError(
                "another import has counted some of the same rows just now: run this one again, it "
                "goes on where it was"
            )
        db.change_each(
            "INSERT INTO imported (identity, protocol, upload_bytes, download_bytes) "
            "VALUES (:identity, :protocol, :upload_bytes, :download_bytes) "
            "ON CONFLICT (identity, protocol) DO UPDATE SET "
            "upload_bytes = imported.upload_bytes + excluded.upload_bytes, "
            "download_bytes = imported.download_bytes + excluded.download_bytes",
            [
                {
                    "identity": identity,
                    "protocol": protocol,
                    "upload_bytes": amounts.upload_bytes,
                    "download_bytes": amounts.download_bytes,
                }
                for identity, sums in growth.items()
                for protocol, amounts in sums.items()
            ],
        )

    return note
