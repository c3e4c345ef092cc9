"""Decides from a sample of users whether they changed, or the whole panel did.

A panel that started on an empty volume, was restored from a backup or moved to another database
has users that are missing, recreated, or in an earlier state. For a single user that is the same as
a deletion, recreation, reset or edit; only several users show the difference (decision 0016).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.users import PanelUser, Status, is_same_creation
from marzban_bridge.quota.account import GIB, Account, PanelSnapshot, is_same_limit, snapshot_of
from marzban_bridge.quota.resets.detection import Fall, detect, fall_of
from marzban_bridge.quota.trust.suspension import SuspensionReason
from marzban_bridge.quota.writes.open_writes import sets_limit
from marzban_bridge.quota.writes.own_writes import may_be_typed

LEAST_USERS = 3
LEAST_SHARE = 1 / 3
"""The least number of users in a sample that have to show the same change."""
FASTEST_BYTES_PER_SECOND = 50_000_000
FASTEST_BYTES_AT_ONCE = GIB
"""More bytes than this cannot be new traffic since the last evaluation: the row is an old one."""
MUCH_TRAFFIC_BYTES = GIB // 4
"""Below this, up to half of the used bytes may be new between two evaluations."""
KEPT_SHARE = 0.5
MAX_NAMED_ACCOUNTS = 25
CLEANED_UP = frozenset({Status.EXPIRED, Status.LIMITED})
"""Statuses of users that the panel's "delete expired users" removes, many at once."""


class SuspensionKind(StrEnum):
    """The reason for a panel's suspension; also the label of a metric."""

    USERS_GONE = "users_gone"
    USERS_RECREATED = "users_recreated"
    WENT_BACK = "went_back"


class Shown(StrEnum):
    """The result of comparing a user in the panel with its account."""

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
    """An account at the time of the request to the panel, and the user in the answer."""

    account: Account
    user: PanelUser | None
    """None when the panel has no such user."""
    read_at: datetime
    is_line_older: bool = False
    """Whether the line in the user's note is from an earlier write than the last one seen there."""
    was_published: bool = False
    """Whether the bridge once published the shown limit, to the byte, and no note line decides."""
    dialect: Dialect
    shown: Shown = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shown", _compare(self))

    @property
    def snapshot(self) -> PanelSnapshot | None:
        """The user's snapshot; None when the panel has no such user."""
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


def is_limit_ours(account: Account, user: PanelUser, *, dialect: Dialect) -> bool:
    """Tell whether the limit is the one that the bridge or the admin set last."""
    shown_bytes = user.data_limit_bytes
    known = {account.sighting.data_limit_bytes, account.quota_bytes}
    written = {account.published_bytes, *(each.data_limit_bytes for each in account.open_writes)}
    known |= written - {None}  # where none was written, no limit is not the bridge's either
    return any(
        is_same_limit(shown_bytes, limit) or dialect.resends(limit, shown_bytes) for limit in known
    ) or any(sets_limit(write, shown_bytes, dialect=dialect) for write in account.open_writes)


def _shows_old_limit(reading: Reading, user: PanelUser) -> bool:
    """Tell whether the limit was published before the current one.

    False for a limit that an admin may have typed.
    """
    account, shown_bytes = reading.account, user.data_limit_bytes
    if (
        shown_bytes is None
        or may_be_typed(shown_bytes)
        or is_limit_ours(account, user, dialect=reading.dialect)
    ):
        return False
    return reading.was_published or _is_remembered(account, shown_bytes)


def _is_remembered(account: Account, shown_bytes: int) -> bool:
    return any(is_same_limit(shown_bytes, limit) for limit in account.remembered_limits)


def _is_edit_by_itself(reading: Reading) -> bool:
    """Tell whether an evaluation of this user takes an earlier limit for an admin's new quota."""
    account, user = reading.account, reading.user
    if not reading.was_published or user is None or user.data_limit_bytes is None:
        return False
    shown_bytes = user.data_limit_bytes
    return may_be_typed(shown_bytes) or not _is_remembered(account, shown_bytes)


def judge(readings: Sequence[Reading]) -> SuspensionKind | None:
    """Return why the panel has to be suspended; None if only its users changed.

    - One user whose row provably went back is sufficient; so is one with an earlier limit if
      another may have been reset with all users, since such a reset changes no limit.
    - Missing users, recreated users, or earlier limits: at least three, and a third of the sample.
    - Earlier limits that would be taken for an admin's quotas: three.
    - Missing users that were expired or limited are not counted, since the panel deletes them
      together, unless the whole sample is missing.
    """
    shown = Counter(reading.shown for reading in readings)
    is_contradicted = any(_is_no_reset_all(each, readings) for each in readings)
    is_mixed = shown[Shown.UNCLEAR] and shown[Shown.OLD_LIMIT]
    if shown[Shown.WENT_BACK] or is_contradicted or is_mixed or _have_kept_most(readings):
        return SuspensionKind.WENT_BACK
    old_limits = shown[Shown.OLD_LIMIT] + shown[Shown.EDIT_OR_OLD]
    if shown[Shown.EDIT_OR_OLD] >= LEAST_USERS or _are_many(old_limits, len(readings)):
        return SuspensionKind.WENT_BACK
    if _are_many(shown[Shown.RECREATED], len(readings)):
        return SuspensionKind.USERS_RECREATED
    lasting = [each for each in readings if each.account.sighting.status not in CLEANED_UP]
    is_empty = shown[Shown.GONE] == len(readings) >= LEAST_USERS
    if is_empty or _are_many(sum(each.shown is Shown.GONE for each in lasting), len(lasting)):
        return SuspensionKind.USERS_GONE
    return None


def _have_kept_most(readings: Sequence[Reading]) -> bool:
    """Tell whether users that may have been reset with all users kept most of their traffic.

    After a reset they have only what they used since the last evaluation; after a restored backup
    most of what they had.
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


def accounts_showing(kind: SuspensionKind, readings: Sequence[Reading]) -> tuple[str, ...]:
    """Return the keys of the accounts that show this reason."""
    telling = {
        SuspensionKind.USERS_GONE: {Shown.GONE},
        SuspensionKind.USERS_RECREATED: {Shown.RECREATED},
        SuspensionKind.WENT_BACK: {
            Shown.WENT_BACK,
            Shown.UNCLEAR,
            Shown.OLD_LIMIT,
            Shown.EDIT_OR_OLD,
        },
    }[kind]
    names = [reading.account.key for reading in readings if reading.shown in telling]
    return tuple(names[:MAX_NAMED_ACCOUNTS])


def is_over(reason: SuspensionReason, readings: Sequence[Reading]) -> bool:
    """Tell whether the panel is as it was before the suspension.

    - Users return one after the other: it is over once at most one, or less than a third, of the
      sample is missing, whatever its status was.
    - A user whose row went back may have used more than before by now, so its limit and log have to
      be as before, too.
    - A user that was deleted before the backup was restored does not return; it is ignored if
      another user shows that the newer database is back.
    """
    if judge(readings) is not None:
        return False
    if reason.kind != SuspensionKind.WENT_BACK:
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
    """Tell whether the panel shows the quota instead of the published limit."""
    published_bytes = account.published_bytes
    return published_bytes is not None and not is_same_limit(user.data_limit_bytes, published_bytes)


def _is_no_reset_all(reading: Reading, others: Sequence[Reading]) -> bool:
    """Tell whether a user that may have been reset with all users certainly was not.

    In a reset of all users, other users of the same admin would have been reset as well, and the
    shown traffic would have been used since the last evaluation.
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
    """Tell whether a user was not reset after `since`: it has traffic or a log from before."""
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


def text_of(kind: SuspensionKind, *, panel: str, count: int, sampled: int) -> str:
    """Return the message for a suspension: `count` users of a sample of `sampled` show it."""
    what = {
        SuspensionKind.USERS_GONE: (
            f"{count} of {sampled} users that were checked are missing, as after a start on an "
            "empty database"
        ),
        SuspensionKind.USERS_RECREATED: (
            f"{count} of {sampled} users that were checked were created again, as after a move "
            "to another database"
        ),
        SuspensionKind.WENT_BACK: (
            f"{count} of {sampled} users that were checked are in an earlier state, as after a "
            "restored backup"
        ),
    }[kind]
    return (
        f"panel {panel}: {what}. No user of it is changed until they are as before, or until "
        f"`marzban-bridge rebase --panel {panel}`, which accepts the panel as it is"
    )
