"""Adding, changing and revoking reporters in an SQLite ledger, also beside a running collector."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from collector.errors import LedgerError
from collector.ledger.sqlite.file import connect
from collector.reports.reporters import (
    NAME,
    Configured,
    FormerKey,
    Reporter,
    format_configured,
    format_former,
    former_after_rotation,
    former_without,
    hash_key,
    new_key,
    parse_configured,
    parse_former,
    with_former,
)

_KEEP = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"
CONFIGURED, FORMER = "configured_reporters", "former_reporter_keys"
"""The keys of `meta` that hold keys of the environment, and keys that were replaced."""


def check_name(name: str) -> None:
    """Raise LedgerError when no reporter can be called so."""
    if not NAME.fullmatch(name):
        raise LedgerError(f"a reporter's name is 1 to 64 of A-Z a-z 0-9 . _ -, not {name!r}")


def add_reporter(
    path: Path,
    name: str,
    *,
    now_millis: int,
    counts_toward_quota: bool | None = None,
    key: str | None = None,
) -> str:
    """Store a new reporter and return its key, which cannot be read back later.

    Raises LedgerError when the name is malformed or taken. A revoked name may be taken again; with
    None as `counts_toward_quota` it then counts as it did, and a new name counts.
    """
    check_name(name)
    key = key or new_key()
    db = connect(path)
    try:
        db.execute("BEGIN IMMEDIATE")
        former = db.execute(
            "DELETE FROM reporter WHERE name = ? AND revoked_at IS NOT NULL "
            "RETURNING counts_toward_quota",
            (name,),
        ).fetchone()
        if counts_toward_quota is None:
            counts_toward_quota = former is None or bool(former[0])
        db.execute(
            "INSERT INTO reporter (name, key_hash, created_at, counts_toward_quota) "
            "VALUES (?, ?, ?, ?)",
            (name, hash_key(key), now_millis, counts_toward_quota),
        )
        _keep_former(db, former_without(_former(db), name))
        db.execute("COMMIT")
    except sqlite3.IntegrityError as error:
        raise LedgerError(
            f"there is a reporter {name!r} already: `reporters rotate {name}` gives it a new key"
        ) from error
    finally:
        db.close()
    return key


def change_reporter(path: Path, name: str, *, counts_toward_quota: bool) -> None:
    """Say whether what a reporter reports from now on is billed.

    Raises LedgerError when there is no valid reporter of that name.
    """
    db = connect(path)
    try:
        changed = db.execute(
            "UPDATE reporter SET counts_toward_quota = ? WHERE name = ? AND revoked_at IS NULL",
            (counts_toward_quota, name),
        ).rowcount
    finally:
        db.close()
    if not changed:
        raise LedgerError(f"there is no reporter {name!r} to change; see `reporters list`")


def rotate_reporter(path: Path, name: str, *, now_millis: int, grace_millis: int) -> str:
    """Give a reporter another key and return it; the one before is valid for the grace too.

    Raises LedgerError when there is no valid reporter of that name.
    """
    key = new_key()
    with closing(connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        row = db.execute(
            "SELECT key_hash FROM reporter WHERE name = ? AND revoked_at IS NULL", (name,)
        ).fetchone()
        if row is None:
            raise LedgerError(f"there is no reporter {name!r} to rotate; see `reporters list`")
        _keep_former(
            db,
            former_after_rotation(
                _former(db), name, row[0], now_millis=now_millis, grace_millis=grace_millis
            ),
        )
        db.execute("UPDATE reporter SET key_hash = ? WHERE name = ?", (hash_key(key), name))
        db.execute("COMMIT")
    return key


def revoke_reporter(path: Path, name: str, *, now_millis: int) -> None:
    """Make a reporter's keys invalid; LedgerError when there is no valid one of that name."""
    with closing(connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        changed = db.execute(
            "UPDATE reporter SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL",
            (now_millis, name),
        ).rowcount
        if not changed:
            raise LedgerError(f"there is no reporter {name!r} to revoke; see `reporters list`")
        _keep_former(db, former_without(_former(db), name))
        db.execute("COMMIT")


def reporters(db: sqlite3.Connection) -> list[Reporter]:
    """Return all reporters by name, revoked ones too."""
    rows = db.execute(
        "SELECT name, key_hash, created_at, revoked_at, counts_toward_quota FROM reporter "
        "ORDER BY name"
    )
    found = [
        Reporter(
            name=row[0],
            key_hash=row[1],
            created_at_millis=row[2],
            revoked_at_millis=row[3],
            counts_toward_quota=bool(row[4]),
        )
        for row in rows
    ]
    return with_former(found, _former(db))


def _former(db: sqlite3.Connection) -> list[FormerKey]:
    return parse_former(_kept(db, FORMER))


def _keep_former(db: sqlite3.Connection, former: list[FormerKey]) -> None:
    if former != _former(db):
        db.execute(_KEEP, (FORMER, format_former(former)))


def _kept(db: sqlite3.Connection, key: str) -> str | None:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return row[0] if row else None


def configured(db: sqlite3.Connection) -> list[Configured]:
    """Return the keys of the environment that are noted."""
    return parse_configured(_kept(db, CONFIGURED))


def keep_configured(path: Path, change: Callable[[list[Configured]], list[Configured]]) -> bool:
    """Change which keys of the environment are noted; return whether that changed anything."""
    with closing(connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        before = configured(db)
        after = change(before)
        if after != before:
            db.execute(_KEEP, (CONFIGURED, format_configured(after)))
        db.execute("COMMIT")
    return after != before
