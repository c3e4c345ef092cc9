"""Notes which run of the collector stored which reports.

A ledger cannot tell by itself that it is an older copy, but whoever read it before can: what was
read as stored by one run was stored by another in a ledger that was restored and went on from
there. However the copy was made, whoever goes on from it is another run, and a run's token is
random. A run notes itself along with its first report, so that it costs one row per start and
nothing but starts that stored something are noted. See docs/decisions/0008.
"""

from __future__ import annotations

import secrets
import sqlite3

MAX_RUNS = 1000
"""Older ones are forgotten: a reader that was away for longer than these cannot tell any more."""


def begin(db: sqlite3.Connection, *, after_seq: int) -> None:
    """Note that another run stores what follows a seq; within the transaction that stores it."""
    insert = "INSERT OR REPLACE INTO run (after_seq, token) VALUES (?, ?)"
    db.execute(insert, (after_seq, secrets.token_hex(8)))
    statement = (
        "DELETE FROM run WHERE after_seq <= "
        "(SELECT after_seq FROM run ORDER BY after_seq DESC LIMIT 1 OFFSET ?)"
    )
    db.execute(statement, (MAX_RUNS,))
