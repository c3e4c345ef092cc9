"""Reporters, ratios and readers' standings in a PostgreSQL ledger, beside its collectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

from collector.errors import LedgerError
from collector.ledger.postgres.link import Db
from collector.ledger.readers import Standing, newer_of
from collector.ledger.sqlite.administration.reporters import FORMER
from collector.reports.billing import Ratio
from collector.reports.reporters import (
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


def add_reporter(
    db: Db,
    name: str,
    *,
    now_millis: int,
    counts_toward_quota: bool | None,
    key: str | None = None,
) -> str:
    """Store a new reporter and return its key; within a transaction, as all of these."""
    key = key or new_key()
    former = db.execute(
        "DELETE FROM reporter WHERE name = %s AND revoked_at IS NOT NULL "
        "RETURNING counts_toward_quota",
        (name,),
    ).fetchone()
    if counts_toward_quota is None:
        counts_toward_quota = former is None or bool(former[0])
    made = db.execute(
        "INSERT INTO reporter (name, key_hash, created_at, counts_toward_quota) "
        "VALUES (%s, %s, %s, %s) ON CONFLICT (name) DO NOTHING",
        (name, hash_key(key), now_millis, counts_toward_quota),
    ).rowcount
    if not made:
        raise LedgerError(
            f"there is a reporter {name!r} already: `reporters rotate {name}` gives it a new key"
        )
    _change_former(db, lambda kept: former_without(kept, name))
    return key


def configured(db: Db) -> list[Configured]:
    """Return the keys of the environment that are noted."""
    row = db.execute("SELECT value FROM meta WHERE key = 'configured_reporters'").fetchone()
    return parse_configured(row[0] if row else None)


def keep_configured(db: Db, change: Callable[[list[Configured]], list[Configured]]) -> bool:
    """Change which keys of the environment are noted; return whether that changed anything."""
    db.execute(
        "INSERT INTO meta (key, value) VALUES ('configured_reporters', '[]') "
        "ON CONFLICT (key) DO NOTHING"
    )
    db.execute("SELECT 1 FROM meta WHERE key = 'configured_reporters' FOR UPDATE")
    before = configured(db)
    after = change(before)
    if after != before:
        db.execute(
            "UPDATE meta SET value = %s WHERE key = 'configured_reporters'",
            (format_configured(after),),
        )
    return after != before


def change_reporter(db: Db, name: str, *, counts_toward_quota: bool) -> bool:
    """Say whether what a reporter reports from now on is billed; return whether there is one."""
    return (
        db.execute(
            "UPDATE reporter SET counts_toward_quota = %s WHERE name = %s AND revoked_at IS NULL",
            (counts_toward_quota, name),
        ).rowcount
        > 0
    )


def rotate_reporter(db: Db, name: str, *, now_millis: int, grace_millis: int) -> str | None:
    """Give a reporter another key and return it; None when there is no valid one of that name."""
    row = db.execute(
        "SELECT key_hash FROM reporter WHERE name = %s AND revoked_at IS NULL FOR UPDATE", (name,)
    ).fetchone()
    if row is None:
        return None
    key, before = new_key(), bytes(row[0])
    _change_former(
        db,
        lambda kept: former_after_rotation(
            kept, name, before, now_millis=now_millis, grace_millis=grace_millis
        ),
    )
    db.execute("UPDATE reporter SET key_hash = %s WHERE name = %s", (hash_key(key), name))
    return key


def revoke_reporter(db: Db, name: str, *, now_millis: int) -> bool:
    """Make a reporter's keys invalid; return whether there was one."""
    changed = db.execute(
        "UPDATE reporter SET revoked_at = %s WHERE name = %s AND revoked_at IS NULL",
        (now_millis, name),
    ).rowcount
    if changed:
        _change_former(db, lambda kept: former_without(kept, name))
    return changed > 0


def reporters(db: Db) -> list[Reporter]:
    """Return all reporters by name, revoked ones too."""
    rows = db.execute(
        "SELECT name, key_hash, created_at, revoked_at, counts_toward_quota "
        "FROM reporter ORDER BY name"
    ).fetchall()
    found = [
        Reporter(
            name=name,
            key_hash=bytes(key_hash),
            created_at_millis=created_at,
            revoked_at_millis=revoked_at,
            counts_toward_quota=counts,
        )
        for name, key_hash, created_at, revoked_at, counts in rows
    ]
    row = db.execute("SELECT value FROM meta WHERE key = %s", (FORMER,)).fetchone()
    return with_former(found, parse_former(row[0] if row else None))


def _change_former(db: Db, change: Callable[[list[FormerKey]], list[FormerKey]]) -> None:
    # A row to lock: two commands at once would each forget what the other keeps.
    db.execute(
        "INSERT INTO meta (key, value) VALUES (%s, '[]') ON CONFLICT (key) DO NOTHING", (FORMER,)
    )
    row = db.execute("SELECT value FROM meta WHERE key = %s FOR UPDATE", (FORMER,)).fetchone()
    before = parse_former(row[0] if row else None)
    after = change(before)
    if after != before:
        db.execute("UPDATE meta SET value = %s WHERE key = %s", (format_former(after), FORMER))


def set_ratio(db: Db, ratio: Ratio) -> int | None:
    """Store how much a byte on a server counts from now on; return the ratio before, if any."""
    query = "SELECT ratio_millis FROM ratio WHERE server = %s FOR UPDATE"
    before = db.execute(query, (ratio.server,)).fetchone()
    db.execute(
        "INSERT INTO ratio (server, ratio_millis, set_at) VALUES (%s, %s, %s) "
        "ON CONFLICT (server) DO UPDATE SET ratio_millis = excluded.ratio_millis, "
        "set_at = excluded.set_at",
        (ratio.server, ratio.ratio_millis, ratio.set_at_millis),
    )
    return None if before is None else int(before[0])


def clear_ratio(db: Db, server: str) -> bool:
    """Have a byte on a server count as a byte again; return whether it had a ratio."""
    return db.execute("DELETE FROM ratio WHERE server = %s", (server,)).rowcount > 0


def standings(db: Db) -> dict[str, Standing]:
    """Return how far the books of all readers were that ever left word, by reader."""
    rows = db.execute("SELECT key, value FROM meta WHERE key LIKE 'reader:%'")
    return {key.partition(":")[2]: Standing(**json.loads(value)) for key, value in rows}


def standing_of(db: Db, reader: str) -> Standing | None:
    """Return how far a reader's books were when it last said so; None for an unknown reader."""
    row = db.execute("SELECT value FROM meta WHERE key = %s", (f"reader:{reader}",)).fetchone()
    return None if row is None else Standing(**json.loads(row[0]))


def keep_standing(db: Db, reader: str, standing: Standing) -> Standing:
    """Store how far a reader's books are, never less than before; return what is stored then."""
    key = f"reader:{reader}"
    row = db.execute("SELECT value FROM meta WHERE key = %s FOR UPDATE", (key,)).fetchone()
    known = None if row is None else Standing(**json.loads(row[0]))
    kept = newer_of(known, standing)
    if kept != known:
        db.execute(
            "INSERT INTO meta (key, value) VALUES (%s, %s) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (key, json.dumps(asdict(kept))),
        )
    return kept
