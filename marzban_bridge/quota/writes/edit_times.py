"""Tells by the time of a user's last edit, where the panel says it, whether a limit was edited.

Decision 0031. Every write sets that time, ours and an admin's; nothing else does: no reset, no plan
that fires, and no change of many users' limits at once. So while it is what it was when a limit was
seen or written, no admin edited the user, and another limit is a change of many users at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.users import PanelUser, is_same_creation
from marzban_bridge.quota.account import FLOOR_BYTES, Account, Event, OwnEdit, Restoration
from marzban_bridge.quota.writes.note_line import text_mark, without_lines
from marzban_bridge.quota.writes.own_writes import may_be_typed, quota_event, with_published

REMEMBERED_EDITS = 4
IN_BULK = "the data limits of many users were changed at once: the quota changes by as much"


def with_own_edit(account: Account, before: PanelUser, after: PanelUser) -> Account:
    """Remember which edit a write of the bridge was, as the panel answered it."""
    if after.edited_at is None:
        return account
    edit = OwnEdit(
        before_at=before.edited_at,
        edited_at=after.edited_at,
        data_limit_bytes=after.data_limit_bytes,
        next_plan=before.next_plan,
        text_mark=text_mark(without_lines(before.note)),
    )
    return replace(account, own_edits=(*account.own_edits, edit)[-REMEMBERED_EDITS:])


def follow_unedited(
    account: Account, user: PanelUser, *, dialect: Dialect
) -> tuple[Account, Event | None] | None:
    """Return the account if no admin has edited the user since its limit was known.

    None if one may have: then the limit itself has to show whose it is.
    """
    if not dialect.has_edit_times or account.superseded is not None:
        return None
    shown_bytes, seen = user.data_limit_bytes, account.sighting
    if own := _unseen_edit(account, user.edited_at):
        known_bytes = own.data_limit_bytes
        account = with_published(account, known_bytes)
    elif is_same_creation(seen.edited_at, user.edited_at):
        known_bytes = seen.data_limit_bytes
    else:
        return None
    if shown_bytes == known_bytes:
        return account, None
    if shown_bytes is None or known_bytes is None or account.quota_bytes is None:
        return None
    more_bytes = shown_bytes - known_bytes
    is_exact = user.edited_at is None or user.edited_at.microsecond != 0
    if not is_exact and may_be_typed(shown_bytes) and not may_be_typed(more_bytes):
        return None  # rather an edit within the second of the one before
    quota_bytes = max(FLOOR_BYTES, account.quota_bytes + more_bytes)
    event = quota_event(account.quota_bytes, quota_bytes, IN_BULK)
    return with_published(replace(account, quota_bytes=quota_bytes), shown_bytes), event


def with_overwritten_edit(
    account: Account,
    told: PanelUser,
    text: str | None,
    *,
    dialect: Dialect,
    quota_of: Callable[[int | None], int | None],
) -> tuple[Account, Event] | None:
    """Return the account with an admin's edit that a write of the bridge went over; None for none.

    `told` is the user right after the edit, as a webhook says, and `text` the admin's own in its
    note. It was made after the bridge had read the user, and before the panel took the write.
    `quota_of` makes a quota of a limit that was typed.
    """
    own = next((each for each in account.own_edits if _is_within(each, told.edited_at)), None)
    if not dialect.has_edit_times or own is None or _is_edited_since(account):
        return None
    taken = replace(own, before_at=told.edited_at)
    edits = tuple(taken if each is own else each for each in account.own_edits)
    changed, what = replace(account, own_edits=edits), []
    typed_bytes = told.data_limit_bytes
    known = {
        *(account.sighting.data_limit_bytes, account.published_bytes, account.quota_bytes),
        *account.remembered_limits,
    }
    if not any(each == typed_bytes or dialect.resends(each, typed_bytes) for each in known):
        changed = replace(changed, quota_bytes=quota_of(typed_bytes))
        what.append("data limit")
    if told.next_plan != own.next_plan:
        wanted = account.restoration or Restoration()
        plan = told.next_plan
        wanted = replace(wanted, next_plan=plan, drops_next_plan=plan is None)
        changed = replace(changed, restoration=wanted)
        what.append("next plan")
    if text is not None and text_mark(text) != own.text_mark:
        changed = replace(changed, lost_text=text)
        what.append("note")
    if not what:
        return None
    text = f"the admin edited the user while the bridge wrote to it ({', '.join(what)}): that holds"
    if changed.quota_bytes == account.quota_bytes:
        return changed, Event(kind="restored", text=text)
    return changed, quota_event(account.quota_bytes, changed.quota_bytes, text)


def _is_edited_since(account: Account) -> bool:
    """Tell whether the user was edited by an admin after the bridge's last write."""
    seen_at, own = account.sighting.edited_at, account.own_edits[-1]
    is_ours = is_same_creation(seen_at, own.edited_at)
    return seen_at is not None and seen_at > own.edited_at and not is_ours


def _is_within(own: OwnEdit, edited_at: datetime | None) -> bool:
    """Tell whether an edit came between the reading before a write and the write itself."""
    if edited_at is None or edited_at >= own.edited_at:
        return False
    return own.before_at is None or edited_at > own.before_at


def with_edits_seen(account: Account) -> Account:
    """Note that an evaluation shows the result of all writes up to now."""
    if all(each.is_seen for each in account.own_edits):
        return account
    edits = tuple(replace(each, is_seen=True) for each in account.own_edits)
    return replace(account, own_edits=edits)


def _unseen_edit(account: Account, edited_at: datetime | None) -> OwnEdit | None:
    """Return the write since the last evaluation that the panel shows as the user's last edit.

    It goes before that evaluation: where a database keeps whole seconds, both may be of one time.
    """
    if edited_at is None:
        return None
    unseen = (each for each in reversed(account.own_edits) if not each.is_seen)
    return next((each for each in unseen if is_same_creation(each.edited_at, edited_at)), None)
