"""Remembers what a user had used in all, once a day for a week; pure.

The marks are for forecasts, which are only shown. A reset does not change what was used in all, so
it does not change the rate either.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from marzban_bridge.quota.account import Account
from marzban_bridge.quota.usage import Totals, UsageMark

WEEK = timedelta(days=7)
SHORTEST = timedelta(days=1)
"""Over less time than this there is no rate: a day has its hours of much and of little use."""


def lifetime_bytes(account: Account, totals: Totals) -> int:
    """Return what a user has used in all: on the panel, by its own log, and outside."""
    return account.sighting.lifetime_bytes + totals.billed_bytes


def marked(account: Account, totals: Totals, *, now: datetime) -> Account:
    """Return the account with a mark of the day, and without the marks that are not needed.

    One that is at least a week old is kept. When less was used in all than the last mark says (a
    restored panel, reports taken back), the marks start again.
    """
    used_bytes, marks = lifetime_bytes(account, totals), account.usage_marks
    if marks and (used_bytes < marks[-1].total_bytes or now < marks[-1].at):
        marks = ()
    elif marks and now.date() == marks[-1].at.date():
        return account
    marks = (*marks, UsageMark(at=now, total_bytes=used_bytes))
    while len(marks) > 1 and now - marks[1].at >= WEEK:
        marks = marks[1:]
    return replace(account, usage_marks=marks)


def bytes_per_day(account: Account, totals: Totals, *, now: datetime) -> float | None:
    """Return the rate since the oldest mark, of about a week; None where it is not known yet."""
    if not account.usage_marks:
        return None
    oldest = account.usage_marks[0]
    span = now - oldest.at
    if span < SHORTEST:
        return None
    used_bytes = lifetime_bytes(account, totals) - oldest.total_bytes
    return max(0, used_bytes) / (span / timedelta(days=1))
