"""Stores which messages of a stream were read, to detect that the stream was replaced.

A position alone does not show it: a new stream may have lower ids than those that were read, or the
same. So the id and a digest of each message are stored, for as long as the stream has the message.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SCHEMA = """
CREATE TABLE IF NOT EXISTS stream_message (
    source TEXT NOT NULL,
    message_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (source, message_id)
) WITHOUT ROWID
"""
_ID = re.compile(rb"(\d{1,20})-(\d{1,20})")


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a stream, with its fields as bytes."""

    message_id: str
    fields: Mapping[bytes, bytes]
    is_reused: bool = False
    """Another message with this id was read before."""

    @property
    def digest(self) -> bytes:
        """A digest of its fields; differs for another message with the same id."""
        whole = hashlib.blake2b(digest_size=8)
        for name, value in self.fields.items():
            whole.update(len(name).to_bytes(8) + name + len(value).to_bytes(8) + value)
        return whole.digest()

    @property
    def name(self) -> str:
        """The id; with the digest if another message had the same id."""
        return f"{self.message_id}~{self.digest.hex()}" if self.is_reused else self.message_id


def messages_of(entries: Sequence[tuple[bytes, Mapping[bytes, bytes] | None]]) -> list[Message]:
    """Return the entries of a Redis answer as messages; a deleted entry has no fields."""
    return [Message(message_id.decode("ascii"), fields or {}) for message_id, fields in entries]


def order_of(message_id: str) -> str:
    """Return a text that sorts in the order of message ids."""
    found = _ID.fullmatch(message_id.encode())
    return message_id if found is None else f"{int(found[1]):020d}-{int(found[2]):020d}"


def forget(db: sqlite3.Connection, source: str, *, before: str | None = None) -> None:
    """Delete the record of messages read of a source's stream: all, or those before an id."""
    db.execute(
        "DELETE FROM stream_message WHERE source = ? AND (? IS NULL OR message_id < ?)",
        (source, before, before and order_of(before)),
    )


def remember(db: sqlite3.Connection, source: str, messages: Sequence[Message]) -> None:
    """Record that messages were read."""
    db.executemany(
        "INSERT OR REPLACE INTO stream_message VALUES (?, ?, ?)",
        [(source, order_of(each.message_id), each.digest) for each in messages],
    )


def digest_read(db: sqlite3.Connection, source: str, message_id: str) -> bytes | None:
    """Return the digest of the message that was read under an id; None if none was."""
    row = db.execute(
        "SELECT digest FROM stream_message WHERE source = ? AND message_id = ?",
        (source, order_of(message_id)),
    ).fetchone()
    return None if row is None else bytes(row[0])


def unread(db: sqlite3.Connection, source: str, messages: Sequence[Message]) -> list[Message]:
    """Return the messages that were not read yet, in their order."""
    left = []
    for each in messages:
        digest = digest_read(db, source, each.message_id)
        if digest != each.digest:
            left.append(Message(each.message_id, each.fields, is_reused=digest is not None))
    return left
