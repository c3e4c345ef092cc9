"""When the panel resets a user by itself, by the user's strategy; pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from marzban_bridge.quota.account import Account

PERIODIC_JOB_INTERVAL = timedelta(hours=1)
CALENDAR_GRACE = PERIODIC_JOB_INTERVAL + timedelta(minutes=5)
"""After the moment at which a reset falls due it may take so long until it is done."""


def due_at(account: Account) -> datetime | None:
    """Return when the panel's periodic reset falls due, None for users without one."""
    days = account.sighting.reset_strategy.period_days
    return None if days is None else account.period_started_at + timedelta(days=days)
