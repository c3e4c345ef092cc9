"""What the panel's operations and jobs do to one user.

The odd cases are the panels' own and repeated on purpose; where two panels differ, the dialect says
how.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from marzban_bridge.panels.users import ResetStrategy, Status
from marzban_bridge.simulator.panel.dialect import SimulatedDialect
from marzban_bridge.simulator.panel.users import (
    XRAY_STATUSES,
    ResetLog,
    SimulatedPlan,
    SimulatedTemplate,
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
    group_ids: list[int] | None = None
    hwid_limit: int | None = None


def modify(
    user: SimulatedUser, changes: UserChanges, *, now: datetime, dialect: SimulatedDialect
) -> None:
    """Apply a PUT: a data limit decides between active and limited at once, an expiry likewise."""
    _change_access(user, changes)
    if changes.status is not None:
        _set_status(user, changes.status, now=now, dialect=dialect)
    if dialect.expire_is_applied_first:
        _change_expire(user, changes.expire, now=now)
    if changes.data_limit is not None:
        user.data_limit = changes.data_limit or None
        _apply_data_limit(user)
    if not dialect.expire_is_applied_first:
        _change_expire(user, changes.expire, now=now)
    _change_the_rest(user, changes)
    user.next_plan = changes.next_plan
    user.edited_at = now


def _change_access(user: SimulatedUser, changes: UserChanges) -> None:
    if changes.proxies:
        user.proxies = changes.proxies
        user.inbounds = {name: user.inbounds.get(name, []) for name in changes.proxies}
    if changes.inbounds:
        user.inbounds |= changes.inbounds
    if changes.group_ids is not None:
        user.group_ids = list(changes.group_ids)


def _change_the_rest(user: SimulatedUser, changes: UserChanges) -> None:
    if changes.note is not None:
        user.note = changes.note or None
    if changes.data_limit_reset_strategy is not None:
        user.data_limit_reset_strategy = changes.data_limit_reset_strategy
    if changes.on_hold_timeout is not None:
        user.on_hold_timeout = changes.on_hold_timeout
    if changes.on_hold_expire_duration is not None:
        user.on_hold_expire_duration = changes.on_hold_expire_duration
    if changes.hwid_limit is not None:
        user.hwid_limit = changes.hwid_limit


def _set_status(
    user: SimulatedUser, status: Status, *, now: datetime, dialect: SimulatedDialect
) -> None:
    if status is Status.ACTIVE and user.status is Status.DISABLED:
        enable(user, now=now, dialect=dialect)
    else:
        user.status = status
    if status is Status.ON_HOLD and dialect.hold_clears_expiry:
        user.expire = None


def enable(user: SimulatedUser, *, now: datetime, dialect: SimulatedDialect) -> None:
    """Take a disabled user back."""
    if not dialect.enabling_works_state_out:
        user.status = Status.ACTIVE
    elif is_expired(user, now=now):
        user.status = Status.EXPIRED
    elif is_limited(user):
        user.status = Status.LIMITED
    elif user.on_hold_expire_duration is not None:
        user.status = Status.ON_HOLD
    else:
        user.status = Status.ACTIVE


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


def _change_expire(user: SimulatedUser, expire: int | None, *, now: datetime) -> None:
    if expire is None:
        return
    user.expire = expire or None
    if user.status not in {Status.ACTIVE, Status.EXPIRED}:
        return
    if user.expire and user.expire <= now.timestamp():
        user.status = Status.EXPIRED
        return
    user.status = Status.ACTIVE
    if not user.expire or days_left(user, now=now) > REMINDER_DAYS:
        user.is_reminded_of_expiry = False


def reset(user: SimulatedUser, *, now: datetime, dialect: SimulatedDialect) -> None:
    """Begin a new period; the next plan is gone, and who is woken by it becomes active."""
    user.reset_logs.append(ResetLog(used_traffic=user.used_traffic, reset_at=now))
    user.used_traffic = 0
    if user.status in dialect.woken_by_reset:
        user.status = Status.ACTIVE
    if dialect.reset_rearms_reminder:
        user.is_reminded_of_usage = False
    user.next_plan = None


def wipe(user: SimulatedUser, *, dialect: SimulatedDialect) -> None:
    """Do what "Reset all" does to a user: the log of earlier periods goes too."""
    user.used_traffic = 0
    if user.status in dialect.woken_by_reset_all:
        user.status = Status.ACTIVE
    user.reset_logs.clear()
    user.next_plan = None


def switch_off(user: SimulatedUser) -> None:
    """Do what suspending an admin's users does to one."""
    if user.status in XRAY_STATUSES:
        user.status = Status.DISABLED


def switch_on(user: SimulatedUser, *, dialect: SimulatedDialect) -> None:
    """Do what resuming an admin's users does to one; it asks for no reason why it was disabled.

    A user who waits for its first connection goes back on hold.
    """
    if user.status is not Status.DISABLED:
        return
    waits = user.expire is None and user.on_hold_expire_duration is not None
    if dialect.resuming_asks_whether_online:
        waits = waits and user.online_at is None
    user.status = Status.ON_HOLD if waits else Status.ACTIVE


def fire_next_plan(
    user: SimulatedUser,
    *,
    now: datetime,
    dialect: SimulatedDialect,
    template: SimulatedTemplate | None = None,
) -> None:
    """Replace the plan by the next one, or by the template it points to, whose state is ignored.

    JobDiedError, and no change, if the panel cannot reckon what an unlimited user has left. What
    remained may be negative, and so may the new limit.
    """
    plan = user.next_plan
    if plan is None:
        return
    data_limit = template.data_limit if template else plan.data_limit
    if plan.add_remaining_traffic is not dialect.remaining_flag_is_inverted:
        if user.data_limit is None and not dialect.unlimited_has_remaining:
            raise JobDiedError(f"next plan of {user.username}: its current plan is unlimited")
        data_limit += (user.data_limit or 0) - user.used_traffic
    user.expire = template.expire_duration if template else plan.expire
    if dialect.plan_expiry_runs_from_firing:
        user.expire = int(now.timestamp()) + user.expire if user.expire else None
    if template:
        user.group_ids = list(template.group_ids)
        user.data_limit_reset_strategy = template.data_limit_reset_strategy
    user.reset_logs.append(ResetLog(used_traffic=user.used_traffic, reset_at=now))
    user.data_limit = data_limit
    user.used_traffic = 0
    user.next_plan = None
    if dialect.reset_rearms_reminder:
        user.is_reminded_of_usage = False
    user.status = Status.ACTIVE


def is_limited(user: SimulatedUser) -> bool:
    """Say whether the current period's traffic reached the data limit."""
    return bool(user.data_limit) and user.used_traffic >= (user.data_limit or 0)


def is_expired(user: SimulatedUser, *, now: datetime) -> bool:
    """Say whether the expiry has passed."""
    return bool(user.expire) and (user.expire or 0) <= now.timestamp()


def next_plan_fires(user: SimulatedUser, *, now: datetime, dialect: SimulatedDialect) -> bool:
    """Say whether the review of an active user fires its next plan."""
    if user.next_plan is None:
        return False
    crossings = (is_limited(user), is_expired(user, now=now))
    wants_both = dialect.plan_may_want_both and not user.next_plan.fire_on_either
    return all(crossings) if wants_both else any(crossings)


def hold_ends(user: SimulatedUser, *, now: datetime, dialect: SimulatedDialect) -> bool:
    """Say whether a user on hold was seen online since it was last edited, or timed out."""
    since = user.edited_at or user.created_at
    if since is None:
        raise JobDiedError(f"{user.username} has no created_at")
    if user.online_at and since <= user.online_at:
        return True
    if user.online_at and dialect.timeout_is_for_never_online:
        return False
    return user.on_hold_timeout is not None and user.on_hold_timeout <= now


def start_after_hold(user: SimulatedUser, *, now: datetime, dialect: SimulatedDialect) -> None:
    """Let a user's time begin to run."""
    duration = user.on_hold_expire_duration or 0
    is_endless = not duration and dialect.endless_hold_ends_without_expiry
    user.status = Status.ACTIVE
    user.expire = None if is_endless else int(now.timestamp()) + duration
    user.on_hold_expire_duration = None
    user.on_hold_timeout = None


def periodic_reset_is_due(user: SimulatedUser, *, now: datetime, dialect: SimulatedDialect) -> bool:
    """Say whether whole days of the strategy have passed since the last reset or the creation.

    A user without `created_at` is left out, or breaks the job: JobDiedError.
    """
    period_days = user.data_limit_reset_strategy.period_days
    if period_days is None or user.status not in {Status.ACTIVE, Status.LIMITED}:
        return False
    since = user.reset_logs[-1].reset_at if user.reset_logs else user.created_at
    if since is None and not dialect.periodic_reset_needs_creation:
        return False
    if since is None:
        raise JobDiedError(f"{user.username} has no created_at")
    return now - since >= timedelta(days=period_days)


def is_unreadable(user: SimulatedUser, *, dialect: SimulatedDialect) -> bool:
    """Say whether the panel breaks on showing this user: GET and every list page answer 500.

    So with a null `created_at` (found in imported databases), a negative `data_limit` (from a next
    plan that fired), and, where the panel asks for proxies, a user without any.
    """
    lacks_proxies = dialect.user_needs_proxies and not user.proxies
    return user.created_at is None or (user.data_limit or 0) < 0 or lacks_proxies


def used_percent(user: SimulatedUser) -> float:
    """Return the used share of a limited plan in percent."""
    return user.used_traffic * 100 / (user.data_limit or 1)


def days_left(user: SimulatedUser, *, now: datetime) -> int:
    """Return the whole days until the expiry, rounded down."""
    return int((user.expire or 0) - now.timestamp()) // 86400
