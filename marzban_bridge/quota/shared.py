"""One quota for the users of one name on several panels; decided from values alone.

All usage of the name is charged: reported bytes, and those that each panel counted. For one panel,
usage on the others is external traffic. So its account differs in two points only: its baseline is
derived from the beginning of the shared period, and its quota is the shared one.

- The bytes a panel counted since quotas are shared are its *lifetime bytes*: those it shows now,
  and those it showed before its resets. They never decrease, like the ledger's totals.
- The shared period begins at a sum of all totals. An account's baseline is that sum minus the bytes
  its own panel had counted before the panel's period, so that panel and external usage together
  are the usage since, on all panels.
- The quota is the data limit of the first panel, in the configured order, that has the user; later
  the limit that an admin set last on any of them.
- A reset on one panel begins a period, and is requested on the others.
- A user recreated on one panel continues in the period. Once all users of the name were recreated,
  a new period begins at the first recreation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from marzban_bridge.panels.users import is_same_creation
from marzban_bridge.quota.account import (
    Account,
    Event,
    PanelSnapshot,
    ResetRequest,
    Superseded,
    is_same_limit,
)
from marzban_bridge.quota.resets.schedule import CALENDAR_GRACE
from marzban_bridge.quota.shared_quota import Anew, SharedQuota
from marzban_bridge.quota.usage import NOTHING, Totals


def spent_between(before: PanelSnapshot, after: PanelSnapshot) -> int:
    """Return the used bytes that a reset between the two snapshots moved to the log or erased."""
    logged_more_bytes = after.logged_bytes - before.logged_bytes
    if logged_more_bytes > 0:
        return logged_more_bytes
    is_reset = after.used_bytes < before.used_bytes or logged_more_bytes < 0
    return before.used_bytes if is_reset else 0


def fold(
    before: Account | None,
    after: Account,
    shared: SharedQuota | None,
    *,
    panel: str,
    order: Sequence[str],
    was_reset: bool,
    others: Mapping[str, Account],
    had_user: bool = False,
) -> tuple[Account, SharedQuota, tuple[Event, ...]]:
    """Update the shared quota from an evaluated account of one panel.

    `before`: the stored account. `was_reset`: whether the evaluation detected a reset. `others`:
    the accounts of the name on other panels, in order. `had_user`: whether the panel had an earlier
    user of the name, which was deleted.
    """
    if before is not None and before.is_held:
        return after, shared or _begin(after, panel), ()
    is_same = before is not None and is_same_creation(before.created_at, after.created_at)
    spent_bytes = 0
    if before is not None:
        spent_bytes = before.spent_before_bytes + (
            spent_between(before.sighting, after.sighting)
            if is_same
            else before.sighting.used_bytes
        )
    after = replace(after, spent_before_bytes=spent_bytes)
    is_anew = shared is not None and (had_user or (before is not None and not is_same))
    shared = shared or _begin(after, panel)
    if shared.start is None:
        shared = begun_as(others, shared)
    if shared.start is None:
        shared = replace(shared, start=_start_of(after), corrected_seqs=after.corrected_seqs)
    if before is None or before.shared_period is None or not is_same:
        is_first = all(it.generation <= shared.generation for it in others.values())
        if is_anew and (is_first or shared.anew is None):
            shared = replace(shared, anew=_anew(before, after))
        after = replace(
            after,
            generation=shared.generation + int(is_anew),
            joined_limit_bytes=after.quota_bytes,
        )
        after, shared = _join(after, shared, panel=panel, order=order)
        shared = renewed(shared, _in_order({**others, panel: after}, order))
    elif after.quota_bytes != before.quota_bytes:
        shared = replace(
            shared,
            quota_bytes=after.quota_bytes,
            panel=panel,
            version=shared.version + 1,
            is_edited=True,
            edited_generation=after.generation,
        )
        after = replace(after, shared_version=shared.version)
    if before is not None and was_reset and is_same:
        after, shared = _reset(before, after, shared)
    after, events = take_quota(after, shared)
    return in_step(after, shared), shared, events


def completed(
    before: Account, after: Account, shared: SharedQuota, *, period: int | None
) -> tuple[Account, SharedQuota]:
    """Update the shared quota from a finished reset: a requested one, or one that follows."""
    spent_bytes = before.spent_before_bytes + spent_between(before.sighting, after.sighting)
    after = replace(after, spent_before_bytes=spent_bytes)
    if period is None:
        in_period = replace(after, shared_period=shared.period)
        after, shared = _reset(before, in_period, shared)
    else:
        after = replace(after, shared_period=period)
    return in_step(after, shared), shared


def period_of(request: ResetRequest, shared: SharedQuota) -> int | None:
    """Return the shared period that a finished reset belongs to; None if it begins one."""
    asked_in = request.requested_in_period
    if request.shared_period is None and asked_in is not None and asked_in < shared.period:
        return shared.period
    return request.shared_period


def is_behind(account: Account, shared: SharedQuota | None) -> bool:
    """Tell whether a period that began on another panel has still to begin on this one."""
    return (
        shared is not None
        and account.shared_period is not None
        and account.shared_period < shared.period
    )


def depart(shared: SharedQuota, account: Account) -> SharedQuota:
    """Add the usage of a deleted user to the sum of departed users."""
    return replace(shared, departed_bytes=shared.departed_bytes + account.lifetime_panel_bytes)


def rejoin(shared: SharedQuota, *, departed_bytes: int) -> SharedQuota:
    """Remove the usage of a returned user from the sum of departed users."""
    return replace(shared, departed_bytes=shared.departed_bytes - departed_bytes)


def put_back(shared: SharedQuota, before: SharedQuota) -> SharedQuota:
    """Restore the shared quota of before a recreation, when the earlier user is back.

    Usage since stays charged; a reset and an admin's edit since stay in effect.
    """
    if shared.period != before.period:
        return shared
    is_edited_since = shared.is_edited and (shared.quota_bytes, shared.panel) != (
        before.quota_bytes,
        before.panel,
    )
    kept = shared if is_edited_since else before
    return replace(
        before,
        quota_bytes=kept.quota_bytes,
        panel=kept.panel,
        is_edited=kept.is_edited,
        edited_generation=kept.edited_generation,
        version=shared.version + 1,
        departed_bytes=shared.departed_bytes,
    )


def rejoin_in_new_period(shared: SharedQuota, account: Account) -> SharedQuota:
    """Add the usage of a user's own period, when the user begins to share the quota."""
    if shared.start is None:
        return shared
    start = replace(
        shared.start,
        billed_bytes=shared.start.billed_bytes
        - (account.seen_total_bytes - account.baseline_bytes),
        raw_bytes=shared.start.raw_bytes - (account.seen_raw_bytes - account.raw_baseline_bytes),
    )
    return replace(shared, start=start)


def forgive(shared: SharedQuota, account: Account, lost_bytes: int, *, panel: str) -> SharedQuota:
    """Move the beginning of the period past bytes that an account's panel had counted and lost.

    Of an account that has still to follow a reset they are from before the period, and not in it.
    """
    if account.shared_period != shared.period:
        return shared
    starts = dict(shared.starts)
    if begun := starts.get(panel):
        starts[panel] = _later(begun, lost_bytes)
    start = _later(shared.start or _start_of(account), lost_bytes)
    return replace(shared, start=start, starts=starts)


def _later(start: Totals, more_bytes: int) -> Totals:
    return replace(
        start,
        billed_bytes=start.billed_bytes + more_bytes,
        raw_bytes=start.raw_bytes + more_bytes,
    )


def _begin(account: Account, panel: str) -> SharedQuota:
    return SharedQuota(quota_bytes=account.quota_bytes, panel=panel)


def _start_of(account: Account) -> Totals:
    """Derive the beginning of the shared period from an account in it."""
    return Totals(
        billed_bytes=account.baseline_bytes + account.spent_before_bytes,
        raw_bytes=account.raw_baseline_bytes + account.spent_before_bytes,
        seqs=account.period_seqs,
    )


def begun_as(members: Mapping[str, Account], shared: SharedQuota) -> SharedQuota:
    """Take the beginning of the period from the first account in it; None without one."""
    source = next((it for it in members.values() if it.shared_period == shared.period), None)
    if source is None:
        return replace(shared, start=None)
    return replace(shared, start=_start_of(source), corrected_seqs=source.corrected_seqs)


def _join(
    account: Account, shared: SharedQuota, *, panel: str, order: Sequence[str]
) -> tuple[Account, SharedQuota]:
    """Add an account to the quota; its limit is the quota if its panel is first in the order."""
    place = {name: number for number, name in enumerate(order)}
    goes_first = place.get(panel, len(place)) <= place.get(shared.panel, len(place))
    version = 0
    if goes_first and not shared.is_edited:
        if panel != shared.panel or account.quota_bytes != shared.quota_bytes:
            version = shared.version + 1
            shared = replace(shared, quota_bytes=account.quota_bytes, panel=panel, version=version)
        version = shared.version
    return replace(account, shared_period=shared.period, shared_version=version), shared


def is_same_reset(before: Account, shared: SharedQuota, *, total_bytes: int, at: datetime) -> bool:
    """Tell whether a reset of a user that has still to follow a period counts as following it.

    `total_bytes`: the total of the account at that time. It is a separate reset if bytes were used
    since the period began, unless the panel's periodic reset was due by then.
    """
    if shared.began_at is None:
        return True
    due = before.reset_due_at
    if due is not None and due <= min(at, shared.began_at + CALENDAR_GRACE):
        return True
    return total_bytes + before.lifetime_panel_bytes <= shared.known_bytes


def _reset(before: Account, account: Account, shared: SharedQuota) -> tuple[Account, SharedQuota]:
    """Begin a period, unless the reset follows one that began on another panel.

    If no bytes were used in the current period, it continues on all panels.
    """
    start, at, total_bytes = _start_of(account), account.sighting.seen_at, account.seen_total_bytes
    if is_behind(account, shared):
        if is_same_reset(before, shared, total_bytes=total_bytes, at=at):
            return replace(account, shared_period=shared.period), shared
    elif shared.start and start.billed_bytes <= shared.start.billed_bytes:
        return account, shared
    shared = replace(
        shared,
        period=shared.period + 1,
        start=start,
        corrected_seqs=account.corrected_seqs,
        began_at=at,
        known_bytes=total_bytes + account.lifetime_panel_bytes,
    )
    return replace(account, shared_period=shared.period), shared


def _anew(before: Account | None, after: Account) -> Anew:
    """Return the beginning of a period for a recreated user.

    It is the last evaluation of the earlier user if that is recent, else now.
    """
    if before is None:
        start = Totals(
            billed_bytes=after.seen_total_bytes,
            raw_bytes=after.seen_raw_bytes,
            seqs=after.seen_seqs,
        )
    else:
        start = _start_of(after)
    return Anew(start=start, corrected_seqs=after.corrected_seqs)


def _in_order(members: Mapping[str, Account], order: Sequence[str]) -> dict[str, Account]:
    place = {name: number for number, name in enumerate(order)}
    return {
        name: members[name] for name in sorted(members, key=lambda it: place.get(it, len(place)))
    }


def renewed(shared: SharedQuota, members: Mapping[str, Account]) -> SharedQuota:
    """Begin a new period once all users of the name were recreated; `members` are in order.

    Bytes from before the first recreation are not charged. The quota is the limit with which the
    first panel's user was created, or the one that an admin set on any of them since.
    """
    if shared.anew is None:
        return shared
    new = [each for each in members.values() if each.generation > shared.generation]
    if not new:
        return replace(shared, anew=None)
    if len(new) < len(members):
        return shared
    panel, first = next(iter(members.items()))
    begun = replace(shared, generation=shared.generation + 1, version=shared.version + 1, anew=None)
    if not shared.is_edited or shared.edited_generation <= shared.generation:
        begun = replace(begun, quota_bytes=first.joined_limit_bytes, panel=panel, is_edited=False)
    anew, start = shared.anew, shared.start
    if start is not None and start.billed_bytes >= anew.start.billed_bytes:
        return begun  # they were reset since
    return replace(begun, start=anew.start, corrected_seqs=anew.corrected_seqs, starts=anew.starts)


def take_quota(account: Account, shared: SharedQuota) -> tuple[Account, tuple[Event, ...]]:
    """Set the account's quota to the shared one; a different limit in the panel is ignored."""
    if account.shared_version == shared.version:
        return account, ()
    before_bytes, quota_bytes = account.quota_bytes, shared.quota_bytes
    shown_bytes = account.sighting.data_limit_bytes
    taken = replace(account, shared_version=shared.version, quota_bytes=quota_bytes)
    was_lifted = shared.is_edited and account.shared_version > 0
    if quota_bytes is None and shown_bytes is not None and _is_ours(account, was_lifted=was_lifted):
        own_bytes = None if was_lifted else before_bytes
        own = None if own_bytes is None else Superseded(data_limit_bytes=own_bytes)
        taken = replace(taken, published_bytes=shown_bytes, superseded=own)
    elif not is_same_limit(shown_bytes, quota_bytes):
        taken = replace(taken, superseded=Superseded(data_limit_bytes=shown_bytes))
    if is_same_limit(before_bytes, quota_bytes):
        return taken, ()
    event = Event(
        kind="quota_changed",
        text=f"the quota is shared with panel {shared.panel}, whose limit sets it",
        before="unlimited" if before_bytes is None else str(before_bytes),
        after="unlimited" if quota_bytes is None else str(quota_bytes),
    )
    return taken, (event,)


def _is_ours(account: Account, *, was_lifted: bool) -> bool:
    """Tell whether the limit that the panel shows was published by the bridge.

    If an admin removed the limit that was the shared quota, that quota counts as published. A limit
    that an admin set on this panel before it shared a quota does not.
    """
    shown_bytes, superseded = account.sighting.data_limit_bytes, account.superseded
    if superseded and is_same_limit(shown_bytes, superseded.data_limit_bytes):
        return False
    is_published = account.published_bytes is not None
    is_published &= is_same_limit(shown_bytes, account.published_bytes)
    return is_published or was_lifted


def in_step(account: Account, shared: SharedQuota) -> Account:
    """Set the baseline from the beginning of the shared period, if the account is in it."""
    start = shared.start or NOTHING
    if account.shared_period != shared.period or shared.start is None:
        return account
    return replace(
        account,
        baseline_bytes=start.billed_bytes - account.spent_before_bytes,
        raw_baseline_bytes=start.raw_bytes - account.spent_before_bytes,
        period_seqs=start.seqs,
        corrected_seqs=shared.corrected_seqs,
    )
