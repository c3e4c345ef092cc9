"""Was there a reset? Reads it from two snapshots of a user, for the panel seldom says so.

Facts of Marzban 0.8.4 that this rests on; in what another kind differs, its dialect says:

- Used traffic never falls by itself, and the log (`lifetime - used`) moves only at a reset: it
  grows by what was used, or is wiped by a reset-all. A user who used nothing shows neither.
- The reset button sends a webhook; the reset-all call and the periodic job send none.
- `online_at` is set with the used traffic, by the panel's counting, and by nothing else; also where
  a node's coefficient leaves no whole byte to count, so that it tells of no traffic that is gone.
- The periodic job runs hourly over active and limited users, N whole days after the last reset.
- The button, like the periodic job, deletes a next plan; it makes a disabled user active. So do an
  admin's edit and `/api/admin/{admin}/users/activate`, which reset nothing: that a user is active
  again is no sign of a reset.
- A next plan that fires sets the limit to the plan's, plus what remained if its flag
  `add_remaining_traffic` is *not* set (the flag acts inverted), and the expiry to the plan's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.users import NextPlan, ResetStrategy, Status
from marzban_bridge.quota.account import Account, PanelSnapshot
from marzban_bridge.quota.resets.echoes import echoes_to_come, webhooks_received
from marzban_bridge.quota.resets.reset_all import ResetAll
from marzban_bridge.quota.resets.schedule import CALENDAR_GRACE

CLOCK_SLACK_SECONDS = 300
"""How far the panel's clock may be from the bridge's, where it says when something happened."""
LOGGED_SHARE = 0.9
"""The least part of the used traffic that a reset's log has of it.

Marzban reads the traffic and logs it in two steps; what its nodes report in between is lost.
"""


class Fall(StrEnum):
    """What used traffic and the log together say of a user's row."""

    NONE = "nothing fell"
    RESET = "the log took what had been used"
    UNCLEAR = "reset with all users, or a row from the past"
    PAST = "a row from the past: no reset does this"


class Cause(StrEnum):
    """How a reset came about, as far as it can be told."""

    SEEN = "used traffic was reset in the panel"
    WEBHOOK = "the panel's reset webhook, for a user without panel traffic"
    RESET_ALL = "a reset of all users in the panel"
    CALENDAR = "the periodic reset fell due for a user without panel traffic"
    NEXT_PLAN = "the next plan fired"
    REQUEST = "a reset was asked of the bridge"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetSign:
    """A reset that two snapshots prove."""

    cause: Cause
    used_at_reset_bytes: int
    began_at: datetime
    fired_plan: NextPlan | None = None
    wiped_log: bool = False
    """The panel's log did not keep the used traffic: only a reset of all users does that."""


def fall_of(before: PanelSnapshot, after: PanelSnapshot) -> Fall:
    """Tell a reset from a row that went back, as after a restored backup.

    A reset of one user logs what had been used. A reset of all users wipes the log, and used
    traffic starts again from zero. Nothing else moves the log, or has used traffic fall. No reset
    moves when the user was last online: where that is earlier than before, the row is an older one.
    """
    fall = _fall_of(before, after)
    return Fall.PAST if fall is Fall.UNCLEAR and _was_online_later(before, after) else fall


def _was_online_later(before: PanelSnapshot, after: PanelSnapshot) -> bool:
    """Tell whether the user had been online later; databases may cut off the part of a second."""
    if before.online_at is None:
        return False
    return after.online_at is None or after.online_at + timedelta(seconds=1) < before.online_at


def _fall_of(before: PanelSnapshot, after: PanelSnapshot) -> Fall:
    logged_more_bytes = after.logged_bytes - before.logged_bytes
    if logged_more_bytes > 0:
        is_whole = logged_more_bytes >= LOGGED_SHARE * before.used_bytes
        return Fall.RESET if is_whole else Fall.PAST
    if logged_more_bytes < 0:
        return Fall.PAST if after.logged_bytes else Fall.UNCLEAR
    if after.used_bytes >= before.used_bytes:
        return Fall.NONE
    return Fall.PAST if before.logged_bytes else Fall.UNCLEAR


def is_periodic(account: Account, sign: ResetSign) -> bool:
    """Tell whether a reset that was seen is the one that the panel's schedule had due."""
    due = account.reset_due_at
    return sign.cause is Cause.SEEN and due is not None and due <= sign.began_at


def has_webhook(account: Account, sign: ResetSign, dialect: Dialect) -> bool:
    """Tell whether a webhook is sent of a reset: of one user's, and seldom by the schedule."""
    if sign.cause is Cause.CALENDAR or is_periodic(account, sign):
        return dialect.periodic_reset_is_announced
    return sign.cause in {Cause.SEEN, Cause.NEXT_PLAN, Cause.WEBHOOK}


def period_start(
    *, created_at: datetime | None, strategy: ResetStrategy, now: datetime
) -> datetime:
    """Place the start of the current period of a user whose resets we did not watch."""
    if created_at is None or created_at > now:
        return now
    if strategy.period_days is None:
        return created_at
    period = timedelta(days=strategy.period_days)
    return created_at + ((now - created_at) // period) * period


def detect(
    account: Account,
    after: PanelSnapshot,
    *,
    dialect: Dialect,
    was_announced: bool = False,
    is_announced_again: bool = False,
    told_at: datetime | None = None,
    reset_all: ResetAll | None = None,
) -> ResetSign | None:
    """Tell whether the panel reset the user between the account's snapshot and `after`.

    `was_announced`: a reset webhook that is no duplicate came for this user, `is_announced_again`
    more than one of them, and `told_at` is when the newest happened, as the panel says.
    `reset_all`: the last reset of all users of this user's owner that another user proved. A row
    from the past is no reset; where a reset of all users shows the same, the caller has ruled the
    past out (`panel_suspension`).
    """
    before = account.sighting
    logged_more_bytes = after.logged_bytes - before.logged_bytes
    used_at_reset_bytes = logged_more_bytes if logged_more_bytes > 0 else before.used_bytes
    is_visible = after.used_bytes < before.used_bytes or logged_more_bytes != 0

    plan = before.next_plan
    has_evidence = is_visible or was_announced or account.fire_attempts > 0
    has_evidence |= account.is_disabled_by_us and after.status is not Status.DISABLED
    if plan and plan.data_limit_bytes is None:
        has_fired = has_evidence and _has_template_fired(plan, account, after, dialect)
    else:
        has_fired = plan is not None and _has_fired(
            plan, before, after, used_at_reset_bytes, has_evidence=has_evidence, dialect=dialect
        )
    if plan and has_fired:
        return ResetSign(
            cause=Cause.NEXT_PLAN,
            used_at_reset_bytes=used_at_reset_bytes,
            began_at=after.seen_at,
            fired_plan=plan,
        )
    if fall_of(before, after) is Fall.PAST:
        return None
    if is_visible:
        wiped_log = logged_more_bytes < 0 or (logged_more_bytes == 0 and before.used_bytes > 0)
        return ResetSign(
            cause=Cause.RESET_ALL if wiped_log else Cause.SEEN,
            used_at_reset_bytes=used_at_reset_bytes,
            began_at=after.seen_at,
            wiped_log=wiped_log,
        )
    if before.used_bytes > 0:
        if not _may_be_wiped(account, after, reset_all):
            return None
        return ResetSign(
            cause=Cause.RESET_ALL, used_at_reset_bytes=before.used_bytes, began_at=after.seen_at
        )
    # A webhook may be the echo of a reset that is counted already; one too many is of another.
    heard = webhooks_received(was_announced=was_announced, is_announced_again=is_announced_again)
    is_told = heard > len(echoes_to_come(account, at=after.seen_at))
    if told_at is not None and dialect.has_webhook_times:
        known_until = account.resets_known_until or account.period_started_at
        is_of_later = told_at > known_until + timedelta(seconds=CLOCK_SLACK_SECONDS)
        is_told = told_at > known_until and (is_told or is_of_later)
    invisible = _detect_invisible(account, after, is_told=is_told, reset_all=reset_all)
    if invisible is None:
        return None
    cause, began_at = invisible
    return ResetSign(cause=cause, used_at_reset_bytes=0, began_at=began_at)


def _has_template_fired(
    plan: NextPlan, account: Account, after: PanelSnapshot, dialect: Dialect
) -> bool:
    """Tell whether a plan that left its limit to a template is gone because it has fired.

    What the template makes of the user is not known here. A reset takes the plan, too, and leaves
    limit and expiry; where the limit was the quota itself, both may be equal, and the plan is
    rather not put back than put back for ever.
    """
    if not dialect.plan_may_be_of_template or plan.template_id is None or after.next_plan:
        return False
    before = account.sighting
    has_new_limit = after.data_limit_bytes != before.data_limit_bytes
    has_new_expiry = (after.expire or 0) != (before.expire or 0)
    return has_new_limit or has_new_expiry or account.published_bytes is None


def _has_fired(
    plan: NextPlan,
    before: PanelSnapshot,
    after: PanelSnapshot,
    used_bytes: int,
    *,
    has_evidence: bool,
    dialect: Dialect,
) -> bool:
    if after.next_plan is not None or plan.data_limit_bytes is None:
        return False
    has_new_expiry = (after.expire or 0) != (before.expire or 0)
    remaining_bytes = 0
    if dialect.adds_remaining(plan):
        if before.data_limit_bytes is None and not dialect.unlimited_has_remaining:
            return False
        remaining_bytes = (before.data_limit_bytes or 0) - used_bytes
    fired_limit_bytes = (plan.data_limit_bytes + remaining_bytes) or None
    if after.data_limit_bytes != fired_limit_bytes:
        return False
    if not _took_expiry(plan, before, after, dialect):
        return False
    # Without evidence it may be an edit by hand: an admin types the plan's limit, and the dialog
    # drops the plan. People type neither the plan's expiry nor a limit with the rest added.
    return has_evidence or remaining_bytes != 0 or has_new_expiry


def _took_expiry(
    plan: NextPlan, before: PanelSnapshot, after: PanelSnapshot, dialect: Dialect
) -> bool:
    """Tell whether the user expires when its plan, fired between two evaluations, has it expire."""
    if not dialect.plan_expires_after_firing or not plan.expire or not after.expire:
        return (after.expire or 0) == (plan.expire or 0)
    fired_at_seconds = after.expire - plan.expire
    return (
        before.seen_at.timestamp() - CLOCK_SLACK_SECONDS
        <= fired_at_seconds
        <= after.seen_at.timestamp() + CLOCK_SLACK_SECONDS
    )


def _may_be_wiped(account: Account, after: PanelSnapshot, reset_all: ResetAll | None) -> bool:
    """Tell whether a proved reset of all users explains what is shown of a user with traffic.

    A user who used more since the reset than in the whole period before it shows a larger number,
    and a log that was empty stays so. One whose traffic is the same to the byte was not reset.
    """
    before = account.sighting
    if reset_all is None or not _is_news(account, reset_all):
        return False
    if before.logged_bytes != 0 or after.logged_bytes != 0:
        return False
    rose_at = account.used_rose_at
    has_risen_since = rose_at is not None and rose_at > reset_all.after
    return has_risen_since or after.used_bytes > before.used_bytes


def _is_news(account: Account, reset_all: ResetAll | None) -> bool:
    """Tell whether a reset of all users was proved that the account has not taken into account."""
    known_at = account.reset_all_seen_at or account.period_started_at
    return reset_all is not None and reset_all.seen_at > known_at


def _detect_invisible(
    account: Account, after: PanelSnapshot, *, is_told: bool, reset_all: ResetAll | None
) -> tuple[Cause, datetime] | None:
    """Detect a reset of a user who had used nothing, which changes no number."""
    now = after.seen_at
    if is_told:
        return Cause.WEBHOOK, now
    if _is_news(account, reset_all):
        return Cause.RESET_ALL, now
    due = account.reset_due_at
    runs = {account.sighting.status, after.status} <= {Status.ACTIVE, Status.LIMITED}
    if due and runs and now >= due + CALENDAR_GRACE and account.used_when_due_bytes == 0:
        return Cause.CALENDAR, due
    return None
