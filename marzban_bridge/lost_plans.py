"""Which next plan a reset has dropped: Marzban deletes a user's with every reset."""

from __future__ import annotations

from datetime import datetime, timedelta

from marzban_bridge.accounts import Account
from marzban_bridge.panel import NextPlan

NEXT_PLAN_MEMORY = timedelta(minutes=10)
"""A next plan seen longer ago than this is not put back: an admin may have removed it since."""


def lost_plan(account: Account, *, has_plan: bool, at: datetime) -> NextPlan | None:
    """Return the next plan a reset dropped, now or shortly before it came to light.

    `has_plan`: whether the user has one at that moment.
    """
    if has_plan:
        return None
    plan, seen_at = account.sighting.next_plan, account.sighting.seen_at
    if plan is None and account.dropped_plan and account.dropped_plan_at:
        plan, seen_at = account.dropped_plan, account.dropped_plan_at
    return plan if at - seen_at <= NEXT_PLAN_MEMORY else None
