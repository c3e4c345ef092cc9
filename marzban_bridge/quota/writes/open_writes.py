"""Open writes: writes to a user that the panel may still carry out, and how they are recognized.

A write that timed out may have been received: a panel or proxy that was stuck carries it out some
seconds or minutes later, even after other writes. Until then its limit and status are the bridge's,
and not an admin's edit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.quota.account import OpenWrite

LATE_WRITE_SECONDS = 600.0
"""How long after its timeout a write may still be carried out."""


def last_moment(now: datetime, *, timeout_seconds: float = 0.0) -> datetime:
    """Return until when a write may land that times out within `timeout_seconds` from now."""
    return now + timedelta(seconds=LATE_WRITE_SECONDS + timeout_seconds)


def began(writes: Iterable[OpenWrite], write: OpenWrite) -> tuple[OpenWrite, ...]:
    """Add a write that is about to be sent; it stays the last one until it is answered."""
    return (*writes, write)


def answered(writes: tuple[OpenWrite, ...], *, may_land_again: bool) -> tuple[OpenWrite, ...]:
    """Record that the panel answered the last write.

    `may_land_again`: an earlier try of it was sent and not answered.
    """
    *others, last = writes
    return (*others, replace(last, is_answered=not may_land_again))


def given_up(writes: tuple[OpenWrite, ...], *, until: datetime) -> tuple[OpenWrite, ...]:
    """Record that the last write was not answered, and merge it with an equal one before it."""
    *others, last = writes
    kept = (
        each
        for each in others
        if each.is_answered or replace(last, may_land_until=each.may_land_until) != each
    )
    return (*kept, replace(last, may_land_until=until))


def still_open(writes: Iterable[OpenWrite], *, seen_at: datetime) -> tuple[OpenWrite, ...]:
    """Return the writes that may still land after `seen_at`."""
    return tuple(each for each in writes if not each.is_answered and each.may_land_until >= seen_at)


def is_open(writes: Iterable[OpenWrite], number: int) -> bool:
    """Tell whether a note line of that number is from an open write.

    Then it does not show an old row, even if later writes were answered.
    """
    return any(each.number == number and not each.is_answered for each in writes)


def sets_limit(write: OpenWrite, shown_bytes: int | None, *, dialect: Dialect) -> bool:
    """Tell whether the limit that the panel shows is the one of this write, to the byte.

    Or what the panel's edit dialog sends back for it, where it is opened and saved before the next
    evaluation: a number of GiB with more decimals than people type.
    """
    limit_bytes = write.data_limit_bytes
    if limit_bytes is None or shown_bytes is None:
        return write.lifts_limit and shown_bytes is None
    is_resent = dialect.resends_odd_limit(limit_bytes, shown_bytes)
    return shown_bytes == limit_bytes or is_resent
