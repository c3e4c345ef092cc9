"""The account of a user that has none yet, and of one that was deleted and created again; pure."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from marzban_bridge.panels.users import PanelUser
from marzban_bridge.quota.account import Account, is_same_limit, snapshot_of
from marzban_bridge.quota.resets.detection import period_start
from marzban_bridge.quota.usage import Totals, corrected_at
from marzban_bridge.quota.writes.note_line import NoteLine
from marzban_bridge.quota.writes.open_writes import still_open

RECREATION_GAP = timedelta(minutes=10)
"""Where a user was created longer than this after the last evaluation of the earlier user of its
name, its period begins at the evaluation that finds it: most of what was reported in between is the
earlier user's."""


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


def readopt(
    before: Account,
    user: PanelUser,
    *,
    totals: Totals,
    now: datetime,
    line: NoteLine | None,
) -> Account:
    """Return the account of a user that was deleted and created again under the same name.

    Its period begins at the totals of the last evaluation of the earlier user, if that was shortly
    before the creation.
    """
    baseline = _total_at_creation(before, user, totals=totals)
    opened = adopt(user, baseline=baseline, totals=totals, now=now, line=line)
    opened = succeeding(opened, before, now=now)
    # Corrections since that beginning may be known to the earlier account alone.
    return replace(opened, corrected_seqs=baseline.seqs or ())


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
