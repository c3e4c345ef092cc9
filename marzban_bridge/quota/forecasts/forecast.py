"""Whether, and when, a user will have used up its quota; pure.

used up already                                  0 days
unlimited; cut off for another reason            no forecast
watched for less than a day                      no forecast
nothing used in the last week                    no forecast
a reset, or the end of the account, comes first  no forecast
else                                             what is left / the rate of the last week
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from marzban_bridge.panels.users import Status
from marzban_bridge.quota.account import Account
from marzban_bridge.quota.balance import balance
from marzban_bridge.quota.forecasts.marks import bytes_per_day
from marzban_bridge.quota.usage import Totals

LONGEST_DAYS = 3650.0
"""A user who needs longer than this has no forecast."""
FOR_EVER = 253_402_300_800
"""Seconds until the year 10000, which no time can be in."""


def days_to_limit(account: Account, totals: Totals, *, now: datetime) -> float | None:
    """Return in how many days the quota is used up at the last week's rate; None if it is not."""
    found = balance(account, total_bytes=totals.billed_bytes)
    left_bytes = found.left_bytes
    if left_bytes is None:
        return None
    if found.is_exhausted:
        return 0.0
    rate = bytes_per_day(account, totals, now=now)
    if account.sighting.status is not Status.ACTIVE or not rate:
        return None
    days = left_bytes / rate
    if days > LONGEST_DAYS:
        return None
    out_at = now + timedelta(days=days)
    ends = (account.reset_due_at, expires_at(account))
    return None if any(end is not None and end <= out_at for end in ends) else days


def expires_at(account: Account) -> datetime | None:
    """Return when the panel ends the user's time; None for a user without an end."""
    expire = account.sighting.expire
    return datetime.fromtimestamp(expire, UTC) if expire and 0 < expire < FOR_EVER else None
