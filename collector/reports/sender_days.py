"""The bytes of each sender per day, and in its largest hours; pure.

A sender is `reporter:NAME` with a key, `user:NAME` without. Days and hours are UTC, by arrival.
There is one row per sender and day.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from collector.reports.report import MAX_AMOUNT_BYTES

PAST_DAYS = 14
"""The days before a day that it is compared with."""
KEPT_DAYS = PAST_DAYS + 2
"""The days that are kept: today and yesterday, and those they are compared with."""
REPORTER, USER = "reporter:", "user:"
"""The prefixes of senders' scopes."""
LATE_DAYS = 8
"""How many days before its arrival a report may be dated, with the default settings."""
HOURS_PER_DAY = 24
HOUR_MILLIS = 3_600_000


class SenderDay(NamedTuple):
    """One sender's bytes of one day; sums are capped at MAX_AMOUNT_BYTES."""

    day: int
    sender: str
    raw_bytes: int
    hour: int
    """The last hour with a report, as hours since 1970."""
    hour_bytes: int
    earlier_hour_bytes: int
    """The largest earlier hour of the day."""


class HourBytes(NamedTuple):
    """The bytes of a sender in one hour."""

    sender: str
    hour: int
    raw_bytes: int


class SenderBytes(NamedTuple):
    """The bytes of a sender in an hour, and in that hour's day."""

    hour_bytes: int
    day_bytes: int


def day_of(hour: int) -> int:
    """Return the day of an hour, as days since 1970."""
    return hour // HOURS_PER_DAY


def user_of(sender: str) -> str | None:
    """Return the username of a sender without a key; None for a reporter with a key."""
    return sender.removeprefix(USER) if sender.startswith(USER) else None


def grown(
    known: Mapping[tuple[int, str], SenderDay], hours: Iterable[HourBytes]
) -> list[SenderDay]:
    """Add hours to the known rows (by day and sender); return the rows that changed."""
    changed: dict[tuple[int, str], SenderDay] = {}
    for each in sorted(hours, key=lambda it: it.hour):
        key = (day_of(each.hour), each.sender)
        row = changed.get(key) or known.get(key)
        changed[key] = _add(row, each)
    return list(changed.values())


def _add(row: SenderDay | None, more: HourBytes) -> SenderDay:
    if row is None:
        first = _bounded(more.raw_bytes)
        return SenderDay(day_of(more.hour), more.sender, first, more.hour, first, 0)
    grown_row = row._replace(raw_bytes=_bounded(row.raw_bytes + more.raw_bytes))
    if more.hour == row.hour:
        return grown_row._replace(hour_bytes=_bounded(row.hour_bytes + more.raw_bytes))
    if more.hour > row.hour:
        return grown_row._replace(
            hour=more.hour,
            hour_bytes=_bounded(more.raw_bytes),
            earlier_hour_bytes=max(row.earlier_hour_bytes, row.hour_bytes),
        )
    # An earlier hour: the clock was set back, or another collector's clock is behind.
    return grown_row._replace(
        earlier_hour_bytes=max(row.earlier_hour_bytes, _bounded(more.raw_bytes))
    )


def _bounded(amount_bytes: int) -> int:
    return max(0, min(MAX_AMOUNT_BYTES, amount_bytes))


def in_hour(row: SenderDay | None, unfolded: Iterable[HourBytes], *, hour: int) -> SenderBytes:
    """Return a sender's bytes in an hour and its day, with reports that are not added up yet."""
    hour_bytes = row.hour_bytes if row is not None and row.hour == hour else 0
    day_bytes = 0 if row is None else row.raw_bytes
    for each in unfolded:
        if each.hour == hour:
            hour_bytes += each.raw_bytes
        if day_of(each.hour) == day_of(hour):
            day_bytes += each.raw_bytes
    return SenderBytes(hour_bytes, day_bytes)
