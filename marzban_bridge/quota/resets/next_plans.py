"""Next plans: which one a reset dropped, and the quota after one has fired."""

from __future__ import annotations

from datetime import datetime, timedelta

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.users import NextPlan
from marzban_bridge.quota.account import FLOOR_BYTES, Account, PanelSnapshot
from marzban_bridge.quota.resets.detection import ResetSign

NEXT_PLAN_MEMORY = timedelta(minutes=10)
"""A next plan seen longer ago than this is not put back: an admin may have removed it since."""


def lost_plan(account: Account, *, has_plan: bool, at: datetime) -> NextPlan | None:
    """Return the next plan that a reset dropped, now or shortly before the reset was detected.

    `has_plan`: whether the user has one at that moment.
    """
    if has_plan:
        return None
    plan, seen_at = account.sighting.next_plan, account.sighting.seen_at
    if plan is None and account.dropped_plan and account.dropped_plan_at:
        plan, seen_at = account.dropped_plan, account.dropped_plan_at
    return plan if at - seen_at <= NEXT_PLAN_MEMORY else None


def published_after(
    sign: ResetSign, seen: PanelSnapshot, quota_bytes: int | None, published_bytes: int | None
) -> int | None:
    """Return the published limit after a reset; a fired plan rewrites it."""
    if sign.fired_plan is None:
        return published_bytes
    return None if seen.data_limit_bytes == quota_bytes else seen.data_limit_bytes


def quota_of_fired_plan(
    account: Account, seen: PanelSnapshot, sign: ResetSign, *, total_bytes: int, dialect: Dialect
) -> int | None:
    """Work out what the panel would have made the limit, had external traffic been its own.

    The panel computed from the limit we published. Its flag decides whether what remained is
    added: `limit - used`, which is a debt where the quota was overrun. A debt larger than the plan
    leaves the floor; the panel itself would set a limit below zero, and fail on it. What a template
    gave is the limit that is seen, less what remained by the panel's own reckoning.
    """
    plan, shown_bytes = sign.fired_plan, account.sighting.data_limit_bytes
    if plan is None or account.quota_bytes is None or not dialect.adds_remaining(plan):
        return seen.data_limit_bytes
    given_bytes = plan.data_limit_bytes
    if given_bytes is None and seen.data_limit_bytes is not None and shown_bytes is not None:
        given_bytes = seen.data_limit_bytes - (shown_bytes - sign.used_at_reset_bytes)
    if not given_bytes:
        return seen.data_limit_bytes
    external_bytes = total_bytes - account.baseline_bytes
    left_bytes = account.quota_bytes - external_bytes - sign.used_at_reset_bytes
    return max(FLOOR_BYTES, given_bytes + left_bytes)
