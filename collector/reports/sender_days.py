"""What each sender reported on a day, and in its largest hours; pure.

A sender is who reports: `reporter:NAME` with a key, `user:NAME` without. Days and hours are of UTC,
by when reports arrived. One row holds a day: so many rows are kept as there are senders and days.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from collector.reports.report import MAX_AMOUNT_BYTES

PAST_DAYS = 14
"""So many days before a day are what it is compared with."""
KEPT_DAYS = PAST_DAYS + 2
"""So many days of a sender are kept: today and yesterday are compared with those before."""
REPORTER, USER = "reporter:", "user:"
"""What the scopes of senders begin with."""
LATE_DAYS = 8
"""Reports name moments up to so many days before they arrive, with the default window for ids."""
HOURS_PER_DAY = 24
HOUR_MILLIS = 3_600_000


class SenderDay(NamedTuple):
    """One sender's reports of one day; no number goes beyond MAX_AMOUNT_BYTES."""

    day: int
    sender: str
    raw_bytes: int
    hour: int
    """The last hour with a report, as hours since 1970."""
    hour_bytes: int
    earlier_hour_bytes: int
    """The most in an hour of the day before that."""


class HourBytes(NamedTuple):
    """What a sender reported in one hour."""

    sender: str
    hour: int
    raw_bytes: int


class SenderBytes(NamedTuple):
    """What a sender reported in an hour, and in that hour's day."""

    hour_bytes: int
    day_bytes: int


def day_of(hour: int) -> int:
    """Return the day that an hour is of, as days since 1970."""
    return hour // HOURS_PER_DAY


def user_of(sender: str) -> str | None:
    """Return the user who reports for itself; None for a reporter with a key."""
    return sender.removeprefix(USER) if sender.startswith(USER) else None


def grown(
    known: Mapping[tuple[int, str], SenderDay], hours: Iterable[HourBytes]
) -> list[SenderDay]:
    """Return the rows that change when hours are added to those known, by day and sender."""
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
    # The clock was set back, or another collector's is behind.
    return grown_row._replace(
        earlier_hour_bytes=max(row.earlier_hour_bytes, _bounded(more.raw_bytes))
    )


def _bounded(amount_bytes: int) -> int:
    return max(0, min(MAX_AMOUNT_BYTES, amount_bytes))


def in_hour(row: SenderDay | None, unfolded: Iterable[HourBytes], *, hour: int) -> SenderBytes:
    """Return what a sender reported in an hour and its day, with what is in no sum yet."""
    hour_bytes = row.hour_bytes if row is not None and row.hour == hour else 0
    day_bytes = 0 if row is None else row.raw_bytes
    for each in unfolded:
        if each.hour == hour:
            hour_bytes += each.raw_bytes
        if day_of(each.hour) == day_of(hour):
            day_bytes += each.raw_bytes
    return SenderBytes(hour_bytes, day_bytes)
