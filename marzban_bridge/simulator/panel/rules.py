"""What the panel's operations and jobs do to one user.

Marzban 0.8.4, observed on a running panel; the odd cases are the panel's and repeated on purpose.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from marzban_bridge.panels.port import ResetStrategy, Status
from marzban_bridge.simulator.panel.users import (
    XRAY_STATUSES,
    ResetLog,
    SimulatedPlan,
    SimulatedUser,
)

REMINDER_PERCENT = 80
REMINDER_DAYS = 3


class JobDiedError(Exception):
    """A job of the panel broke on a user and left everybody after it alone until its next run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserChanges:
    """The body of a PUT: None leaves a field as it is, except `next_plan`.

    Zero in `data_limit` and `expire`, and an empty `note`, mean none.
    """

    status: Status | None = None
    data_limit: int | None = None
    expire: int | None = None
    note: str | None = None
    data_limit_reset_strategy: ResetStrategy | None = None
    on_hold_timeout: datetime | None = None
    on_hold_expire_duration: int | None = None
    next_plan: SimulatedPlan | None = None
    """None deletes the user's next plan."""
    proxies: dict[str, dict[str, Any]] | None = None
    inbounds: dict[str, list[str]] | None = None


def modify(user: SimulatedUser, changes: UserChanges, *, now: datetime) -> None:
    """Apply a PUT: a data limit decides between active and limited at once, an expiry likewise."""
    if changes.proxies:
        user.proxies = changes.proxies
        user.inbounds = {name: user.inbounds.get(name, []) for name in changes.proxies}
    if changes.inbounds:
        user.inbounds |= changes.inbounds
    if changes.status is not None:
        user.status = changes.status
    if changes.data_limit is not None:
        user.data_limit = changes.data_limit or None
        _apply_data_limit(user)
    if changes.expire is not None:
        user.expire = changes.expire or None
        _apply_expire(user, now=now)
    if changes.note is not None:
        user.note = changes.note or None
    if changes.data_limit_reset_strategy is not None:
        user.data_limit_reset_strategy = changes.data_limit_reset_strategy
    if changes.on_hold_timeout is not None:
        user.on_hold_timeout = changes.on_hold_timeout
    if changes.on_hold_expire_duration is not None:
        user.on_hold_expire_duration = changes.on_hold_expire_duration
    user.next_plan = changes.next_plan
    user.edited_at = now


def _apply_data_limit(user: SimulatedUser) -> None:
    if user.status in {Status.EXPIRED, Status.DISABLED}:
        return
    if user.data_limit and user.used_traffic >= user.data_limit:
        user.status = Status.LIMITED  # also out of on_hold
        return
    if user.status is not Status.ON_HOLD:
        user.status = Status.ACTIVE
    if not user.data_limit or used_percent(user) < REMINDER_PERCENT:
        user.is_reminded_of_usage = False


def _apply_expire(user: SimulatedUser, *, now: datetime) -> None:
    if user.status not in {Status.ACTIVE, Status.EXPIRED}:
        return
    if user.expire and user.expire <= now.timestamp():
        user.status = Status.EXPIRED
        return
    user.status = Status.ACTIVE
    if not user.expire or days_left(user, now=now) > REMINDER_DAYS:
        user.is_reminded_of_expiry = False


def reset(user: SimulatedUser, *, now: datetime) -> None:
    """Begin a new period: everybody but the expired becomes active, and the next plan is gone."""
    user.reset_logs.append(ResetLog(used_traffic=user.used_traffic, reset_at=now))
    user.used_traffic = 0
    if user.status is not Status.EXPIRED:
        user.status = Status.ACTIVE  # even from disabled and on_hold
    user.next_plan = None


def wipe(user: SimulatedUser) -> None:
    """Do what "Reset all" does to a user: the log of earlier periods goes too."""
    user.used_traffic = 0
    if user.status is Status.LIMITED:
        user.status = Status.ACTIVE
    user.reset_logs.clear()
    user.next_plan = None


def switch_off(user: SimulatedUser) -> None:
    """Do what suspending an admin's users does to one."""
    if user.status in XRAY_STATUSES:
        user.status = Status.DISABLED


def switch_on(user: SimulatedUser) -> None:
    """Do what resuming an admin's users does to one; it asks for no reason why it was disabled.

    A user who was never online goes back on hold.
    """
    if user.status is not Status.DISABLED:
        return
    waits = user.expire is None and user.on_hold_expire_duration is not None
    user.status = Status.ON_HOLD if waits and user.online_at is None else Status.ACTIVE


def fire_next_plan(user: SimulatedUser, *, now: datetime) -> None:
    """Replace the plan by the next one; JobDiedError, and no change, if the panel cannot reckon it.

    The flag to add what remained acts inverted: without it `data_limit - used_traffic` is added,
    which may be negative, and cannot be reckoned for an unlimited user.
    """
    plan = user.next_plan
    if plan is None:
        return
    data_limit = plan.data_limit
    if not plan.add_remaining_traffic:
        if user.data_limit is None:
            raise JobDiedError(f"next plan of {user.username}: its current plan is unlimited")
        data_limit += user.data_limit - user.used_traffic
    user.reset_logs.append(ResetLog(used_traffic=user.used_traffic, reset_at=now))
    user.data_limit = data_limit
    user.expire = plan.expire
    user.used_traffic = 0
    user.next_plan = None
    user.status = Status.ACTIVE


def is_limited(user: SimulatedUser) -> bool:
    """Say whether the current period's traffic reached the data limit."""
    return bool(user.data_limit) and user.used_traffic >= (user.data_limit or 0)


def is_expired(user: SimulatedUser, *, now: datetime) -> bool:
    """Say whether the expiry has passed."""
    return bool(user.expire) and (user.expire or 0) <= now.timestamp()


def next_plan_fires(user: SimulatedUser, *, now: datetime) -> bool:
    """Say whether the review of an active user fires its next plan."""
    if user.next_plan is None:
        return False
    crossings = (is_limited(user), is_expired(user, now=now))
    return any(crossings) if user.next_plan.fire_on_either else all(crossings)


def hold_ends(user: SimulatedUser, *, now: datetime) -> bool:
    """Say whether a user on hold was seen online since it was last edited, or timed out."""
    since = user.edited_at or user.created_at
    if since is None:
        raise JobDiedError(f"{user.username} has no created_at")
    if user.online_at and since <= user.online_at:
        return True
    return user.on_hold_timeout is not None and user.on_hold_timeout <= now


def start_after_hold(user: SimulatedUser, *, now: datetime) -> None:
    """Let a user's time begin to run."""
    user.status = Status.ACTIVE
    user.expire = int(now.timestamp()) + (user.on_hold_expire_duration or 0)
    user.on_hold_expire_duration = None
    user.on_hold_timeout = None


def periodic_reset_is_due(user: SimulatedUser, *, now: datetime) -> bool:
    """Say whether whole days of the strategy have passed since the last reset or the creation.

    Raises JobDiedError for a user without `created_at`.
    """
    period_days = user.data_limit_reset_strategy.period_days
    if period_days is None or user.status not in {Status.ACTIVE, Status.LIMITED}:
        return False
    since = user.reset_logs[-1].reset_at if user.reset_logs else user.created_at
    if since is None:
        raise JobDiedError(f"{user.username} has no created_at")
    return now - since >= timedelta(days=period_days)


def used_percent(user: SimulatedUser) -> float:
    """Return the used share of a limited plan in percent."""
    return user.used_traffic * 100 / (user.data_limit or 1)


def days_left(user: SimulatedUser, *, now: datetime) -> int:
    """Return the whole days until the expiry, rounded down."""
    return int((user.expire or 0) - now.timestamp()) // 86400
