"""The positions that readers of the feed reported; see `collector.ledger.readers`."""

from __future__ import annotations

import json
from dataclasses import asdict

from collector.ledger.readers import ReaderPosition, newer_of
from collector.ledger.sql.database import Database, keep_text, kept_text, locked_text

_KEY = "reader:"


def reader_positions(db: Database) -> dict[str, ReaderPosition]:
    """Return the positions of all readers that ever reported one, by reader."""
    rows = db.rows(
        "SELECT key, value FROM meta WHERE substr(key, 1, :length) = :key",
        {"key": _KEY, "length": len(_KEY)},
    )
    return {key.removeprefix(_KEY): ReaderPosition(**json.loads(value)) for key, value in rows}


def reader_position(db: Database, reader: str) -> ReaderPosition | None:
    """Return the position that a reader reported last; None for an unknown reader."""
    return _position(kept_text(db, _KEY + reader))


def report_position(db: Database, reader: str, told: ReaderPosition) -> ReaderPosition:
    """Store a reader's position, never less than before; return what is stored then."""
    known = reader_position(db, reader)
    if known is not None and newer_of(known, told) == known:
        return known
    kept = newer_of(_position(locked_text(db, _KEY + reader)), told)
    keep_text(db, _KEY + reader, json.dumps(asdict(kept)))
    return kept


def _position(text: str | None) -> ReaderPosition | None:
    return None if text is None else ReaderPosition(**json.loads(text))
