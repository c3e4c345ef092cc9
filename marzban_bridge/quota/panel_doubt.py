"""Is it the user that changed, or the panel? Decides from accounts and what the panel shows.

A panel that started on an empty volume, was restored from a backup or moved to another database
shows users who are gone, created anew, or as they were some time ago. Read user by user that looks
like deletions, re-creations, resets and edits; several users together tell (decision 0016).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from marzban_bridge.panels.dialect import MARZBAN, Dialect
from marzban_bridge.panels.users import PanelUser, Status, is_same_creation
from marzban_bridge.quota.account import GIB, Account, PanelSnapshot, is_same_limit, snapshot_of
from marzban_bridge.quota.resets.detection import Fall, detect, fall_of
from marzban_bridge.quota.suspension import SuspensionReason
from marzban_bridge.quota.writes.open_writes import sets_limit
from marzban_bridge.quota.writes.own_writes import looks_typed

LEAST_USERS = 3
LEAST_SHARE = 1 / 3
"""So many of the users that were looked at have to show the same change; one says nothing."""
FASTEST_BYTES_PER_SECOND = 50_000_000
FASTEST_BYTES_AT_ONCE = GIB
"""More than this since the last look is no new traffic after a reset, but traffic of earlier."""
MUCH_TRAFFIC_BYTES = GIB // 4
"""A user who had used less may use half of it again between two looks."""
KEPT_SHARE = 0.5
MAX_WITNESSES = 25
CLEANED_UP = frozenset({Status.EXPIRED, Status.LIMITED})
"""What the panel's own "delete expired users" takes, many at once."""


class DoubtKind(StrEnum):
    """Why no account of a panel is changed; also the label of a metric."""

    USERS_GONE = "users_gone"
    USERS_RECREATED = "users_recreated"
    WENT_BACK = "went_back"


class Shown(StrEnum):
    """What the panel shows of a user, held against its account."""

    AS_BEFORE = "as it was, or further on"
    GONE = "not there"
    RECREATED = "another user of the name"
    WENT_BACK = "as it was some time ago"
    UNCLEAR = "reset with all users, or as it was some time ago"
    OLD_LIMIT = "a limit, or the line of a write, of some time ago"
    EDIT_OR_OLD = "a limit of some time ago, which an admin may as well have set"
    OTHER_LIMIT = "a limit that is not the bridge's"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """An account as it was when the panel was asked, and the user as the panel showed it."""

    account: Account
    user: PanelUser | None
    """None when the panel has no such user."""
    read_at: datetime
    is_line_older: bool = False
    """The line in the user's note is of an earlier write than the one that was seen there."""
    was_published: bool = False
    """The bridge once wrote the limit that is shown, to the byte, and no line tells whose it is."""
    dialect: Dialect = MARZBAN
    shown: Shown = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", _compare(self))

    @property
    def snapshot(self) -> PanelSnapshot | None:
        """The user as later decisions need it."""
        return None if self.user is None else snapshot_of(self.user, seen_at=self.read_at)


def _compare(reading: Reading) -> Shown:
    account, user, seen = reading.account, reading.user, reading.snapshot
    if user is None or seen is None:
        return Shown.GONE
    if not is_same_creation(account.created_at, user.created_at):
        return Shown.RECREATED
    is_old_limit = _shows_old_limit(reading, user)
    fall = Fall.NONE if account.reset_request else fall_of(account.sighting, seen)
    if fall in {Fall.PAST, Fall.UNCLEAR} and _has_fired_plan(account, seen, reading.dialect):
        return Shown.AS_BEFORE
    if fall is Fall.PAST:
        return Shown.WENT_BACK
    if fall is Fall.UNCLEAR:
        is_proved = is_old_limit or reading.is_line_older
        return Shown.WENT_BACK if is_proved else Shown.UNCLEAR
    if reading.is_line_older or (is_old_limit and not _is_edit_by_itself(reading)):
        return Shown.OLD_LIMIT
    if is_limit_ours(account, user, dialect=reading.dialect):
        return Shown.AS_BEFORE
    may_be_old = (
        reading.was_published
        and fall is Fall.NONE
        and not _has_fired_plan(account, seen, reading.dialect)
    )
    return Shown.EDIT_OR_OLD if may_be_old else Shown.OTHER_LIMIT


def _has_fired_plan(account: Account, seen: PanelSnapshot, dialect: Dialect) -> bool:
    sign = detect(account, seen, dialect=dialect)
    return sign is not None and sign.fired_plan is not None


def is_limit_ours(account: Account, user: PanelUser, *, dialect: Dialect = MARZBAN) -> bool:
    """Tell whether the limit is what the bridge or the admin had last set."""
    shown_bytes = user.data_limit_bytes
    known = {account.sighting.data_limit_bytes, account.quota_bytes}
    written = {account.published_bytes, *(each.data_limit_bytes for each in account.open_writes)}
    known |= written - {None}  # where none was written, no limit is not the bridge's either
    return any(
        is_same_limit(shown_bytes, limit) or dialect.resends(limit, shown_bytes) for limit in known
    ) or any(sets_limit(write, shown_bytes, dialect=dialect) for write in account.open_writes)


def _shows_old_limit(reading: Reading, user: PanelUser) -> bool:
    """Tell whether the limit is one that was published before the one that is published now.

    One that an admin may have typed does not tell.
    """
    account, shown_bytes = reading.account, user.data_limit_bytes
    if (
        shown_bytes is None
        or looks_typed(shown_bytes)
        or is_limit_ours(account, user, dialect=reading.dialect)
    ):
        return False
    return reading.was_published or _is_remembered(account, shown_bytes)


def _is_remembered(account: Account, shown_bytes: int) -> bool:
    return any(is_same_limit(shown_bytes, limit) for limit in account.remembered_limits)


def _is_edit_by_itself(reading: Reading) -> bool:
    """Tell whether a look at this user alone takes a limit of earlier for an admin's new quota."""
    account, user = reading.account, reading.user
    if not reading.was_published or user is None or user.data_limit_bytes is None:
        return False
    shown_bytes = user.data_limit_bytes
    return looks_typed(shown_bytes) or not _is_remembered(account, shown_bytes)


def judge(readings: Sequence[Reading]) -> DoubtKind | None:
    """Tell what is wrong with the panel, None where only its users changed.

    One user whose row provably went back is enough, or one that shows a limit of earlier where
    another may be reset with all users: such a reset changes no limit. That users are gone, created
    anew, or show limits of earlier has to be seen of at least three and a third of them; three are
    enough for limits of earlier that would else be taken for an admin's quotas. Users that
    were expired or limited do not count among those who are gone, as the panel deletes them
    together, unless all who were looked at are gone.
    """
    shown = Counter(reading.shown for reading in readings)
    is_contradicted = any(_is_no_reset_all(each, readings) for each in readings)
    is_mixed = shown[Shown.UNCLEAR] and shown[Shown.OLD_LIMIT]
    if shown[Shown.WENT_BACK] or is_contradicted or is_mixed or _have_kept_most(readings):
        return DoubtKind.WENT_BACK
    old_limits = shown[Shown.OLD_LIMIT] + shown[Shown.EDIT_OR_OLD]
    if shown[Shown.EDIT_OR_OLD] >= LEAST_USERS or _are_many(old_limits, len(readings)):
        return DoubtKind.WENT_BACK
    if _are_many(shown[Shown.RECREATED], len(readings)):
        return DoubtKind.USERS_RECREATED
    lasting = [each for each in readings if each.account.sighting.status not in CLEANED_UP]
    is_empty = shown[Shown.GONE] == len(readings) >= LEAST_USERS
    if is_empty or _are_many(sum(each.shown is Shown.GONE for each in lasting), len(lasting)):
        return DoubtKind.USERS_GONE
    return None


def _have_kept_most(readings: Sequence[Reading]) -> bool:
    """Tell whether users who may be reset with all users have too much of their traffic left.

    After such a reset they have what they used since the last look; after a restored backup most of
    what they had.
    """
    fell = [
        (each.account.sighting.used_bytes, each.snapshot.used_bytes)
        for each in readings
        if each.shown is Shown.UNCLEAR
        and each.snapshot is not None
        and each.account.sighting.used_bytes >= MUCH_TRAFFIC_BYTES
    ]
    kept = sum(after >= before * KEPT_SHARE for before, after in fell)
    return kept >= LEAST_USERS and kept >= len(fell) * KEPT_SHARE


def _are_many(count: int, all_of_them: int) -> bool:
    return count >= LEAST_USERS and count >= all_of_them * LEAST_SHARE


def witnesses_of(kind: DoubtKind, readings: Sequence[Reading]) -> tuple[str, ...]:
    """Return the accounts whose users show what is wrong."""
    telling = {
        DoubtKind.USERS_GONE: {Shown.GONE},
        DoubtKind.USERS_RECREATED: {Shown.RECREATED},
        DoubtKind.WENT_BACK: {
            Shown.WENT_BACK,
            Shown.UNCLEAR,
            Shown.OLD_LIMIT,
            Shown.EDIT_OR_OLD,
        },
    }[kind]
    names = [reading.account.key for reading in readings if reading.shown in telling]
    return tuple(names[:MAX_WITNESSES])


def is_over(reason: SuspensionReason, readings: Sequence[Reading]) -> bool:
    """Tell whether the panel is as it was before the doubt began.

    A panel that gets its users back one after the other is so once at most one of those that were
    looked at, or less than a third of them, is missing, whatever its status was. A user whose row
    went back may by now have used more than before: it has to have the limit and the log that it
    had, too. One that was deleted before the backup was put in place is not there again; it is no
    obstacle where another user shows that the panel was put forward.
    """
    if judge(readings) is not None:
        return False
    if reason.kind != DoubtKind.WENT_BACK:
        missing = sum(each.shown in {Shown.GONE, Shown.RECREATED} for each in readings)
        return missing <= 1 or missing < len(readings) * LEAST_SHARE
    witnesses = [each for each in readings if each.account.key in reason.witnesses]
    there = [each for each in witnesses if each.shown is not Shown.GONE]
    if witnesses and not there:
        return False
    return all(map(_is_put_forward, there))


def _is_put_forward(reading: Reading) -> bool:
    before, after, user = reading.account.sighting, reading.snapshot, reading.user
    if after is None or user is None or reading.shown is not Shown.AS_BEFORE:
        return False
    is_on = after.logged_bytes == before.logged_bytes and after.used_bytes >= before.used_bytes
    return is_on and not _is_quota_instead(reading.account, user)


def _is_quota_instead(account: Account, user: PanelUser) -> bool:
    """Tell whether the panel shows the quota where it showed what was left of it."""
    published_bytes = account.published_bytes
    return published_bytes is not None and not is_same_limit(user.data_limit_bytes, published_bytes)


def _is_no_reset_all(reading: Reading, others: Sequence[Reading]) -> bool:
    """Tell whether a user who may be reset with all users is so in no case.

    Then another user of the same owner would have been reset as well; and what is used now would
    have been used since the last look.
    """
    seen = reading.snapshot
    if reading.shown is not Shown.UNCLEAR or seen is None:
        return False
    last_seen_at = reading.account.sighting.seen_at
    return seen.used_bytes > _most_since(last_seen_at, seen.seen_at) or any(
        _was_not_reset(other, since=last_seen_at)
        for other in others
        if other.account.admin == reading.account.admin
    )


def _was_not_reset(reading: Reading, *, since: datetime) -> bool:
    """Tell whether a user was not reset after a moment: it has traffic or a log from before it."""
    account, before, after = reading.account, reading.account.sighting, reading.snapshot
    if after is None or reading.shown in {Shown.RECREATED, Shown.UNCLEAR}:
        return False
    changed_at = [account.period_started_at, account.reset_all_seen_at, account.used_rose_at]
    if any(at is not None and at > since for at in changed_at):
        return False
    if after.logged_bytes != before.logged_bytes or after.used_bytes < before.used_bytes:
        return False
    if before.logged_bytes > 0:
        return True
    is_same = after.used_bytes == before.used_bytes
    return before.used_bytes > 0 and (
        is_same or after.used_bytes > _most_since(since, after.seen_at)
    )


def _most_since(since: datetime, until: datetime) -> float:
    seconds = max(0.0, (until - since).total_seconds())
    return FASTEST_BYTES_AT_ONCE + FASTEST_BYTES_PER_SECOND * seconds


def text_of(kind: DoubtKind, *, panel: str, count: int, looked_at: int) -> str:
    """Say what is wrong with a panel, of which so many users were looked at."""
    what = {
        DoubtKind.USERS_GONE: (
            f"{count} of {looked_at} users that were looked at are not there any more, as after a "
            "start on an empty database"
        ),
        DoubtKind.USERS_RECREATED: (
            f"{count} of {looked_at} users that were looked at were created anew, as after a move "
            "to another database"
        ),
        DoubtKind.WENT_BACK: (
            f"{count} of {looked_at} users that were looked at are as they were some time ago, as "
            "after a restored backup"
        ),
    }[kind]
    return (
        f"panel {panel}: {what}. No user of it is changed until they are as they were, or until "
        f"`marzban-bridge rebase --panel {panel}`, which accepts the panel as it is"
    )
