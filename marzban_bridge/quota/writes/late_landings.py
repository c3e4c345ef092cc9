"""Undoes what writes and resets of the bridge do to a user when they land late in the panel.

A write that timed out has the next plan and the note of the time when it was sent. When it lands, a
plan that has fired since is back, and a plan or note text that the admin entered since is gone. A
reset that timed out and was repeated resets a second time. None of that was done by an admin.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from marzban_bridge.quota.account import (
    Account,
    Event,
    OpenWrite,
    PanelSnapshot,
    Restoration,
    with_values,
)
from marzban_bridge.quota.resets.detection import Cause, ResetSign
from marzban_bridge.quota.writes.note_line import NoteLine, text_mark

LATE_RESET = (
    "a reset in the panel was taken for one of the bridge's own that had timed out and was carried "
    "out late: usage stays; if an admin made that reset, press Reset usage again"
)


def put_back(
    account: Account, seen: PanelSnapshot, line: NoteLine | None, text: str | None
) -> Account:
    """Plan to restore what a write that landed late removed from the user.

    `line` is the store's in the user's note, `text` the admin's own there; None where notes are
    left alone.
    """
    return _put_back_text(_put_back_plan(account, seen, line), seen, line, text)


def _put_back_plan(account: Account, seen: PanelSnapshot, line: NoteLine | None) -> Account:
    """Plan to restore the next plan that the user had before a write landed late, or none."""
    before = account.sighting.next_plan
    if seen.next_plan == before or not _has_landed(account, seen, line):
        return account
    wanted = account.restoration or Restoration()
    return replace(
        account,
        restoration=replace(wanted, next_plan=before, drops_next_plan=before is None),
    )


def _has_landed(account: Account, seen: PanelSnapshot, line: NoteLine | None) -> bool:
    """Tell whether an unanswered write explains the plan that is shown."""
    return any(
        write.next_plan == seen.next_plan and _is_shown(account, write, seen, line)
        for write in account.open_writes
        if not write.is_answered
    )


def _put_back_text(
    account: Account, seen: PanelSnapshot, line: NoteLine | None, text: str | None
) -> Account:
    """Plan to restore the admin's text that the note had before a write landed late.

    If the admin edited it since, nothing is restored.
    """
    before, lost = account.seen_text, account.lost_text
    if text is None or text == lost:
        return replace(account, lost_text=None)
    if before is None or text == before:
        return account
    has_landed = any(
        write.text_mark == text_mark(text) and _has_just_landed(account, write, seen, line)
        for write in account.open_writes
        if not write.is_answered
    )
    return replace(account, lost_text=before if has_landed else None)


def _has_just_landed(
    account: Account, write: OpenWrite, seen: PanelSnapshot, line: NoteLine | None
) -> bool:
    """Tell whether the row changed since the last evaluation to exactly what this write sets.

    An admin who saves a dialog that was opened before sends its line back too, beside a rounded
    limit.
    """
    limit_bytes, shown_bytes = write.data_limit_bytes, seen.data_limit_bytes
    if write.number and line is None:  # it would have brought its line
        return False
    if not write.number:
        was_there = shown_bytes == account.sighting.data_limit_bytes
        return limit_bytes is not None and shown_bytes == limit_bytes and not was_there
    return _is_shown(account, write, seen, line) and limit_bytes in {None, shown_bytes}


def keep_text(account: Account, text: str | None) -> Account:
    """Keep the admin's text while an open write may replace it."""
    may_be_lost = any(each.text_mark for each in account.open_writes)
    is_kept = may_be_lost or account.lost_text is not None
    return with_values(account, seen_text=text if is_kept else None)


def _is_shown(
    account: Account, write: OpenWrite, seen: PanelSnapshot, line: NoteLine | None
) -> bool:
    """Tell whether the row is as this write leaves it: by its line, else by its limit."""
    if line is not None and write.number:
        was_there = account.seen_line is not None and account.seen_line.number == line.number
        return line.number == write.number and not was_there
    return write.data_limit_bytes is not None and seen.data_limit_bytes == write.data_limit_bytes


def reset_unanswered(account: Account, *, until: datetime) -> Account:
    """Record an unanswered reset, which may land until `until`.

    Earlier unanswered resets get the same time; each lands at most once.
    """
    return replace(account, open_resets=(*account.open_resets, until))


def reset_found(account: Account) -> Account:
    """Record that an unanswered reset has landed."""
    return replace(account, open_resets=account.open_resets[1:])


def resets_still_open(account: Account, *, now: datetime) -> Account:
    """Remove unanswered resets that cannot land any more."""
    return with_values(
        account, open_resets=tuple(until for until in account.open_resets if until >= now)
    )


def without_late_reset(
    account: Account, sign: ResetSign | None, seen: PanelSnapshot
) -> tuple[Account, ResetSign | None, list[Event]]:
    """Match a detected reset with an unanswered one of the bridge; else return its sign unchanged.

    A late reset begins no period: bytes that the panel does not show any more stay charged, as
    external usage, and the next plan that it dropped is restored. The caller has removed those that
    cannot land any more.
    """
    if sign is None or not account.open_resets or sign.cause not in {Cause.SEEN, Cause.WEBHOOK}:
        return account, sign, []
    restoration = account.restoration
    lost_plan = account.sighting.next_plan if seen.next_plan is None else None
    if lost_plan and restoration is None:
        restoration = Restoration(next_plan=lost_plan)
    # Where the quota is shared, the panel's earlier traffic is counted there (`spent_between`).
    lost_bytes = sign.used_at_reset_bytes if account.shared_period is None else 0
    taken = replace(
        reset_found(account),
        baseline_bytes=account.baseline_bytes - lost_bytes,
        raw_baseline_bytes=account.raw_baseline_bytes - lost_bytes,
        restoration=restoration,
    )
    return taken, None, [Event(kind="late_reset", text=LATE_RESET)]
