"""Decides whether the bridge or an admin wrote the limit and the status that the panel shows.

Where the user's note has a line of this store, the line decides (decision 0015); else the values
do (0004).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.users import PanelUser, Status
from marzban_bridge.quota.account import (
    GIB,
    REMEMBERED_LIMITS,
    Account,
    Event,
    OpenWrite,
    PanelSnapshot,
    Restoration,
    SeenLine,
    UnexplainedEdit,
    is_same_limit,
    with_values,
)
from marzban_bridge.quota.writes.note_line import NoteLine
from marzban_bridge.quota.writes.open_writes import began, last_moment, sets_limit

UNEXPLAINED_WINDOW = timedelta(minutes=5)
"""Within this time after a write of ours, a smaller limit with more decimals than people type is
another bridge's."""


def with_previous_write(account: Account, *, now: datetime) -> Account:
    """Turn the one unfinished write that earlier versions stored into an open write."""
    if account.intended_bytes is None and account.intended_status is None:
        return account
    write = OpenWrite(
        data_limit_bytes=account.intended_bytes,
        status=account.intended_status,
        may_land_until=last_moment(now),
    )
    return replace(
        account,
        open_writes=began(account.open_writes, write),
        intended_bytes=None,
        intended_status=None,
    )


def recognise_status(
    account: Account, seen: PanelSnapshot, line: NoteLine | None, *, dialect: Dialect
) -> Account:
    """Note whether a status that has changed is one that the bridge wrote."""
    was_disabled = account.sighting.status is Status.DISABLED
    is_disabled = seen.status is Status.DISABLED
    if was_disabled is is_disabled:
        return account
    if is_disabled:
        return (
            _disabled_by_us(account) if _wrote_disabled(account, seen, line, dialect) else account
        )
    if account.is_disabled_by_us:
        is_ours = _wrote_active(account, seen, line, dialect)
        return replace(account, is_disabled_by_us=False) if is_ours else account
    if _has_let_in(account, seen, line, dialect):
        return _put_back(account, Status.DISABLED)
    return account


def _wrote_disabled(
    account: Account, seen: PanelSnapshot, line: NoteLine | None, dialect: Dialect
) -> bool:
    if line is None:
        return _wrote(account, Status.DISABLED, seen, account.open_writes, dialect)
    return (_is_new(account, line) and line.is_disabled) or _wrote(
        account, Status.DISABLED, seen, _unnoted(account), dialect
    )


def _wrote_active(
    account: Account, seen: PanelSnapshot, line: NoteLine | None, dialect: Dialect
) -> bool:
    if line is None:
        return _wrote(account, Status.ACTIVE, seen, account.open_writes, dialect)
    return (_is_new(account, line) and not line.is_disabled) or _wrote(
        account, Status.ACTIVE, seen, _unnoted(account), dialect
    )


def _has_let_in(
    account: Account, seen: PanelSnapshot, line: NoteLine | None, dialect: Dialect
) -> bool:
    """Tell whether a write that landed late made a user active whom an admin had disabled.

    Without a line, it may have been the admin unless the limit became the write's at the same time.
    """
    lets_in = [each for each in account.open_writes if each.status is Status.ACTIVE]
    if line is not None:
        return _is_new(account, line) and line.number in {each.number for each in lets_in}
    return seen.data_limit_bytes != account.sighting.data_limit_bytes and any(
        sets_limit(write, seen.data_limit_bytes, dialect=dialect) for write in lets_in
    )


def _is_new(account: Account, line: NoteLine) -> bool:
    """Tell whether the note got this line since the last evaluation."""
    return account.seen_line is None or account.seen_line.number != line.number


def _unnoted(account: Account) -> tuple[OpenWrite, ...]:
    """Return the open writes that carry no line."""
    return tuple(each for each in account.open_writes if not each.number)


def _wrote(
    account: Account,
    status: Status,
    seen: PanelSnapshot,
    writes: tuple[OpenWrite, ...],
    dialect: Dialect,
) -> bool:
    return any(each.status is status and _fits(account, each, seen, dialect) for each in writes)


def _put_back(account: Account, status: Status) -> Account:
    """Plan to restore the status that the user had before a write landed late."""
    if account.restoration:
        return account
    duration = account.sighting.on_hold_expire_duration if status is Status.ON_HOLD else None
    restoration = Restoration(status=status, on_hold_expire_duration=duration)
    return replace(account, restoration=restoration)


def _disabled_by_us(account: Account) -> Account:
    """Note that the bridge disabled the user; a late write may have ended its time on hold."""
    account = replace(account, is_disabled_by_us=True)
    if account.sighting.status is not Status.ON_HOLD:
        return account
    return _put_back(account, Status.ON_HOLD)


def _fits(account: Account, write: OpenWrite, seen: PanelSnapshot, dialect: Dialect) -> bool:
    """Tell whether the panel may show the state right after this write.

    A later write of the bridge that sets no status may have set the limit since.
    """
    return (
        write.data_limit_bytes is None
        or is_same_limit(seen.data_limit_bytes, write.data_limit_bytes)
        or is_same_limit(seen.data_limit_bytes, account.published_bytes or account.quota_bytes)
        or any(
            sets_limit(each, seen.data_limit_bytes, dialect=dialect) for each in account.open_writes
        )
    )


def _is_same(shown_bytes: int | None, limit_bytes: int | None, dialect: Dialect) -> bool:
    """Tell whether a limit is an earlier one, or an earlier one as the edit dialog rounds it."""
    return is_same_limit(shown_bytes, limit_bytes) or dialect.resends(limit_bytes, shown_bytes)


def take_limit(
    account: Account,
    user: PanelUser,
    line: NoteLine | None,
    *,
    now: datetime,
    dialect: Dialect,
) -> tuple[Account, Event | None]:
    """Take a limit that the bridge did not write as the admin's new quota."""
    shown_bytes = user.data_limit_bytes
    if account.superseded:
        is_ours = _is_same(shown_bytes, account.published_bytes, dialect)
        if _is_same(shown_bytes, account.superseded.data_limit_bytes, dialect):
            return (account if is_ours else replace(account, published_bytes=None)), None
        if account.quota_bytes is None and account.published_bytes is not None and is_ours:
            return (
                account,
                None,
            )  # the limit from before the quota was shared is still to be written
        account = replace(account, superseded=None)
    if line is not None:
        return _by_line(account, shown_bytes, line, dialect)
    return _by_value(account, shown_bytes, now=now, dialect=dialect)


def _by_line(
    account: Account, shown_bytes: int | None, line: NoteLine, dialect: Dialect
) -> tuple[Account, Event | None]:
    """Decide by the line in the note, which may be the newest or an older one.

    A limit equal to the line's is ours: published, landed late, or sent back by an edit dialog that
    was opened before. Where neither line nor limit has changed since the last evaluation nothing is
    decided: a plan that fired, for example, changes the limit and not the note.
    """
    if account.seen_line == SeenLine(number=line.number, data_limit_bytes=shown_bytes):
        return account, None
    for write in _unnoted(account):
        if sets_limit(write, shown_bytes, dialect=dialect):
            return with_published(account, write.data_limit_bytes), None
    if shown_bytes is not None and shown_bytes == account.published_bytes:
        return account, None
    if _is_same(shown_bytes, line.limit_bytes, dialect):
        return with_published(account, shown_bytes), None
    if _is_same(shown_bytes, account.quota_bytes, dialect):
        return with_values(account, published_bytes=None), None
    return _edited(account, shown_bytes)


def _by_value(
    account: Account, shown_bytes: int | None, *, now: datetime, dialect: Dialect
) -> tuple[Account, Event | None]:
    """Decide by the limit alone.

    Ours are the published limit, those of open writes, and the limits published lately: an edit
    dialog that was opened before sends one of those back, rounded. People type whole hundredths of
    a GiB, so a stale limit that is none is told from a new one.
    """
    for write in account.open_writes:
        if sets_limit(write, shown_bytes, dialect=dialect) or (
            write.is_answered
            and write.data_limit_bytes is not None
            and _is_same(shown_bytes, write.data_limit_bytes, dialect)
        ):
            return with_published(account, write.data_limit_bytes), None
    if account.published_bytes is not None and _is_same(
        shown_bytes, account.published_bytes, dialect
    ):
        return account, None
    if _is_same(shown_bytes, account.quota_bytes, dialect):
        return with_values(account, published_bytes=None), None
    is_stale = any(_is_same(shown_bytes, limit, dialect) for limit in account.remembered_limits)
    is_stale_in_dialog = is_stale and dialect.has_edit_times and not _is_round(shown_bytes)
    if shown_bytes is None or (may_be_typed(shown_bytes) and not is_stale_in_dialog):
        return _edited(account, shown_bytes)
    return (account, None) if is_stale else _odd(account, shown_bytes, now=now)


def _odd(account: Account, shown_bytes: int, *, now: datetime) -> tuple[Account, Event | None]:
    """Take an odd limit, with many decimals, as the quota once; hold the user at the second one.

    Another bridge without notes publishes such limits right after this one does, and each takes the
    other's limit as the quota: within seconds the quota is near zero.
    """
    first = account.unexplained_edit
    if first and first.has_held:
        return replace(account, published_bytes=shown_bytes, unexplained_edit=None), None
    if first and now - first.found_at <= UNEXPLAINED_WINDOW:
        text = (
            f"the limit of {account.username} changed twice within minutes to what no admin types: "
            "another bridge or a script writes to this panel. The bridge does not change the user, "
            "whose quota is the earlier one; stop the other writer, then `marzban-bridge rebase`"
        )
        held = replace(
            account,
            is_held=True,
            quota_bytes=first.quota_bytes,
            published_bytes=shown_bytes,
            unexplained_edit=replace(first, has_held=True),
        )
        return held, Event(kind="conflict", text=text)
    wrote_at, ours_bytes = account.limit_written_at, account.published_bytes or account.quota_bytes
    is_after_ours = wrote_at is not None and now - wrote_at <= UNEXPLAINED_WINDOW
    is_smaller = ours_bytes is not None and shown_bytes < ours_bytes
    changed, event = _edited(account, shown_bytes)
    if is_after_ours and is_smaller:
        edit = UnexplainedEdit(quota_bytes=account.quota_bytes, found_at=now)
        changed = replace(changed, unexplained_edit=edit)
    return changed, event


def _edited(account: Account, shown_bytes: int | None) -> tuple[Account, Event | None]:
    changed = replace(account, quota_bytes=shown_bytes, published_bytes=None, remembered_limits=())
    text = "the admin set a new data limit in the panel"
    return changed, quota_event(account.quota_bytes, shown_bytes, text)


def seen_line(user: PanelUser, line: NoteLine | None) -> SeenLine | None:
    """Return what later evaluations need of the note's line and the limit."""
    if line is None:
        return None
    return SeenLine(number=line.number, data_limit_bytes=user.data_limit_bytes)


def with_published(account: Account, limit_bytes: int | None) -> Account:
    """Note which of the bridge's limits the panel shows; an edit dialog may send it back later."""
    if limit_bytes is None or limit_bytes == account.quota_bytes:
        return with_values(account, published_bytes=None)
    remembered = account.remembered_limits
    if limit_bytes not in remembered:
        remembered = (*remembered, limit_bytes)[-REMEMBERED_LIMITS:]
    return with_values(account, published_bytes=limit_bytes, remembered_limits=remembered)


def quota_event(before: int | None, after: int | None, text: str) -> Event:
    """Return the event of a changed quota."""
    return Event(
        kind="quota_changed",
        text=text,
        before="unlimited" if before is None else str(before),
        after="unlimited" if after is None else str(after),
    )


def _is_round(limit_bytes: int | None) -> bool:
    """Tell whether a limit is a whole number of tenths of a GiB, as quotas mostly are."""
    return (
        limit_bytes is not None and abs(limit_bytes - round(limit_bytes * 10 / GIB) * GIB / 10) <= 1
    )


def may_be_typed(limit_bytes: int) -> bool:
    """Tell whether a limit is a whole number of hundredths of a GiB, as people type them."""
    hundredths = limit_bytes * 100 / GIB
    return abs(hundredths - round(hundredths)) * GIB / 100 <= 1
