"""Adds, changes and revokes reporters, beside running collectors; each in a transaction.

All replaced keys are stored in one text. Its row is locked first, so that of two concurrent
commands neither overwrites the other's change.
"""

from __future__ import annotations

from collections.abc import Callable

from collector.errors import LedgerError
from collector.ledger.sql.database import Database, first_row, keep_text, kept_text, locked_text
from collector.reports.contacts import Contacts, format_contacts, merged, parse_contacts
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

CONTACTS = "contacts"
"""The key in `meta` of last contacts and refused requests."""
CONFIGURED, FORMER = "configured_reporters", "former_reporter_keys"
"""The keys in `meta` of the environment's keys, and of replaced keys."""


def check_name(name: str) -> None:
    """Raise LedgerError if a text cannot be a reporter's name."""
    if not NAME.fullmatch(name):
        raise LedgerError(f"a reporter's name is 1 to 64 of A-Z a-z 0-9 . _ -, not {name!r}")


def reporters(db: Database) -> list[Reporter]:
    """Return all reporters by name, including revoked ones."""
    rows = db.rows(
        "SELECT name, key_hash, created_at, revoked_at, counts_toward_quota FROM reporter"
    )
    found = [
        Reporter(
            name=name,
            key_hash=bytes(key_hash),
            created_at_millis=created_at,
            revoked_at_millis=revoked_at,
            counts_toward_quota=bool(counts),
        )
        for name, key_hash, created_at, revoked_at, counts in sorted(rows)
    ]
    return with_former(found, parse_former(kept_text(db, FORMER)))


def configured(db: Database) -> list[Configured]:
    """Return the keys of collectors' environments, including revoked ones."""
    return parse_configured(kept_text(db, CONFIGURED))


def contacts(db: Database) -> Contacts:
    """Return when reporters were last in contact, and who was refused."""
    return parse_contacts(kept_text(db, CONTACTS) or None)


def add_contacts(db: Database, news: Contacts, *, now_millis: int) -> None:
    """Add contacts and refusals to those that are stored."""
    kept = parse_contacts(locked_text(db, CONTACTS))
    keep_text(db, CONTACTS, format_contacts(merged(kept, news, now_millis=now_millis)))


def add_reporter(
    db: Database,
    name: str,
    *,
    now_millis: int,
    counts_toward_quota: bool | None = None,
    key: str | None = None,
) -> str:
    """Store a new reporter and return its key, which cannot be read back later.

    Raises LedgerError if the name is malformed or taken, or the key is another reporter's. A
    revoked name may be used again. With None as `counts_toward_quota` it is billed as before; a new
    name is billed.
    """
    check_name(name)
    key = key or new_key()
    _change_former(db, lambda kept: former_without(kept, name))
    former = first_row(
        db,
        "DELETE FROM reporter WHERE name = :name AND revoked_at IS NOT NULL "
        "RETURNING counts_toward_quota",
        {"name": name},
    )
    if counts_toward_quota is None:
        counts_toward_quota = former is None or bool(former[0])
    values = {
        "name": name,
        "key_hash": hash_key(key),
        "now": now_millis,
        "counts": counts_toward_quota,
    }
    made = db.change(
        "INSERT INTO reporter (name, key_hash, created_at, counts_toward_quota) "
        "VALUES (:name, :key_hash, :now, :counts) ON CONFLICT DO NOTHING",
        values,
    )
    if made:
        return key
    if first_row(db, "SELECT 1 FROM reporter WHERE name = :name", values):
        raise LedgerError(
            f"there is a reporter {name!r} already: `reporters rotate {name}` gives it a new key"
        )
    raise LedgerError(f"the key for {name!r} is another reporter's, or was: give it one of its own")


def change_reporter(db: Database, name: str, *, counts_toward_quota: bool) -> None:
    """Say whether what a reporter reports from now on is billed.

    Raises LedgerError when there is no valid reporter of that name.
    """
    if not db.change(
        "UPDATE reporter SET counts_toward_quota = :counts "
        "WHERE name = :name AND revoked_at IS NULL",
        {"name": name, "counts": counts_toward_quota},
    ):
        raise LedgerError(f"there is no reporter {name!r} to change; see `reporters list`")


def rotate_reporter(db: Database, name: str, *, now_millis: int, grace_millis: int) -> str:
    """Replace a reporter's key and return the new one; the old one is valid for the grace, too.

    Raises LedgerError when there is no valid reporter of that name.
    """
    former = _locked_former(db)
    row = first_row(
        db,
        "SELECT key_hash FROM reporter WHERE name = :name AND revoked_at IS NULL",
        {"name": name},
    )
    if row is None:
        raise LedgerError(f"there is no reporter {name!r} to rotate; see `reporters list`")
    key = new_key()
    kept = former_after_rotation(
        former, name, bytes(row[0]), now_millis=now_millis, grace_millis=grace_millis
    )
    keep_text(db, FORMER, format_former(kept))
    db.change(
        "UPDATE reporter SET key_hash = :key_hash WHERE name = :name",
        {"name": name, "key_hash": hash_key(key)},
    )
    return key


def revoke_reporter(db: Database, name: str, *, now_millis: int) -> None:
    """Revoke a reporter's keys; LedgerError if there is no valid reporter of that name."""
    _change_former(db, lambda kept: former_without(kept, name))
    if not db.change(
        "UPDATE reporter SET revoked_at = :now WHERE name = :name AND revoked_at IS NULL",
        {"name": name, "now": now_millis},
    ):
        raise LedgerError(f"there is no reporter {name!r} to revoke; see `reporters list`")


def keep_configured(db: Database, change: Callable[[list[Configured]], list[Configured]]) -> bool:
    """Change the recorded keys of the environment; return whether anything changed."""
    seen = configured(db)
    if change(seen) == seen:
        return False
    before = parse_configured(locked_text(db, CONFIGURED))
    after = change(before)
    keep_text(db, CONFIGURED, format_configured(after))
    return after != before


def _locked_former(db: Database) -> list[FormerKey]:
    return parse_former(locked_text(db, FORMER))


def _change_former(db: Database, change: Callable[[list[FormerKey]], list[FormerKey]]) -> None:
    keep_text(db, FORMER, format_former(change(_locked_former(db))))
