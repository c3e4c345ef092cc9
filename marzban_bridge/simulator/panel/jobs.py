"""The panel's jobs: what happens by itself, one user after the other, oldest first.

A job that breaks on a user leaves everybody after it alone until its next run, as in Marzban 0.8.4.
"""

from __future__ import annotations

from datetime import datetime

from marzban_bridge.panels.port import Status
from marzban_bridge.simulator.panel import rules
from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.records import PanelRecords
from marzban_bridge.simulator.panel.rules import JobDiedError
from marzban_bridge.simulator.panel.users import SimulatedUser


def review(records: PanelRecords) -> None:
    """Limit, expire and remind the active, fire their next plans, and end holds.

    Nobody else is looked at: a user limited by a PUT keeps its next plan unfired. Raises
    JobDiedError.
    """
    now = records.clock()
    try:
        for user in _of_status(records, Status.ACTIVE):
            _review_active(records, user, now=now)
        for user in _of_status(records, Status.ON_HOLD):
            _review_on_hold(records, user, now=now)
    except RefusedError as error:
        raise JobDiedError("a user cannot be shown") from error


def _review_active(records: PanelRecords, user: SimulatedUser, *, now: datetime) -> None:
    limited, expired = rules.is_limited(user), rules.is_expired(user, now=now)
    if rules.next_plan_fires(user, now=now):
        records.revision += 1
        rules.fire_next_plan(user, now=now)
        records.show(user)
        user.in_xray = True
        records.announce("data_reset_by_next", user)
    elif limited or expired:
        records.revision += 1
        user.in_xray = False
        user.status = Status.LIMITED if limited else Status.EXPIRED
        records.show(user)
        records.announce_status(user, by=None)
    elif records.sends_webhooks:
        _remind(records, user, now=now)


def _review_on_hold(records: PanelRecords, user: SimulatedUser, *, now: datetime) -> None:
    if rules.hold_ends(user, now=now):
        records.revision += 1
        rules.start_after_hold(user, now=now)
        records.show(user)
        records.announce_status(user, by=None)


def _remind(records: PanelRecords, user: SimulatedUser, *, now: datetime) -> None:
    if user.data_limit and not user.is_reminded_of_usage:
        percent = rules.used_percent(user)
        if percent >= rules.REMINDER_PERCENT:
            records.announce("reached_usage_percent", user, used_percent=percent)
            user.is_reminded_of_usage = True
    if user.expire and not user.is_reminded_of_expiry:
        days_left = rules.days_left(user, now=now)
        if days_left <= rules.REMINDER_DAYS:
            records.announce("reached_days_left", user, days_left=days_left)
            user.is_reminded_of_expiry = True


def reset_periodic(records: PanelRecords) -> None:
    """Reset the active and limited users whose period is over; without any webhook.

    A limited user becomes active but stays out of xray. Raises JobDiedError.
    """
    now = records.clock()
    for user in list(records.users.values()):
        if rules.periodic_reset_is_due(user, now=now):
            records.revision += 1
            rules.reset(user, now=now)


def _of_status(records: PanelRecords, status: Status) -> list[SimulatedUser]:
    return [user for user in records.users.values() if user.status is status]
