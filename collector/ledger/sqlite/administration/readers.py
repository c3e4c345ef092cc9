"""How far the books of the feed's readers were, in an SQLite ledger."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from collector.errors import DiskFullError, NotStoredError
from collector.ledger.readers import Standing, newer_of
from collector.ledger.sqlite.file import connect


def standings(path: Path) -> dict[str, Standing]:
    """Return how far the books of all readers were that ever left word, by reader."""
    with closing(connect(path, read_only=True)) as db:
        query = "SELECT substr(key, 8), value FROM meta WHERE key >= 'reader:' AND key < 'reader;'"
        return {reader: Standing(**json.loads(value)) for reader, value in db.execute(query)}


def standing_of(path: Path, reader: str) -> Standing | None:
    """Return how far a reader's books were when it last said so; None for an unknown reader."""
    with closing(connect(path, read_only=True)) as db:
        return _standing(db, reader)


def keep_standing(path: Path, reader: str, standing: Standing) -> Standing:
    """Store how far a reader's books are, never less than before; return what is stored then.

    Raises DiskFullError or NotStoredError.
    """
    with closing(connect(path)) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
            known = _standing(db, reader)
            kept = newer_of(known, standing)
            if kept != known:
                db.execute(
                    "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)",
                    (_key(reader), json.dumps(asdict(kept))),
                )
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise DiskFullError(f"the disk under the ledger {path} is full") from error
            raise NotStoredError(f"the reader's standing was not stored: {error}") from error
        return kept


def _standing(db: sqlite3.Connection, reader: str) -> Standing | None:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (_key(reader),)).fetchone()
    return None if row is None else Standing(**json.loads(row[0]))


def _key(reader: str) -> str:
    return f"reader:{reader}"
