"""Updates a user's account from what the panel and the ledger show of the user.

Answers three questions: is it still the same user, was there a reset, did an admin change the
quota. Changes nothing in the panel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.users import PanelUser, Status, is_same_creation
from marzban_bridge.quota.account import (
    Account,
    Event,
    PanelSnapshot,
    Restoration,
    is_same_limit,
    snapshot_of,
    with_values,
)
from marzban_bridge.quota.balance import balance
from marzban_bridge.quota.resets.detection import (
    Fall,
    ResetSign,
    detect,
    fall_of,
    has_webhook,
    period_start,
)
from marzban_bridge.quota.resets.echoes import expecting, webhooks_received
from marzban_bridge.quota.resets.next_plans import lost_plan, published_after, quota_of_fired_plan
from marzban_bridge.quota.resets.reset_all import ResetAll
from marzban_bridge.quota.resets.told_times import recent_totals, totals_at_reset
from marzban_bridge.quota.typed_limits import TypedLimit, quota_of_typed_limit
from marzban_bridge.quota.usage import Totals, corrected_at
from marzban_bridge.quota.writes.edit_times import follow_unedited, with_edits_seen
from marzban_bridge.quota.writes.late_landings import (
    keep_text,
    put_back,
    resets_still_open,
    without_late_reset,
)
from marzban_bridge.quota.writes.note_line import NoteLine
from marzban_bridge.quota.writes.open_writes import still_open
from marzban_bridge.quota.writes.own_writes import (
    quota_event,
    recognise_status,
    seen_line,
    take_limit,
    with_previous_write,
)
from marzban_bridge.quota.writes.status_changes import let_in, panel_events
from marzban_bridge.sizes import human_bytes

RECREATION_GAP = timedelta(minutes=10)
"""Where a user was created longer than this after the last evaluation of the earlier user of its
name, its period begins at the evaluation that finds it: most of what was reported in between is the
earlier user's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """An account after an evaluation, and what the evaluation found."""

    account: Account
    events: tuple[Event, ...] = ()
    reset: ResetSign | None = None
    is_past: bool = False
    """The panel shows an earlier state of the user; the account is unchanged."""


def adopt(
    user: PanelUser,
    *,
    baseline: Totals,
    totals: Totals,
    now: datetime,
    line: NoteLine | None = None,
) -> Account:
    """Return the account of a user that has none yet; the quota is the panel's data limit.

    Where this store wrote that limit, the quota is the one in the note's line.
    """
    is_published = (
        line is not None
        and line.limit_bytes is not None
        and is_same_limit(line.limit_bytes, user.data_limit_bytes)
    )
    started_at = period_start(created_at=user.created_at, strategy=user.reset_strategy, now=now)
    return Account(
        username=user.username,
        created_at=user.created_at,
        admin=user.admin,
        quota_bytes=line.quota_bytes if line and is_published else user.data_limit_bytes,
        published_bytes=user.data_limit_bytes if is_published else None,
        write_number=line.number if line else 0,
        baseline_bytes=baseline.billed_bytes,
        admin_baseline_bytes=baseline.billed_bytes,
        seen_total_bytes=totals.billed_bytes,
        raw_baseline_bytes=baseline.raw_bytes,
        seen_raw_bytes=totals.raw_bytes,
        period_started_at=started_at,
        sighting=snapshot_of(user, seen_at=now),
        reset_all_seen_at=now,
        resets_known_until=now,
        period_seqs=baseline.seqs,
        admin_seqs=baseline.seqs,
        seen_seqs=totals.seqs,
        corrected_seqs=corrected_at(baseline, totals),
    )


def succeeding(opened: Account, before: Account, *, now: datetime) -> Account:
    """Return a new account with the writes to the earlier user of the name that may still land."""
    return replace(
        opened,
        open_writes=still_open(before.open_writes, seen_at=now),
        write_number=max(before.write_number, opened.write_number),
    )


def observe(
    account: Account,
    user: PanelUser,
    *,
    totals: Totals,
    now: datetime,
    dialect: Dialect,
    was_announced: bool = False,
    is_announced_again: bool = False,
    told_at: datetime | None = None,
    reset_all: ResetAll | None = None,
    keeps_next_plan: bool = True,
    line: NoteLine | None = None,
    text: str | None = None,
    typed_limit: TypedLimit = TypedLimit.QUOTA,
) -> Observation:
    """Return the account after one evaluation: `user` as the panel shows it, `totals` at that time.

    Idempotent: a second evaluation of the same state changes nothing. A user re-created under the
    same name gets a new account, whose period begins at the totals of the last evaluation of the
    earlier user, if that was shortly before the creation. Where a total is below the one seen
    before, the account is held: it does not change until `rebase`. Where the panel shows an earlier
    state of the user, the account does not change either. `line` is this store's line in the user's
    note and `text` the rest of the note, both None where `BRIDGE_NOTES` is off; `typed_limit` says
    what a limit means that an admin typed.
    """
    total_bytes = totals.billed_bytes
    if not is_same_creation(user.created_at, account.created_at):
        baseline = _total_at_creation(account, user, totals=totals)
        opened = adopt(user, baseline=baseline, totals=totals, now=now, line=line)
        opened = succeeding(opened, account, now=now)
        # Corrections since that beginning may be known to the earlier account alone.
        opened = replace(keep_text(opened, text), corrected_seqs=baseline.seqs or ())
        text = "the panel's user was deleted and created again: a new account begins"
        return Observation(account=opened, events=(Event(kind="recreated", text=text),))
    seen = snapshot_of(user, seen_at=now)
    if left := _left_alone(account, seen, total_bytes=total_bytes, line=line, dialect=dialect):
        return left
    changes = panel_events(account, user)
    account = recognise_status(with_previous_write(account, now=now), seen, line, dialect=dialect)
    due = account.reset_due_at
    if due and now >= due and account.used_when_due_bytes is None:
        account = replace(account, used_when_due_bytes=account.sighting.used_bytes)

    account = resets_still_open(put_back(account, seen, line, text), now=now)
    found = detect(
        account,
        seen,
        dialect=dialect,
        was_announced=was_announced,
        is_announced_again=is_announced_again,
        told_at=told_at,
        reset_all=reset_all,
    )
    heard = webhooks_received(was_announced=was_announced, is_announced_again=is_announced_again)
    more = 1 if found and has_webhook(account, found, dialect) else 0
    account = expecting(account, more=more, heard=heard, at=now)
    account, sign, events = without_late_reset(account, found, seen)
    if sign:
        account, reset_events = _reset(
            account,
            seen,
            sign,
            totals=totals_at_reset(account, sign, told_at, totals=totals, dialect=dialect),
            keeps_next_plan=keeps_next_plan,
            dialect=dialect,
        )
        events += reset_events
    if not (sign and sign.fired_plan):
        unedited = follow_unedited(account, user, dialect=dialect)
        if unedited is not None:
            account, quota_event = unedited
        else:
            account, quota_event = take_limit(account, user, line, now=now, dialect=dialect)
            account, quota_event = _as_meant(
                account, quota_event, meaning=typed_limit, total_bytes=total_bytes
            )
        events += [quota_event] if quota_event else []
    account, let_in_events = let_in(account, user, now=now, was_reset=sign is not None)
    events += let_in_events
    account = with_values(account, open_writes=still_open(account.open_writes, seen_at=now))
    account = with_edits_seen(keep_text(account, text))
    if sign or seen.next_plan != account.sighting.next_plan:
        account = replace(account, fire_attempts=0)
    if not sign and seen.next_plan is None and account.sighting.next_plan:
        plan = account.sighting.next_plan
        account = replace(account, dropped_plan=plan, dropped_plan_at=now)
    took_reset_all = reset_all.seen_at if reset_all else None
    if sign and sign.wiped_log:
        took_reset_all = now
    has_risen = seen.used_bytes > account.sighting.used_bytes
    account = replace(
        account,
        username=user.username,
        created_at=user.created_at,
        admin=user.admin,
        sighting=seen,
        seen_line=seen_line(user, line),
        seen_total_bytes=total_bytes,
        seen_raw_bytes=totals.raw_bytes,
        seen_seqs=totals.seqs,
        recent_totals=recent_totals(account, seen, totals, dialect=dialect),
        used_rose_at=now if has_risen else account.used_rose_at,
        reset_all_seen_at=max(
            filter(None, (account.reset_all_seen_at, took_reset_all)), default=None
        ),
    )
    return Observation(account=account, events=(*events, *changes), reset=sign)


def _as_meant(
    account: Account, typed: Event | None, *, meaning: TypedLimit, total_bytes: int
) -> tuple[Account, Event | None]:
    """Derive the quota from the limit that an admin typed, if `typed` is such an event."""
    if typed is None or typed.kind != "quota_changed":
        return account, typed
    typed_bytes = account.quota_bytes
    external_bytes = balance(account, total_bytes=total_bytes).external_bytes
    quota_bytes = quota_of_typed_limit(typed_bytes, external_bytes=external_bytes, meaning=meaning)
    if quota_bytes == typed_bytes:
        return account, typed
    text = (
        f"{typed.text}; it is what the user may still use (BRIDGE_TYPED_LIMIT_MEANS), so the "
        f"{human_bytes(external_bytes)} of external traffic of the period are added to it"
    )
    account = replace(account, quota_bytes=quota_bytes, published_bytes=typed_bytes)
    return account, replace(typed, text=text, after=str(quota_bytes))


def _left_alone(
    account: Account,
    seen: PanelSnapshot,
    *,
    total_bytes: int,
    line: NoteLine | None,
    dialect: Dialect,
) -> Observation | None:
    """Return the unchanged account where ledger, store or panel are in an earlier state."""
    if held := _hold(account, total_bytes=total_bytes, line=line):
        return held
    is_fall = fall_of(account.sighting, seen) is Fall.PAST
    is_past = is_fall and detect(account, seen, dialect=dialect) is None
    return Observation(account=account, is_past=True) if is_past else None


def _total_at_creation(account: Account, user: PanelUser, *, totals: Totals) -> Totals:
    """Return the totals at which the period of a re-created user begins.

    Those of the last evaluation of the earlier user, so that what was used between the creation
    and this evaluation counts. Where that evaluation was long before the creation (or after it, by
    another clock), most of what was reported since is the earlier user's: the period begins now.
    """
    created_at, seen_at = user.created_at, account.sighting.seen_at
    if created_at is None or abs(created_at - seen_at) > RECREATION_GAP:
        return totals
    return Totals(
        billed_bytes=min(account.seen_total_bytes, totals.billed_bytes),
        raw_bytes=min(account.seen_raw_bytes, totals.raw_bytes),
        seqs=account.seen_seqs,
    )


def hold(account: Account, *, seen: Totals) -> tuple[Account, Event]:
    """Hold an account whose totals were read from reports that the ledger has lost since."""
    text = (
        f"the ledger has lost reports of {account.username} that were counted, as after a restored "
        "backup; the bridge does not change the user until `marzban-bridge rebase`"
    )
    held = replace(
        account,
        is_held=True,
        seen_total_bytes=max(seen.billed_bytes, account.seen_total_bytes),
        seen_raw_bytes=max(seen.raw_bytes, account.seen_raw_bytes),
    )
    return held, Event(kind="conflict", text=text)


def _hold(account: Account, *, total_bytes: int, line: NoteLine | None) -> Observation | None:
    """Return the unchanged account where it is held, or has to be; None where it is neither."""
    if account.is_held:
        return Observation(account=account)
    if total_bytes < account.seen_total_bytes:
        text = (
            f"the ledger's total of {account.username} fell by "
            f"{human_bytes(account.seen_total_bytes - total_bytes)}, as after a restored backup; "
            "the bridge does not change the user until `marzban-bridge rebase`"
        )
    elif line is not None and line.number > account.write_number:
        text = (
            f"the note of {account.username} in the panel has write {line.number} of this store, "
            f"which knows of {account.write_number}: the store is older than the panel, as after a "
            "restored backup; the bridge does not change the user until "
            "`marzban-bridge rebase --restored`"
        )
    else:
        return None
    held = replace(account, is_held=True)
    return Observation(account=held, events=(Event(kind="conflict", text=text),))


def _reset(
    account: Account,
    seen: PanelSnapshot,
    sign: ResetSign,
    *,
    totals: Totals,
    keeps_next_plan: bool,
    dialect: Dialect,
) -> tuple[Account, list[Event]]:
    before = account.sighting
    total_bytes = totals.billed_bytes
    old_balance = balance(account, total_bytes=total_bytes)
    quota_bytes = account.quota_bytes
    if sign.fired_plan:
        quota_bytes = quota_of_fired_plan(
            account, seen, sign, total_bytes=total_bytes, dialect=dialect
        )
    restoration = account.restoration
    events = [
        Event(
            kind="reset",
            text=(
                f"{sign.cause}: {human_bytes(old_balance.external_bytes)} of external traffic no "
                "longer count"
            ),
            before=str(old_balance.used_bytes),
            after=str(seen.used_bytes),
        )
    ]
    plan = None
    if sign.fired_plan is None:
        has_plan = seen.next_plan is not None
        plan = lost_plan(account, has_plan=has_plan, at=seen.seen_at)
    if plan and keeps_next_plan and restoration is None:
        restoration = Restoration(next_plan=plan)
        events.append(
            Event(kind="restored", text="the reset dropped the next plan; it is put back")
        )
    if quota_bytes != account.quota_bytes:
        text = "the next plan's limit is the quota"
        events.append(quota_event(account.quota_bytes, quota_bytes, text))
    # Firing a plan may make a disabled user active without adding it to xray; other resets add it.
    out_of_xray = {Status.LIMITED} if dialect.reset_leaves_off_nodes else set()
    if sign.fired_plan and dialect.firing_leaves_off_nodes:
        out_of_xray.add(Status.DISABLED)
    account = replace(
        account,
        quota_bytes=quota_bytes,
        baseline_bytes=total_bytes,
        raw_baseline_bytes=totals.raw_bytes,
        period_seqs=totals.seqs,
        corrected_seqs=totals.seqs or (),
        period_started_at=sign.began_at,
        resets_known_until=seen.seen_at,
        used_when_due_bytes=None,
        published_bytes=published_after(sign, seen, quota_bytes, account.published_bytes),
        needs_readd=before.status in out_of_xray,
        dropped_plan=None,
        dropped_plan_at=None,
        restoration=restoration,
    )
    return account, events
