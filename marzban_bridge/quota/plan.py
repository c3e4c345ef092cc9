"""Plans the next change of one user in the panel, as a value that can be shown or filtered.

Planning after applying yields nothing. Every write makes Marzban touch xray on every node and
notify people, so a limit is lowered only when that matters: when external traffic not yet published
reaches 10 MiB or 5 % of what is left, whichever is more, or when the quota is crossed. Raising it
never waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.users import NextPlan, PanelUser, Status, UserUpdate
from marzban_bridge.quota.account import (
    MIB,
    Account,
    Enforcement,
    Event,
    Restoration,
    is_same_limit,
)
from marzban_bridge.quota.balance import Desired, desired
from marzban_bridge.sizes import human_bytes

PUBLISH_STEP_BYTES = 10 * MIB
PUBLISH_STEP_SHARE = 0.05
LET_IN_GRACE = timedelta(seconds=60)
"""How long a user disabled by the bridge may stay active after it was activated in the panel. The
reset button has the same effect, and its webhook comes later, within the panel's batch of 30 s."""
MAX_FIRE_ATTEMPTS = 3
"""How often a next plan is asked to fire; after that the used-up quota is enforced."""


class ChangeKind(StrEnum):
    """The purpose of a change."""

    PUBLISH = "publish"
    LIMIT = "limit"
    RELEASE = "release"
    DISABLE = "disable"
    ENABLE = "enable"
    RESTORE = "restore"
    FIRE_NEXT_PLAN = "fire_next_plan"
    RESET = "reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change of one user in the panel.

    `update` is the write, without a next plan unless one is to be restored; None for the kinds
    that are not a write (`fire_next_plan`, `reset`).
    """

    kind: ChangeKind
    username: str
    reason: str
    update: UserUpdate | None = None
    text_of_admin: str | None = None
    """The admin's text to write into the note; None to keep the text there."""


def plan(
    account: Account,
    *,
    total_bytes: int,
    enforcement: Enforcement,
    now: datetime,
    dialect: Dialect,
    is_reseller_cut_off: bool = False,
) -> Change | None:
    """Return the next change the account needs, or None if the panel needs none.

    `is_reseller_cut_off`: the quota of the user's admin is used up and enforced. The user is
    disabled until it is not, if it would be let in otherwise; its next plan is not fired meanwhile.
    """
    if account.is_held:
        return None
    status = account.sighting.status
    is_ours = status is Status.DISABLED and account.is_disabled_by_us
    if account.restoration or account.lost_text is not None:
        target = desired(
            account,
            total_bytes=total_bytes,
            enforcement=enforcement,
            is_reseller_cut_off=is_reseller_cut_off,
        )
        return _restore(account, target)
    if status not in {Status.ACTIVE, Status.LIMITED} and not is_ours:
        return None
    target = desired(
        account,
        total_bytes=total_bytes,
        enforcement=enforcement,
        is_reseller_cut_off=is_reseller_cut_off,
    )
    due = account.reset_due_at
    if is_ours and due and now >= due:
        reason = "the periodic reset is due, and the panel skips users that are disabled"
        return Change(kind=ChangeKind.RESET, username=account.username, reason=reason)
    next_plan = None if is_reseller_cut_off else account.sighting.next_plan
    if target.balance.is_exhausted and next_plan and _can_fire(next_plan, account, dialect):
        reason = "the quota is used up and a next plan is waiting"
        return Change(kind=ChangeKind.FIRE_NEXT_PLAN, username=account.username, reason=reason)
    if is_ours:
        return None if target.is_disabled else _enable(account, target)
    if is_reseller_cut_off:
        return _cut_off(account, target, now=now)
    if target.is_disabled:
        is_let_in = account.let_in_at is not None and now < account.let_in_at + LET_IN_GRACE
        return None if is_let_in else _disable(account, target)
    return _publish(account, target)


def _can_fire(next_plan: NextPlan, account: Account, dialect: Dialect) -> bool:
    """Tell whether using up the quota fires the plan, and the panel can carry it out.

    A panel fails on a plan without a number for its limit, where 0 is unlimited. It adds the rest,
    also a negative one, to a plan whose flag says so: a limit below zero makes it answer 500
    wherever the user appears, and one of zero is unlimited although the rest alone was meant. How
    much a template gives is not known, so that no rest may be taken from it.
    """
    is_of_template = dialect.plan_may_be_of_template and next_plan.template_id is not None
    if not next_plan.fires_on_either or account.fire_attempts >= MAX_FIRE_ATTEMPTS:
        return False
    if next_plan.data_limit_bytes is None and not is_of_template:
        return False
    if not dialect.adds_remaining(next_plan):
        return True
    seen = account.sighting
    rest_bytes = (seen.data_limit_bytes or 0) - seen.used_bytes
    given_bytes = 1 if is_of_template else next_plan.data_limit_bytes or 0
    return given_bytes + rest_bytes > 0


def _restore(account: Account, target: Desired) -> Change:
    restoration = account.restoration or Restoration()
    status = restoration.status
    if status is None and account.sighting.status is Status.DISABLED and account.is_disabled_by_us:
        status = None if target.is_disabled else Status.ACTIVE
    is_text_alone = account.restoration is None
    may_limit = not is_text_alone or account.sighting.status in {Status.ACTIVE, Status.LIMITED}
    limit_bytes, lifts_limit = _limit_to_write(account, target) if may_limit else (None, False)
    update = UserUpdate(
        username=account.username,
        data_limit_bytes=limit_bytes,
        lifts_limit=lifts_limit,
        status=None if is_text_alone else status,
        on_hold_expire_duration=restoration.on_hold_expire_duration,
        next_plan=restoration.next_plan,
        drops_next_plan=restoration.drops_next_plan,
    )
    reason = "restore what a reset or a late write removed: " + ", ".join(
        what
        for what, is_lost in (
            ("status", restoration.status is not None),
            ("next plan", restoration.next_plan is not None),
            ("that there was no next plan", restoration.drops_next_plan),
            ("the admin's text in the note", account.lost_text is not None),
        )
        if is_lost
    )
    return Change(
        kind=ChangeKind.RESTORE,
        username=account.username,
        reason=reason,
        update=update,
        text_of_admin=account.lost_text,
    )


def _enable(account: Account, target: Desired) -> Change:
    reason = "a user disabled by the bridge has quota again"
    return _switch(account, target, ChangeKind.ENABLE, Status.ACTIVE, reason)


def _disable(account: Account, target: Desired) -> Change:
    reason = "the quota is used up, and too little of it on the panel's nodes to limit the user"
    return _switch(account, target, ChangeKind.DISABLE, Status.DISABLED, reason)


def _cut_off(account: Account, target: Desired, *, now: datetime) -> Change | None:
    """Return what disables a user whose reseller is cut off; None for one that is off already.

    The panel has cut off one that it shows limited, unless its limit has to be raised now.
    """
    if account.sighting.status is Status.LIMITED:
        raised = _publish(account, target)
        if raised is None or raised.kind is not ChangeKind.RELEASE:
            return None
    elif account.let_in_at is not None and now < account.let_in_at + LET_IN_GRACE:
        return None
    reason = f"the quota of its admin {account.admin} is used up"
    return _switch(account, target, ChangeKind.DISABLE, Status.DISABLED, reason)


def _switch(
    account: Account, target: Desired, kind: ChangeKind, status: Status, reason: str
) -> Change:
    limit_bytes, lifts_limit = _limit_to_write(account, target)
    update = UserUpdate(
        username=account.username,
        data_limit_bytes=limit_bytes,
        lifts_limit=lifts_limit,
        status=status,
    )
    return Change(kind=kind, username=account.username, reason=reason, update=update)


def _publish(account: Account, target: Desired) -> Change | None:
    shown_bytes = account.sighting.data_limit_bytes
    limit_bytes = target.data_limit_bytes
    if limit_bytes is None:
        return _lift(account)
    used_bytes = account.sighting.used_bytes
    update = UserUpdate(username=account.username, data_limit_bytes=limit_bytes)
    if shown_bytes is None:
        reason = "the quota is shared with another panel, and this one shows none"
        return Change(
            kind=ChangeKind.PUBLISH, username=account.username, reason=reason, update=update
        )
    if is_same_limit(shown_bytes, limit_bytes):
        if not account.needs_readd:
            return None
        reason = "a reset may have left a limited user out of xray; a write puts it back"
        return Change(
            kind=ChangeKind.RELEASE, username=account.username, reason=reason, update=update
        )
    if limit_bytes > shown_bytes:
        reason = "the panel's limit is below what the quota leaves"
        return Change(
            kind=ChangeKind.RELEASE, username=account.username, reason=reason, update=update
        )
    if used_bytes >= shown_bytes:
        return None
    if target.balance.is_exhausted:
        reason = "the quota is used up"
        return Change(
            kind=ChangeKind.LIMIT, username=account.username, reason=reason, update=update
        )
    left_bytes = limit_bytes - used_bytes
    step_bytes = max(PUBLISH_STEP_BYTES, int(left_bytes * PUBLISH_STEP_SHARE))
    if shown_bytes - limit_bytes < step_bytes:
        return None
    reason = (
        f"{human_bytes(shown_bytes - limit_bytes)} of external traffic are not yet in the panel's "
        "limit"
    )
    return Change(kind=ChangeKind.PUBLISH, username=account.username, reason=reason, update=update)


def _lift(account: Account) -> Change | None:
    """Return the change that removes a limit of the bridge after the quota became unlimited."""
    limit_bytes, lifts_limit = _instead_of_ours(account)
    if limit_bytes is None and not lifts_limit:
        return None
    return Change(
        kind=ChangeKind.RELEASE,
        username=account.username,
        reason="the quota is unlimited, and the limit in the panel was published by the bridge",
        update=UserUpdate(
            username=account.username, data_limit_bytes=limit_bytes, lifts_limit=lifts_limit
        ),
    )


def _instead_of_ours(account: Account) -> tuple[int | None, bool]:
    """Return the limit to write, or that it is to be removed, if the quota is unlimited.

    Neither if the panel shows a limit that is not the bridge's. A limit that an admin had set on
    this panel before the quota was shared is restored.
    """
    shown_bytes, published_bytes = account.sighting.data_limit_bytes, account.published_bytes
    if None in {shown_bytes, published_bytes} or not is_same_limit(shown_bytes, published_bytes):
        return None, False
    own_bytes = account.superseded.data_limit_bytes if account.superseded else None
    return own_bytes, own_bytes is None


def _limit_to_write(account: Account, target: Desired) -> tuple[int | None, bool]:
    """Return the limit to send along with another field, or that it is to be removed.

    Neither if the panel's limit is right.
    """
    if target.data_limit_bytes is None:
        return _instead_of_ours(account)
    if is_same_limit(target.data_limit_bytes, account.sighting.data_limit_bytes):
        return None, False
    return target.data_limit_bytes, False


def releasing(account: Account, user: PanelUser, *, text_of_admin: str) -> Change | None:
    """Return what gives a user back its quota, its status and its note; None for nothing."""
    if account.lost_text is not None:
        text_of_admin = account.lost_text
    quota_bytes, lifts_limit = account.quota_bytes, False
    if quota_bytes is None:
        quota_bytes, lifts_limit = _instead_of_ours(account)
    is_limit_ours = lifts_limit or quota_bytes not in {None, user.data_limit_bytes}
    has_line = text_of_admin != (user.note or "")
    if not is_limit_ours and not account.is_disabled_by_us and not has_line:
        return None
    update = UserUpdate(
        username=user.username,
        data_limit_bytes=quota_bytes if is_limit_ours else None,
        lifts_limit=lifts_limit,
        status=Status.ACTIVE if account.is_disabled_by_us else None,
        note=text_of_admin if has_line else None,
    )
    reason = "the bridge lets go of the user"
    return Change(kind=ChangeKind.RELEASE, username=user.username, reason=reason, update=update)


def event_of(change: Change, before: PanelUser, after: PanelUser) -> Event:
    """Return the event for a change that was carried out."""
    kinds = {
        ChangeKind.LIMIT: "limited",
        ChangeKind.DISABLE: "limited",
        ChangeKind.RELEASE: "released",
        ChangeKind.ENABLE: "released",
        ChangeKind.RESTORE: "restored",
    }
    return Event(
        kind=kinds.get(change.kind, "published"),
        text=change.reason,
        before=_shown(before),
        after=_shown(after),
    )


def limit_text(limit_bytes: int | None) -> str:
    """Return the end of an event's text for a user with this limit."""
    return f"data limit {'unlimited' if limit_bytes is None else limit_bytes}"


def _shown(user: PanelUser) -> str:
    return f"{user.status}, {limit_text(user.data_limit_bytes)}"
