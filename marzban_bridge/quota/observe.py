"""Updates a user's account from what the panel and the ledger show of the user.

Answers three questions: is it still the same user, was there a reset, did an admin change the
quota. Changes nothing in the panel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.users import PanelUser, Status, is_same_creation
from marzban_bridge.quota.account import (
    Account,
    Event,
    PanelSnapshot,
    Restoration,
    snapshot_of,
    with_values,
)
from marzban_bridge.quota.adoption import readopt
from marzban_bridge.quota.balance import balance
from marzban_bridge.quota.resets.detection import (
    Fall,
    ResetSign,
    detect,
    fall_of,
    has_webhook,
)
from marzban_bridge.quota.resets.echoes import expecting, webhooks_received
from marzban_bridge.quota.resets.next_plans import lost_plan, published_after, quota_of_fired_plan
from marzban_bridge.quota.resets.reset_all import ResetAll
from marzban_bridge.quota.resets.told_times import recent_totals, totals_at_reset
from marzban_bridge.quota.typed_limits import TypedLimit, quota_of_typed_limit
from marzban_bridge.quota.usage import Totals
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """An account after an evaluation, and what the evaluation found."""

    account: Account
    events: tuple[Event, ...] = ()
    reset: ResetSign | None = None
    is_past: bool = False
    """The panel shows an earlier state of the user; the account is unchanged."""


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
        opened = readopt(account, user, totals=totals, now=now, line=line)
        why = "the panel's user was deleted and created again: a new account begins"
        return Observation(
            account=keep_text(opened, text), events=(Event(kind="recreated", text=why),)
        )
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
        account, edits = _edited(
            account,
            user,
            line,
            total_bytes=total_bytes,
            now=now,
            dialect=dialect,
            typed_limit=typed_limit,
        )
        events += edits
    account, let_in_events = let_in(account, user, now=now, was_reset=sign is not None)
    events += let_in_events
    account = with_values(account, open_writes=still_open(account.open_writes, seen_at=now))
    account = with_edits_seen(keep_text(account, text))
    account = _as_shown(
        account, user, seen, line, totals=totals, sign=sign, reset_all=reset_all, dialect=dialect
    )
    return Observation(account=account, events=(*events, *changes), reset=sign)


def _edited(
    account: Account,
    user: PanelUser,
    line: NoteLine | None,
    *,
    total_bytes: int,
    now: datetime,
    dialect: Dialect,
    typed_limit: TypedLimit,
) -> tuple[Account, list[Event]]:
    """Return the account with the quota that an admin meant by a changed data limit, if any."""
    unedited = follow_unedited(account, user, dialect=dialect)
    if unedited is not None:
        account, event = unedited
    else:
        account, event = take_limit(account, user, line, now=now, dialect=dialect)
        account, event = _as_meant(account, event, meaning=typed_limit, total_bytes=total_bytes)
    return account, [event] if event else []


def _as_shown(
    account: Account,
    user: PanelUser,
    seen: PanelSnapshot,
    line: NoteLine | None,
    *,
    totals: Totals,
    sign: ResetSign | None,
    reset_all: ResetAll | None,
    dialect: Dialect,
) -> Account:
    """Return the account with what panel and ledger show now, for the next evaluation."""
    before = account.sighting
    if sign or seen.next_plan != before.next_plan:
        account = replace(account, fire_attempts=0)
    if not sign and seen.next_plan is None and before.next_plan:
        account = replace(account, dropped_plan=before.next_plan, dropped_plan_at=seen.seen_at)
    has_risen = seen.used_bytes > before.used_bytes
    taken_reset_all = reset_all.seen_at if reset_all else None
    if sign and sign.wiped_log:
        taken_reset_all = seen.seen_at
    return replace(
        account,
        username=user.username,
        created_at=user.created_at,
        admin=user.admin,
        sighting=seen,
        seen_line=seen_line(user, line),
        seen_total_bytes=totals.billed_bytes,
        seen_raw_bytes=totals.raw_bytes,
        seen_seqs=totals.seqs,
        recent_totals=recent_totals(account, seen, totals, dialect=dialect),
        used_rose_at=seen.seen_at if has_risen else account.used_rose_at,
        reset_all_seen_at=max(
            filter(None, (account.reset_all_seen_at, taken_reset_all)), default=None
        ),
    )


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
