"""What imports have counted; kept for ever, so that no file is counted twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from collector.errors import LedgerError
from collector.ledger import Receipt
from collector.ledger.import_amounts import Amounts, Grown, Sums
from collector.ledger.sql.database import Database, last_seq, one_row, whole

KEYS_PER_QUERY = 500
_MARKS = ", ".join(f":key_{number}" for number in range(KEYS_PER_QUERY))
Counted = Mapping[bytes, Sums]
"""Selects what was counted for each identity."""


def scope_of(origin: str) -> str:
    """Return the scope of an import's reports."""
    return f"import:{origin}"


def counted_of(db: Database, identities: Sequence[bytes]) -> dict[bytes, dict[str, Amounts]]:
    """Return what was counted for each identity, by protocol; empty if nothing was."""
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
    """Return what the imports of an origin stored after a seq; from one snapshot.

    Reports without a number are included; purged ones are missing.
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
    """Return an `Alongside` that records what is counted, in the commit of the reports.

    `before` is what had been counted when the growth was computed. The call raises LedgerError, so
    that nothing is stored, if a user's total would exceed the maximum or another import has counted
    some of the same rows meanwhile.
    """

    def note(db: Database, receipts: Sequence[Receipt]) -> None:
        if any(receipt.full for receipt in receipts):
            raise LedgerError("a user's total would exceed what the ledger can count")
        # Lock a row, so that the second of two imports sees what the first has counted.
        db.change("UPDATE meta SET value = value WHERE key = 'ledger_id'")
        identities = list(growth)
        if counted_of(db, identities) != {key: before[key] for key in identities if key in before}:
            raise LedgerError(
                "another import has counted some of the same rows: run this one again, it "
                "continues where it stopped"
            )
        db.insert_all(
            "imported",
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
            then="ON CONFLICT (identity, protocol) DO UPDATE SET "
            "upload_bytes = imported.upload_bytes + excluded.upload_bytes, "
            "download_bytes = imported.download_bytes + excluded.download_bytes",
        )

    return note
