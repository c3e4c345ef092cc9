"""Tells by the time of a user's last edit, where the panel says it, whether a limit was edited.

Decision 0031. Every write sets that time, ours and an admin's; nothing else does: no reset, no plan
that fires, and no change of many users' limits at once. So while it is what it was when a limit was
seen or written, nobody edited the user, and another limit is that much more or less for everybody.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.users import PanelUser, is_same_creation
from marzban_bridge.quota.account import FLOOR_BYTES, Account, Event, OwnEdit
from marzban_bridge.quota.writes.own_writes import looks_typed, quota_event, with_published

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
    )
    return replace(account, own_edits=(*account.own_edits, edit)[-REMEMBERED_EDITS:])


def follow_unedited(
    account: Account, user: PanelUser, *, dialect: Dialect
) -> tuple[Account, Event | None] | None:
    """Return the account where nobody has edited the user since its limit was known.

    None where somebody may have: the limit itself has to tell then whose it is.
    """
    if not dialect.has_edit_times or account.superseded is not None:
        return None
    shown_bytes, seen = user.data_limit_bytes, account.sighting
    if _is_same_edit(seen.edited_at, user.edited_at):
        known_bytes, was_written = seen.data_limit_bytes, False
    else:
        own = _own_edit(account, user.edited_at)
        if own is None:
            return None
        known_bytes, was_written = own.data_limit_bytes, True
    if was_written:
        account = with_published(account, known_bytes)
    if shown_bytes == known_bytes:
        return account, None
    if shown_bytes is None or known_bytes is None or account.quota_bytes is None:
        return None
    more_bytes = shown_bytes - known_bytes
    is_exact = user.edited_at is None or user.edited_at.microsecond != 0
    if not is_exact and looks_typed(shown_bytes) and not looks_typed(more_bytes):
        return None  # rather an edit within the second of the one before
    quota_bytes = max(FLOOR_BYTES, account.quota_bytes + more_bytes)
    event = quota_event(account.quota_bytes, quota_bytes, IN_BULK)
    return with_published(replace(account, quota_bytes=quota_bytes), shown_bytes), event


def _own_edit(account: Account, edited_at: datetime | None) -> OwnEdit | None:
    if edited_at is None:
        return None
    edits = reversed(account.own_edits)
    return next((each for each in edits if _is_same_edit(each.edited_at, edited_at)), None)


def _is_same_edit(one: datetime | None, other: datetime | None) -> bool:
    """Tell whether two readings are of one edit; databases may cut off the part of a second."""
    return is_same_creation(one, other)
