"""Writes to a user in the panel that may still be carried out, and how they are recognised.

A write that timed out may have been received all the same: a panel or a proxy that was stuck
carries it out half a minute or some minutes later, also after other writes. Until that can no
longer happen its limit and its status are the bridge's own, and no admin's edit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from marzban_bridge.panels.dialect import MARZBAN, Dialect
from marzban_bridge.quota.account import OpenWrite

LATE_WRITE_SECONDS = 600.0
"""How long after it was given up a panel or a proxy may still carry out a write."""


def last_moment(now: datetime, *, timeout_seconds: float = 0.0) -> datetime:
    """Return until when a write may land that is given up at most `timeout_seconds` from now."""
    return now + timedelta(seconds=LATE_WRITE_SECONDS + timeout_seconds)


def began(writes: Iterable[OpenWrite], write: OpenWrite) -> tuple[OpenWrite, ...]:
    """Add a write that is about to be sent; it is the last one until it is answered."""
    return (*writes, write)


def answered(writes: tuple[OpenWrite, ...], *, may_land_again: bool) -> tuple[OpenWrite, ...]:
    """Note that the panel answered the last write.

    `may_land_again`: an earlier try of it was sent and not answered.
    """
    *others, last = writes
    return (*others, replace(last, is_answered=not may_land_again))


def given_up(writes: tuple[OpenWrite, ...], *, until: datetime) -> tuple[OpenWrite, ...]:
    """Note that the last write was not answered; an equal one before it is the same from now on."""
    *others, last = writes
    kept = (
        each
        for each in others
        if each.is_answered or replace(last, may_land_until=each.may_land_until) != each
    )
    return (*kept, replace(last, may_land_until=until))


def still_open(writes: Iterable[OpenWrite], *, seen_at: datetime) -> tuple[OpenWrite, ...]:
    """Return the writes that may land after a look at that moment."""
    return tuple(each for each in writes if not each.is_answered and each.may_land_until >= seen_at)


def is_open(writes: Iterable[OpenWrite], number: int) -> bool:
    """Tell whether a line of that number is one of a write that was not answered yet.

    It is no row of the past, however many writes were answered since.
    """
    return any(each.number == number and not each.is_answered for each in writes)


def sets_limit(write: OpenWrite, shown_bytes: int | None, *, dialect: Dialect = MARZBAN) -> bool:
    """Tell whether the limit that the panel shows is the one of this write, to the byte.

    Or what the panel's edit dialog makes of it, when it is opened and saved before the bridge
    looks: the number of GiB with so many decimals as nobody types.
    """
    limit_bytes = write.data_limit_bytes
    if limit_bytes is None or shown_bytes is None:
        return write.lifts_limit and shown_bytes is None
    is_resent = dialect.resends_what_nobody_types(limit_bytes, shown_bytes)
    return shown_bytes == limit_bytes or is_resent
