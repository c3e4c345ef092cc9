"""Accepts a panel as it is, after its database was restored, moved or emptied.

Quota, baseline and whether the bridge disabled a user are taken from the store, which is newer than
a backup of the panel; used traffic, status, expiry and existence are taken from the panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from marzban_bridge.panels.users import PanelUser, Status
from marzban_bridge.quota.account import (
    FLOOR_BYTES,
    Account,
    Event,
    PanelSnapshot,
    Superseded,
    is_same_limit,
    snapshot_of,
)
from marzban_bridge.quota.adoption import adopt
from marzban_bridge.quota.trust.panel_suspension import Reading, Shown
from marzban_bridge.quota.usage import Totals
from marzban_bridge.quota.writes.note_line import NoteLine
from marzban_bridge.quota.writes.own_writes import seen_line

MOST = 1 / 2


class Fate(StrEnum):
    """How accepting the panel changes an account."""

    KEPT = "kept as it is"
    IN_STEP = "quota, baseline and who disabled it are the store's, the rest is the panel's"
    PUT_ASIDE = "the panel has no such user: the account is put aside until the user returns"
    REPLACED = "a different user of the name: a new account gets the panel's limit as its quota"


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """The decision for one account; not stored yet."""

    before: Account
    fate: Fate
    after: Account | None
    """The account to store; None where it is put aside."""
    lost_bytes: int = 0
    """Bytes that the panel had counted and does not show any more: they are not charged."""


def keeps_recreated(readings: Sequence[Reading]) -> bool:
    """Tell whether recreated users keep their accounts: they do if most users were recreated."""
    there = [each for each in readings if each.shown is not Shown.GONE]
    recreated = sum(each.shown is Shown.RECREATED for each in there)
    return recreated > len(there) * MOST


def accept(
    reading: Reading, *, line: NoteLine | None, totals: Totals, keeps_recreated: bool
) -> Acceptance:
    """Decide what becomes of an account whose user the panel shows, or shows no more.

    `line` is this store's in the user's note; `totals` are the ledger's of now.
    """
    account, user, now = reading.account, reading.user, reading.read_at
    if user is None:
        return Acceptance(before=account, fate=Fate.PUT_ASIDE, after=None)
    if reading.shown is Shown.RECREATED and not keeps_recreated:
        opened = adopt(user, baseline=totals, totals=totals, now=now, line=line)
        # What a shared quota has of the user before counts on in it.
        spent_bytes = 0 if account.shared_period is None else account.lifetime_panel_bytes
        opened = replace(opened, write_number=account.write_number, spent_before_bytes=spent_bytes)
        return Acceptance(before=account, fate=Fate.REPLACED, after=opened)
    if reading.shown is Shown.AS_BEFORE:
        return Acceptance(before=account, fate=Fate.KEPT, after=account)
    lost_bytes = max(0, account.sighting.used_bytes - user.used_bytes)
    after = _in_step(account, user, line=line, lost_bytes=lost_bytes, now=now)
    return Acceptance(before=account, fate=Fate.IN_STEP, after=after, lost_bytes=lost_bytes)


def _in_step(
    account: Account,
    user: PanelUser,
    *,
    line: NoteLine | None,
    lost_bytes: int,
    now: datetime,
) -> Account:
    seen = snapshot_of(user, seen_at=now)
    limit_bytes, before_bytes = seen.data_limit_bytes, account.sighting.data_limit_bytes
    is_ours = is_same_limit(limit_bytes, account.quota_bytes)
    # Where the quota is unlimited by now, a limit of the past is to be taken away, as one of ours.
    is_lifted = account.quota_bytes is None and not is_same_limit(limit_bytes, before_bytes)
    published_bytes = limit_bytes if is_lifted else account.published_bytes
    is_nobodys = not is_ours and not is_lifted
    return replace(
        account,
        username=user.username,
        created_at=user.created_at,
        admin=user.admin,
        sighting=seen,
        published_bytes=None if is_ours else published_bytes,
        superseded=Superseded(data_limit_bytes=limit_bytes) if is_nobodys else None,
        seen_line=seen_line(user, line),
        is_disabled_by_us=_is_disabled_by_us(account, seen, line),
        let_in_at=None,
        needs_readd=seen.status is Status.LIMITED,
        used_when_due_bytes=None,
        used_rose_at=None,
        reset_all_seen_at=now,
        resets_known_until=now,
        recent_totals=(),
        fire_attempts=0,
        dropped_plan=None,
        dropped_plan_at=None,
        # Lifetime bytes never fall; where a quota is shared, its period begins later by as much.
        spent_before_bytes=account.spent_before_bytes + lost_bytes,
    )


def _is_disabled_by_us(account: Account, seen: PanelSnapshot, line: NoteLine | None) -> bool:
    """Tell whether a disabled user was disabled by the bridge, by its account or the note line."""
    if seen.status is not Status.DISABLED:
        return False
    if account.is_disabled_by_us or account.sighting.status is Status.DISABLED:
        return account.is_disabled_by_us
    if line is not None:
        return line.is_disabled and is_same_limit(line.limit_bytes, seen.data_limit_bytes)
    limit_bytes = seen.data_limit_bytes
    return limit_bytes is not None and limit_bytes in {FLOOR_BYTES, *account.remembered_limits}


def event_of(accepted: Acceptance, *, actor: str) -> Event:
    """Return the event for it."""
    after = accepted.after
    return Event(
        kind="deleted" if after is None else "rebased",
        text=f"the panel is accepted as it is: {accepted.fate}",
        actor=actor,
        before=_shown(accepted.before),
        after=None if after is None else _shown(after),
    )


def _shown(account: Account) -> str:
    quota = "unlimited" if account.quota_bytes is None else str(account.quota_bytes)
    seen = account.sighting
    return (
        f"quota {quota}, baseline {account.baseline_bytes}, {seen.used_bytes} used in the panel, "
        f"{seen.status}"
    )
