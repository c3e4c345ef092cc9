"""Setting and clearing servers' ratios in an SQLite ledger, also beside a running collector."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from collector.errors import LedgerError
from collector.ledger.sqlite.file import connect
from collector.reports.billing import Ratio
from collector.reports.report import MAX_SERVER_LENGTH, fault_in_name


def check_server(server: str) -> None:
    """Raise LedgerError when no report can name a server so."""
    fault = fault_in_name(server)
    if fault is None and not 0 < len(server) <= MAX_SERVER_LENGTH:
        fault = f"does not have 1 to {MAX_SERVER_LENGTH} characters"
    if fault is not None:
        raise LedgerError(f"no report names the server {server!r}: the name {fault}")


def set_ratio(path: Path, ratio: Ratio) -> int | None:
    """Store how much a byte on a server counts from now on; return the ratio before, if any.

    Raises LedgerError when no server can be called so.
    """
    check_server(ratio.server)
    with closing(connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        query = "SELECT ratio_millis FROM ratio WHERE server = ?"
        before = db.execute(query, (ratio.server,)).fetchone()
        db.execute(
            "INSERT OR REPLACE INTO ratio (server, ratio_millis, set_at) VALUES (?, ?, ?)",
            (ratio.server, ratio.ratio_millis, ratio.set_at_millis),
        )
        db.execute("COMMIT")
    return None if before is None else int(before[0])


def clear_ratio(path: Path, server: str) -> None:
    """Have a byte on a server count as a byte again; LedgerError when the server has no ratio."""
    with closing(connect(path)) as db:
        changed = db.execute("DELETE FROM ratio WHERE server = ?", (server,)).rowcount
    if not changed:
        raise LedgerError(f"the server {server!r} has no ratio; see `ratios list`")
