"""Billing ratios of servers, set and cleared beside running collectors."""

from __future__ import annotations

from collector.errors import LedgerError
from collector.ledger.sql.database import Database, first_row
from collector.reports.billing import Ratio
from collector.reports.report import MAX_SERVER_LENGTH, fault_in_name


def check_server(server: str) -> None:
    """Raise LedgerError if a text cannot be a server's name."""
    fault = fault_in_name(server)
    if fault is None and not 0 < len(server) <= MAX_SERVER_LENGTH:
        fault = f"does not have 1 to {MAX_SERVER_LENGTH} characters"
    if fault is not None:
        raise LedgerError(f"no report names the server {server!r}: the name {fault}")


def ratios(db: Database) -> list[Ratio]:
    """Return the ratios that are set, by server."""
    rows = db.rows("SELECT server, ratio_millis, set_at FROM ratio")
    return sorted((Ratio(*row) for row in rows), key=lambda each: each.server)


def set_ratio(db: Database, ratio: Ratio) -> int | None:
    """Store a server's billing ratio from now on; return the previous one, if any.

    Raises LedgerError if the text cannot be a server's name.
    """
    check_server(ratio.server)
    before = first_row(
        db,
        "UPDATE ratio SET ratio_millis = ratio_millis WHERE server = :server "
        "RETURNING ratio_millis",
        {"server": ratio.server},
    )
    db.change(
        "INSERT INTO ratio (server, ratio_millis, set_at) VALUES (:server, :millis, :set_at) "
        "ON CONFLICT (server) DO UPDATE SET ratio_millis = excluded.ratio_millis, "
        "set_at = excluded.set_at",
        {"server": ratio.server, "millis": ratio.ratio_millis, "set_at": ratio.set_at_millis},
    )
    return None if before is None else int(before[0])


def clear_ratio(db: Database, server: str) -> None:
    """Set a server's ratio back to 1; LedgerError if it has none."""
    if not db.change("DELETE FROM ratio WHERE server = :server", {"server": server}):
        raise LedgerError(f"the server {server!r} has no ratio; see `ratios list`")
