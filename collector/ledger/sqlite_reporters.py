"""Adding and revoking reporters in an SQLite ledger, also beside a running collector."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from collector.errors import LedgerError
from collector.ledger.sqlite_file import connect
from collector.reporters import NAME, hash_key, new_key


def add_reporter(path: Path, name: str, *, now_millis: int) -> str:
    """Store a new reporter and return its key, which cannot be read back later.

    Raises LedgerError when the name is malformed or taken. A revoked name may be taken again.
    """
    if not NAME.fullmatch(name):
        raise LedgerError(f"a reporter's name is 1 to 64 of A-Z a-z 0-9 . _ -, not {name!r}")
    key = new_key()
    db = connect(path)
    try:
        db.execute("DELETE FROM reporter WHERE name = ? AND revoked_at IS NOT NULL", (name,))
        db.execute(
            "INSERT INTO reporter (name, key_hash, created_at) VALUES (?, ?, ?)",
            (name, hash_key(key), now_millis),
        )
    except sqlite3.IntegrityError as error:
        raise LedgerError(
            f"there is a reporter {name!r} already: revoke it first to give it a new key"
        ) from error
    finally:
        db.close()
    return key


def revoke_reporter(path: Path, name: str, *, now_millis: int) -> None:
    """Make a reporter's key invalid; LedgerError when there is no valid one of that name."""
    db = connect(path)
    try:
        changed = db.execute(
            "UPDATE reporter SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL",
            (now_millis, name),
        ).rowcount
    finally:
        db.close()
    if not changed:
        raise LedgerError(f"there is no reporter {name!r} to revoke; see `reporters list`")
