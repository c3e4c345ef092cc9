"""What there was to forgive when a reset happened that only a webhook tells of; pure.

A reset of a user who used nothing on the panel's nodes shows in nothing else, and its webhook may
be late by minutes. What was reported since it happened belongs to the new period: the totals of
the last evaluations are kept, where webhooks say when what they tell of happened.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.quota.account import Account, PanelSnapshot, TotalsAt
from marzban_bridge.quota.resets.detection import Cause, ResetSign
from marzban_bridge.quota.resets.echoes import ECHO_WINDOW
from marzban_bridge.quota.usage import Totals

MAX_KEPT = 30


def totals_at_reset(
    account: Account,
    sign: ResetSign,
    told_at: datetime | None,
    *,
    totals: Totals,
    dialect: Dialect,
) -> Totals:
    """Return the totals that a reset forgives: those of the last evaluation before it happened."""
    is_timed = sign.cause is Cause.WEBHOOK and dialect.has_webhook_times
    if not is_timed or told_at is None or not account.recent_totals:
        return totals
    before = [each.totals for each in account.recent_totals if each.at <= told_at]
    return before[-1] if before else account.recent_totals[0].totals


def with_fed_totals(account: Account, fed: Iterable[TotalsAt]) -> Account:
    """Return the account with totals that the feed brought since its first kept look.

    Those from before it are of another time of the account, or of another ledger.
    """
    kept = account.recent_totals
    if not kept:
        return account
    newer = [each for each in fed if each.at > kept[0].at]
    both = sorted((*kept, *newer), key=lambda each: each.at)
    return replace(account, recent_totals=tuple(both))


def recent_totals(
    account: Account, seen: PanelSnapshot, totals: Totals, *, dialect: Dialect
) -> tuple[TotalsAt, ...]:
    """Return the totals to keep after an evaluation, while nothing else shows resets of the user.

    One that is older than the latest delivery of a webhook is kept, for what happened right after.
    """
    if not dialect.has_webhook_times or seen.used_bytes > 0:
        return ()
    kept = account.recent_totals
    if not kept or kept[-1].totals != totals:
        kept = (*kept, TotalsAt(at=seen.seen_at, totals=totals))
    newer = [each for each in kept if each.at > seen.seen_at - ECHO_WINDOW]
    older = [each for each in kept if each.at <= seen.seen_at - ECHO_WINDOW][-1:]
    return (*older, *newer)[-MAX_KEPT:]
