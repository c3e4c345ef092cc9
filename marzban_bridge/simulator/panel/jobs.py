"""The panel's jobs: what happens by itself, one user after the other, oldest first.

A job that breaks on a user leaves everybody after it alone until its next run, as in the panels.
"""

from __future__ import annotations

from datetime import datetime

from marzban_bridge.panels.users import Status
from marzban_bridge.simulator.panel import rules
from marzban_bridge.simulator.panel.errors import RefusedError
from marzban_bridge.simulator.panel.records import PanelRecords
from marzban_bridge.simulator.panel.rules import JobDiedError
from marzban_bridge.simulator.panel.users import SimulatedUser


def review(records: PanelRecords) -> None:
    """Limit, expire and remind the active, fire their next plans, and end holds.

    No other user is reviewed: a user limited by a PUT keeps its next plan unfired. Raises
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
    _limit_admins(records)


def _review_active(records: PanelRecords, user: SimulatedUser, *, now: datetime) -> None:
    limited, expired = rules.is_limited(user), rules.is_expired(user, now=now)
    if rules.next_plan_fires(user, now=now, dialect=records.dialect):
        records.revision += 1
        if not records.dialect.plan_may_want_both:
            user.status = Status.EXPIRED if expired else Status.LIMITED  # should firing break
            user.in_xray = False
        rules.fire_next_plan(
            user, now=now, dialect=records.dialect, template=records.template_of(user)
        )
        records.show(user)
        user.in_xray = records.belongs_in_xray(user)
        records.announce(records.dialect.plan_event, user)
    elif limited or expired:
        records.revision += 1
        user.in_xray = False
        expires_first = records.dialect.expire_is_applied_first and expired
        user.status = Status.LIMITED if limited and not expires_first else Status.EXPIRED
        records.show(user)
        records.announce_status(user, by=None)
    elif records.sends_webhooks:
        _remind(records, user, now=now)


def _review_on_hold(records: PanelRecords, user: SimulatedUser, *, now: datetime) -> None:
    if rules.hold_ends(user, now=now, dialect=records.dialect):
        records.revision += 1
        rules.start_after_hold(user, now=now, dialect=records.dialect)
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
        is_exact = days_left == rules.REMINDER_DAYS or not records.dialect.days_left_is_exact
        if days_left <= rules.REMINDER_DAYS and is_exact:
            records.announce("reached_days_left", user, days_left=days_left)
            user.is_reminded_of_expiry = True


def _limit_admins(records: PanelRecords) -> None:
    """Limit admins whose users have used what they may sell, and cut those users off the nodes."""
    for admin in records.admins.values():
        if admin.status == "active" and admin.is_over_its_limit:
            records.revision += 1
            admin.status = "limited"
            records.follow_admin(admin)


def reset_periodic(records: PanelRecords) -> None:
    """Reset the active and limited users whose period is over.

    Without any webhook a limited user becomes active but stays out of xray. Raises JobDiedError.
    """
    now = records.clock()
    dialect = records.dialect
    for user in list(records.users.values()):
        if rules.periodic_reset_is_due(user, now=now, dialect=dialect):
            records.revision += 1
            old_status = user.status
            rules.reset(user, now=now, dialect=dialect)
            if dialect.nodes_follow_every_change:
                user.in_xray = records.belongs_in_xray(user)
            if dialect.periodic_reset_is_announced:
                records.announce("data_usage_reset", user, by=records.answers.system())
                if user.status is not old_status:
                    records.announce_status(user, by=None)


def _of_status(records: PanelRecords, status: Status) -> list[SimulatedUser]:
    return [user for user in records.users.values() if user.status is status]
