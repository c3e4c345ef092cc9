"""A reset requested from the bridge: how the request begins, and the account after it.

The request is stored before the panel is called, so that it is continued after a crash, with the
total of the time of the request.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.users import PanelUser, Status
from marzban_bridge.quota.account import Account, Event, ResetRequest, Restoration, snapshot_of
from marzban_bridge.quota.balance import balance
from marzban_bridge.quota.resets.echoes import expecting
from marzban_bridge.quota.resets.next_plans import lost_plan
from marzban_bridge.quota.usage import Totals
from marzban_bridge.sizes import human_bytes


def begin(
    account: Account,
    *,
    totals: Totals,
    cause: str,
    actor: str,
    now: datetime,
    dialect: Dialect,
    keeps_next_plan: bool = True,
    shared_period: int | None = None,
    requested_in_period: int | None = None,
) -> Account:
    """Record the request, and what the panel's reset will change of the user beyond its traffic.

    A reset drops the next plan, and may make users active whom an admin disabled or put on hold; an
    expired user stays expired. A request already under way is kept as it is.
    """
    if account.reset_request:
        return account
    seen = account.sighting
    is_ours = seen.status is Status.DISABLED and account.is_disabled_by_us
    is_status_lost = seen.status in dialect.lost_to_reset and not is_ours
    next_plan = None
    if keeps_next_plan:
        # Nothing else shows a panel's reset of a user without traffic there.
        next_plan = seen.next_plan or lost_plan(account, has_plan=False, at=now)
    request = ResetRequest(
        cause=cause,
        actor=actor,
        total_bytes=totals.billed_bytes,
        raw_total_bytes=totals.raw_bytes,
        requested_at=now,
        seqs=totals.seqs,
        restoration=Restoration(
            status=seen.status if is_status_lost else None,
            on_hold_expire_duration=(
                seen.on_hold_expire_duration if seen.status is Status.ON_HOLD else None
            ),
            next_plan=next_plan,
        ),
        shared_period=shared_period,
        requested_in_period=requested_in_period,
    )
    return replace(account, reset_request=request, owes_reset=False)


def is_call_needed(account: Account, user: PanelUser) -> bool:
    """Tell whether the panel still has to be called for a request, given the user's current state.

    A second call would reset bytes that were used on the panel's nodes since the first one. For a
    user without traffic a missing call makes no difference.
    """
    if account.reset_request and account.reset_request.is_panel_called:
        return False
    if has_happened(account, user):
        return False
    before = account.sighting
    return before.used_bytes > 0 or user.used_bytes == 0


def has_happened(account: Account, user: PanelUser) -> bool:
    """Tell whether the panel shows a reset since the last evaluation."""
    before = account.sighting
    has_fallen = user.used_bytes < before.used_bytes
    return has_fallen or user.lifetime_bytes - user.used_bytes != before.logged_bytes


def _has_echo(account: Account, user: PanelUser) -> bool:
    """Tell whether the panel will send a webhook: it does for a single user's reset."""
    request = account.reset_request
    if request and request.is_panel_called:
        return not request.is_of_all
    return has_happened(account, user)


def panel_called(account: Account, *, is_of_all: bool = False) -> Account:
    """Record that the panel has carried out the reset, for this user or for all."""
    request = account.reset_request
    if request is None:
        return account
    called = replace(request, is_panel_called=True, is_of_all=is_of_all)
    return replace(account, reset_request=called)


def complete(
    account: Account, user: PanelUser, *, now: datetime, dialect: Dialect
) -> tuple[Account, Event]:
    """Finish the request with the user as the panel shows it after the reset.

    The baseline is the total at the time of the request: later bytes belong to the new period. A
    held account is not held any more, since the ledger lost bytes of the old period only. The
    admin's usage is not changed. Raises ValueError when there is no request.
    """
    request = account.reset_request
    if request is None:
        raise ValueError(f"no reset of {account.username} is under way")
    old_balance = balance(account, total_bytes=request.total_bytes)
    seen = snapshot_of(user, seen_at=now)
    wanted = request.restoration
    restoration = replace(
        wanted,
        status=None if wanted.status is user.status else wanted.status,
        next_plan=None if user.next_plan else wanted.next_plan,
    )
    event = Event(
        kind="reset",
        text=(
            f"{request.cause}: {human_bytes(old_balance.external_bytes)} of external traffic no "
            "longer count"
        ),
        actor=request.actor,
        before=str(old_balance.used_bytes),
        after=str(seen.used_bytes),
    )
    lost_bytes = account.seen_total_bytes - request.total_bytes if account.is_held else 0
    closed = replace(
        account,
        is_held=False,
        seen_total_bytes=request.total_bytes,
        seen_raw_bytes=request.raw_total_bytes,
        baseline_bytes=request.total_bytes,
        raw_baseline_bytes=request.raw_total_bytes,
        period_seqs=request.seqs,
        seen_seqs=request.seqs,
        corrected_seqs=request.seqs or (),
        admin_baseline_bytes=account.admin_baseline_bytes - lost_bytes,
        period_started_at=request.requested_at,
        resets_known_until=now,
        used_when_due_bytes=None,
        is_disabled_by_us=account.is_disabled_by_us and user.status is Status.DISABLED,
        needs_readd=dialect.reset_leaves_off_nodes and account.sighting.status is Status.LIMITED,
        dropped_plan=None,
        dropped_plan_at=None,
        restoration=None if restoration.is_empty else restoration,
        reset_request=None,
        sighting=seen,
    )
    return expecting(closed, more=int(_has_echo(account, user)), heard=0, at=now), event
