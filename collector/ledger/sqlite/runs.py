"""Records which run of the collector stored which reports.

A ledger that was restored from an older copy cannot tell so itself, but a reader that read it
before can: reports that it read as stored by one run are stored by another run in the restored
ledger. A writer that goes on from a copy is another run, and the token of a run is random. A run is
recorded in the commit of its first report, so it costs one row. See docs/decisions/0008.
"""

from __future__ import annotations

import secrets
import sqlite3

MAX_RUNS = 1000
"""How many runs are kept; a reader that was away for longer cannot notice a restore."""


def begin(db: sqlite3.Connection, *, after_seq: int) -> None:
    """Record that a new run stores the reports after a seq, in the commit of its first one."""
    insert = "INSERT OR REPLACE INTO run (after_seq, token) VALUES (?, ?)"
    db.execute(insert, (after_seq, secrets.token_hex(8)))
    statement = (
        "DELETE FROM run WHERE after_seq <= "
        "(SELECT after_seq FROM run ORDER BY after_seq DESC LIMIT 1 OFFSET ?)"
    )
    db.execute(statement, (MAX_RUNS,))
