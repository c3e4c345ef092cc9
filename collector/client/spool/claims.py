"""Claims: which items of a spool a process is sending, so that no other process sends them.

A claim is a row: a range of one lane, and the claimant. It ends when the items are settled or given
back, when its process has ended, or when it expires, by a clock that also runs while the machine is
suspended.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from collector.client.outbox import Item, within
from collector.client.sending.process_identity import has_ended, this_process
from collector.client.spool.clock import SpoolClock
from collector.runtime import boot_clock

DEFAULT_LEASE_SECONDS = 120.0
"""When a claim expires: longer than a request may take, so only if its process hangs."""
LONGEST_LEASE_MILLIS = 86_400_000
_ITEMS = """
SELECT seq, item_id, body, queued_at, is_undated, boot, queued_boot_millis FROM item
WHERE lane = ? AND seq > ? AND seq < ? ORDER BY seq LIMIT ?
"""
_LAST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Claimant:
    """One sender of one process, which claims items of a lane."""

    token: str
    lease_seconds: float = DEFAULT_LEASE_SECONDS


class _Stretch(NamedTuple):
    first_seq: int
    last_seq: int


def free_items(
    db: sqlite3.Connection,
    lane: str,
    claimant: Claimant | None,
    *,
    most_items: int,
    most_bytes: int,
    clock: SpoolClock,
) -> list[Item]:
    """Return a lane's oldest unclaimed items, up to the first item that another claimant has.

    Without a claimant, claims are ignored.
    """
    taken = [] if claimant is None else _others(db, lane, claimant)
    after = -1
    for stretch in [*taken, _Stretch(_LAST, _LAST)]:
        rows = db.execute(_ITEMS, (lane, after, stretch.first_seq, most_items)).fetchall()
        if rows:
            items = [_item(row, clock) for row in rows]
            return within(items, most_items=most_items, most_bytes=most_bytes)
        after = max(after, stretch.last_seq)
    return []


def claim(
    db: sqlite3.Connection, lane: str, claimant: Claimant, items: Sequence[Item]
) -> list[Item]:
    """Claim items within a transaction; return them with their `is_untried`."""
    give_back(db, lane, claimant)
    db.execute("INSERT OR IGNORE INTO backlog (lane) VALUES (?)", (lane,))
    (tried_seq,) = db.execute("SELECT tried_seq FROM backlog WHERE lane = ?", (lane,)).fetchone()
    until_millis = boot_clock.millis_now() + min(
        int(claimant.lease_seconds * 1000), LONGEST_LEASE_MILLIS
    )
    first, last = items[0].seq, items[-1].seq
    db.execute(
        "INSERT INTO claim (lane, first_seq, last_seq, token, process, until_millis, "
        "tried_before_seq) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (lane, first, last, claimant.token, this_process(), until_millis, tried_seq),
    )
    db.execute("UPDATE backlog SET tried_seq = max(tried_seq, ?) WHERE lane = ?", (last, lane))
    return [each.tried(is_untried=each.seq > tried_seq) for each in items]


def is_claiming(db: sqlite3.Connection, lane: str, claimant: Claimant) -> bool:
    """Tell whether a claimant has a claim."""
    query = "SELECT 1 FROM claim WHERE lane = ? AND token = ?"
    return db.execute(query, (lane, claimant.token)).fetchone() is not None


def give_back(
    db: sqlite3.Connection, lane: str, claimant: Claimant, *, is_unsent: bool = False
) -> None:
    """End the claims of one claimant; `is_unsent` says that no request left this machine."""
    if is_unsent:
        # A later claim may have raised tried_seq since: then it stays.
        for last_seq, before_seq in db.execute(
            "SELECT last_seq, tried_before_seq FROM claim WHERE lane = ? AND token = ?",
            (lane, claimant.token),
        ).fetchall():
            db.execute(
                "UPDATE backlog SET tried_seq = ? WHERE lane = ? AND tried_seq = ?",
                (before_seq, lane, last_seq),
            )
    db.execute("DELETE FROM claim WHERE lane = ? AND token = ?", (lane, claimant.token))


def _others(db: sqlite3.Connection, lane: str, claimant: Claimant) -> list[_Stretch]:
    """Return the valid claims of others, in the order of their items."""
    rows = db.execute(
        "SELECT first_seq, last_seq, process, until_millis FROM claim "
        "WHERE lane = ? AND token <> ? ORDER BY first_seq",
        (lane, claimant.token),
    ).fetchall()
    return [
        _Stretch(first, last)
        for first, last, process, until_millis in rows
        if not _is_over(process, until_millis)
    ]


def forget_ended(db: sqlite3.Connection, lane: str) -> None:
    """Drop the claims that expired or whose process has ended; within a transaction."""
    ended = [
        (lane, token)
        for token, process, until_millis in db.execute(
            "SELECT token, process, until_millis FROM claim WHERE lane = ?", (lane,)
        ).fetchall()
        if _is_over(process, until_millis)
    ]
    db.executemany("DELETE FROM claim WHERE lane = ? AND token = ?", ended)


def _is_over(process: str, until_millis: int) -> bool:
    left_millis = until_millis - boot_clock.millis_now()
    # A claim that expires far in the future is from before a reboot, which reset the clock.
    return not 0 < left_millis <= LONGEST_LEASE_MILLIS or has_ended(process)


def _item(row: tuple[int, str, bytes, int, int, str | None, int | None], clock: SpoolClock) -> Item:
    seq, item_id, body, queued_at_millis, is_undated, boot, queued_boot_millis = row
    moment_millis = clock.corrected(queued_at_millis, boot, queued_boot_millis)
    return Item(seq, item_id, body, moment_millis, bool(is_undated))
