"""Indexes the ids of reports, to recognise a report that is sent again.

Ids are random keys. In one large index each new id falls on another page, so each would write a
page. Therefore new ids first go into a small recent index, whose pages stay in memory. It is merged
into the large index incrementally, by a cursor: each commit advances the cursor through the key
space, wrapping around at its end, and merges the recent ids of the range that it passed. Many of
them fall on the same page of the large index. The range grows with the number of new ids, so the
recent index stays small. While there are few ids, they go into the large index directly. Where
there are millions, a middle index is between: the recent one is merged into it, and it, by a cursor
of its own and in larger rounds, into the large one. So a commit of ids writes about the square root
of the pages that it wrote with one merge.

The large index has two generations, one of which is current. Once all ids of the other one are
older than the deduplication window, that one is emptied and becomes the current one. So expiry is
one DELETE of a whole table, which is cheap; deleting ids one by one would cost as much as adding
them.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence

RECENT, MIDDLE = "report_key_recent", "report_key_middle"
GENERATIONS = ("report_key_0", "report_key_1")
INDEXES = (RECENT, MIDDLE, *GENERATIONS)
KEYS_PER_QUERY = 512
KEYS_PER_ROUND = 500_000
"""New ids per round of the cursor; the recent index holds about half as many."""
MIDDLE_ROUNDS = 4
"""With ids of so many rounds the middle index is used."""
PREFIX_BYTES = 4
PREFIXES = 2 ** (8 * PREFIX_BYTES)
"""The values of the first bytes of keys, which are hashes and so spread evenly. They are the
positions of a cursor."""
QUIET_SHARE = 1 / 256
"""The share of a round that each purge merges, so that merging goes on without new ids."""
SINCE_SEQ = "key_table_since_seq"
"""The last seq when the current generation began."""
_INDEXED_SEQ = "indexed_seq"
_HAVE_ANY = "SELECT " + ", ".join(f"EXISTS (SELECT 1 FROM {each})" for each in INDEXES)
_CURSORS = {RECENT: "key_hand", MIDDLE: "key_hand_middle"}
"""Where in `meta` the position of an index's cursor is."""


def index(db: sqlite3.Connection, *, after: int, through: int) -> None:
    """Index the ids of the reports after one seq, which is `indexed_seq`, through another."""
    (first,) = db.execute("SELECT coalesce(min(seq), 0) FROM report").fetchone()
    # While there are few, the current generation is small as well.
    kept, large = through - first, GENERATIONS[_current(db)]
    has_middle = kept >= MIDDLE_ROUNDS * KEYS_PER_ROUND
    table = large if kept < KEYS_PER_ROUND else RECENT
    added = db.execute(
        f"INSERT OR IGNORE INTO {table} (key, seq) SELECT report_key, seq "
        "FROM report WHERE seq > ? AND seq <= ? AND report_key IS NOT NULL ORDER BY report_key",
        (after, through),
    ).rowcount
    _merge_next(db, RECENT, MIDDLE if has_middle else large, share=added / KEYS_PER_ROUND)
    if has_middle:
        _merge_next(db, MIDDLE, large, share=added / keys_per_middle_round(kept))
    _set_meta(db, _INDEXED_SEQ, str(through))


def indexed_seq(db: sqlite3.Connection) -> int:
    """Return the seq up to which the ids of reports are indexed; it may be before `folded_seq`."""
    return int(_meta(db, _INDEXED_SEQ) or 0)


def between(first: int, last: int) -> tuple[str, Sequence[bytes]]:
    """Return the condition on keys from one prefix up to, not including, another; and its values.

    The last prefix may be PREFIXES, which no key has.
    """
    if last < PREFIXES:
        return "key >= ? AND key < ?", [each.to_bytes(PREFIX_BYTES) for each in (first, last)]
    return "key >= ?", [first.to_bytes(PREFIX_BYTES)]


def keys_per_middle_round(kept: int) -> int:
    """Return the new ids per round of the middle index's cursor, with so many ids kept.

    In so many, merging into the middle index and out of it write equally many pages.
    """
    return math.isqrt(2 * KEYS_PER_ROUND * kept)


def seqs_of(db: sqlite3.Connection, keys: Sequence[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield those of the keys that are indexed, with the seq of their report."""
    for table, has_any in zip(INDEXES, db.execute(_HAVE_ANY).fetchone(), strict=True):
        for start in range(0, len(keys) if has_any else 0, KEYS_PER_QUERY):
            page: list[bytes | None] = [*keys[start : start + KEYS_PER_QUERY]]
            # Round the number of placeholders up to a power of two, to prepare few statements.
            page += [None] * ((1 << (len(page) - 1).bit_length()) - len(page))
            marks = ",".join(["(?)"] * len(page))
            # A list of VALUES is run through in its order, where one after IN is sorted first.
            yield from db.execute(
                f"SELECT key, seq FROM (VALUES {marks}) CROSS JOIN {table} WHERE key = column1",
                page,
            )


def forget(db: sqlite3.Connection, *, before_millis: int, through_seq: int | None) -> bool:
    """Empty the older generation once all in it came before a moment, and make it the current one.

    If `through_seq` is given, all ids in it must also be of reports up to that seq. Returns whether
    it was emptied.
    """
    for table in _CURSORS:
        _merge_next(db, table, GENERATIONS[_current(db)], share=QUIET_SHARE)
    since_millis = int(_meta(db, "key_table_since") or 0)
    if since_millis >= before_millis:
        return False
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'report'").fetchone()
    last_seq = row[0] if row else 0
    if through_seq is not None:
        since_seq = _meta(db, SINCE_SEQ)
        if since_seq is None and since_millis:  # begun by a version that did not store it
            since_seq = str(last_seq)
            _set_meta(db, SINCE_SEQ, since_seq)
        if int(since_seq or 0) > through_seq:
            return False
    received_at = db.execute("SELECT received_at FROM report ORDER BY seq DESC LIMIT 1").fetchone()
    other = 1 - _current(db)
    db.execute(f"DELETE FROM {GENERATIONS[other]}")
    _set_meta(db, "key_table", str(other))
    _set_meta(db, "key_table_since", str(received_at[0] if received_at else 0))
    _set_meta(db, SINCE_SEQ, str(last_seq))
    return True


def _meta(db: sqlite3.Connection, key: str) -> str | None:
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def _set_meta(db: sqlite3.Connection, key: str, value: str) -> None:
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))


def _current(db: sqlite3.Connection) -> int:
    return int(_meta(db, "key_table") or 0)


def _merge_next(db: sqlite3.Connection, source: str, target: str, *, share: float) -> None:
    """Advance an index's cursor by a share of a round, and merge the ids that it passes."""
    steps = min(PREFIXES, round(share * PREFIXES))
    cursor = int(_meta(db, _CURSORS[source]) or 0)
    end = cursor + steps
    for first, last in ((cursor, min(end, PREFIXES)), (0, end - PREFIXES)):
        if first < last:
            _merge(db, source, target, first, last)
    _set_meta(db, _CURSORS[source], str(end % PREFIXES))


def _merge(db: sqlite3.Connection, source: str, target: str, first: int, last: int) -> None:
    """Merge the ids of an index from one position of its cursor up to, not including, another."""
    where, bounds = between(first, last)
    db.execute(
        f"INSERT OR IGNORE INTO {target} (key, seq) "
        f"SELECT key, seq FROM {source} WHERE {where} ORDER BY key",
        bounds,
    )
    db.execute(f"DELETE FROM {source} WHERE {where}", bounds)
