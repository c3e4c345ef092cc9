"""What writes and resets of the bridge do to a user when the panel carries them out late.

A write that timed out takes along the next plan and the note of the moment at which it was sent: a
plan that has fired since is there again, one that the admin queued since is gone, and so is what
the admin wrote into the note since. A reset that timed out, was asked for again and done, resets a
second time. None of that is an admin's doing.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from marzban_bridge.quota.account import Account, Event, OpenWrite, PanelSnapshot, Restoration
from marzban_bridge.quota.resets.detection import Cause, ResetSign
from marzban_bridge.quota.writes.note_line import NoteLine, text_mark

LATE_RESET = (
    "a reset in the panel was taken for one of the bridge's own that had timed out and was carried "
    "out late: it forgives nothing; if it was meant, press Reset usage again"
)


def put_back(
    account: Account, seen: PanelSnapshot, line: NoteLine | None, text: str | None
) -> Account:
    """Have what a write that landed late took from the user written again.

    `line` is the store's in the user's note, `text` the admin's own there; None where notes are
    left alone.
    """
    return _put_back_text(_put_back_plan(account, seen, line), seen, line, text)


def _put_back_plan(account: Account, seen: PanelSnapshot, line: NoteLine | None) -> Account:
    """Have the next plan written that the user had before a write landed late, or none."""
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
    """Have the text written again that the admin's note had before a write landed late.

    An edit of it since is the admin's last word, and nothing is put back then.
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
    """Tell whether the row has become since the last look what this write leaves, to the byte.

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
    """Remember the admin's text while a write that is open may replace it."""
    may_be_lost = any(each.text_mark for each in account.open_writes)
    is_kept = may_be_lost or account.lost_text is not None
    return replace(account, seen_text=text if is_kept else None)


def _is_shown(
    account: Account, write: OpenWrite, seen: PanelSnapshot, line: NoteLine | None
) -> bool:
    """Tell whether the row is as this write leaves it: by its line, else by its limit."""
    if line is not None and write.number:
        was_there = account.seen_line is not None and account.seen_line.number == line.number
        return line.number == write.number and not was_there
    return write.data_limit_bytes is not None and seen.data_limit_bytes == write.data_limit_bytes


def reset_unanswered(account: Account, *, until: datetime) -> Account:
    """Note that a reset is asked of the panel and not answered: it may be carried out until then.

    One that was not answered before lasts as long; each is carried out once at most.
    """
    return replace(account, open_resets=(*account.open_resets, until))


def reset_found(account: Account) -> Account:
    """Note that a reset which was not answered has been carried out all the same."""
    return replace(account, open_resets=account.open_resets[1:])


def resets_still_open(account: Account, *, now: datetime) -> Account:
    """Forget the resets that can no longer be carried out."""
    return replace(
        account, open_resets=tuple(until for until in account.open_resets if until >= now)
    )


def without_late_reset(
    account: Account, sign: ResetSign | None, seen: PanelSnapshot
) -> tuple[Account, ResetSign | None, list[Event]]:
    """Take a reset for one of the bridge's own that landed late, if one may; else return its sign.

    Such a reset forgives nothing: what the panel counted and no longer shows stays used, as
    external usage, and the next plan that it dropped is put back. The caller has left out those
    that can no longer land.
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
