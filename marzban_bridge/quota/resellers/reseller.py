"""A reseller: an admin of one panel whose users together have a quota; values alone.

Periods begin by the calendar, in UTC, as invoices do; a user's period is the panel's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from marzban_bridge.event import Event

NEAR_PERCENT = 80
FULL_PERCENT = 100
MAX_QUOTA_BYTES = 2**60
"""The largest quota: 1 EiB."""


class ResellerReset(StrEnum):
    """When a reseller's period ends by itself."""

    NEVER = "never"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reseller:
    """An admin's quota, and what its users have used of it."""

    admin: str
    """The admin's name on its panel."""
    quota_bytes: int
    reset: ResellerReset
    is_enforced: bool
    """Whether the bridge cuts the admin's users off while the quota is used up."""
    used_bytes: int
    """What the users used in the period: on the panel's nodes, plus billed external bytes."""
    period_started_at: datetime
    listed_at: datetime
    """When the bridge last began to list all of the admin's users, and each was counted."""
    told_percent: int = 0
    """The highest of the percentages that an event has told of in the period."""

    @property
    def used_ratio(self) -> float:
        """The used share of the quota; above 1 when overrun."""
        return self.used_bytes / self.quota_bytes

    @property
    def is_over(self) -> bool:
        """Whether the quota is used up, by the panel's rule `used >= limit`."""
        return self.used_bytes >= self.quota_bytes

    @property
    def is_cut_off(self) -> bool:
        """Whether the admin's users are to be cut off."""
        return self.is_enforced and self.is_over


@dataclass(frozen=True, slots=True, kw_only=True)
class ResellerChange:
    """The values to set of a reseller's quota; None leaves a value as it is."""

    quota_bytes: int | None = None
    reset: ResellerReset | None = None
    is_enforced: bool | None = None
    used_bytes: int | None = None

    def applied_to(self, reseller: Reseller) -> Reseller:
        """Return the reseller with these values."""
        return replace(
            reseller,
            quota_bytes=reseller.quota_bytes if self.quota_bytes is None else self.quota_bytes,
            reset=reseller.reset if self.reset is None else self.reset,
            is_enforced=reseller.is_enforced if self.is_enforced is None else self.is_enforced,
            used_bytes=reseller.used_bytes if self.used_bytes is None else self.used_bytes,
        )


def period_begin(reset: ResellerReset, now: datetime) -> datetime | None:
    """Return when the calendar period of `now` began; None if periods do not end by themselves.

    Midnight UTC: each day, on Mondays, on the first of a month, or on the first of January.
    """
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match reset:
        case ResellerReset.NEVER:
            return None
        case ResellerReset.DAY:
            return midnight
        case ResellerReset.WEEK:
            return midnight - timedelta(days=midnight.weekday())
        case ResellerReset.MONTH:
            return midnight.replace(day=1)
        case ResellerReset.YEAR:
            return midnight.replace(month=1, day=1)


def renewed(reseller: Reseller, *, now: datetime) -> tuple[Reseller, Event] | None:
    """Return the reseller in its next period, if that has begun by the calendar, and the event.

    What was used and is counted after the beginning belongs to the new period. After a time
    without a bridge one period begins, the current one.
    """
    begin = period_begin(reseller.reset, now)
    if begin is None or begin <= reseller.period_started_at:
        return None
    return reset(reseller, at=begin, cause=f"a new {reseller.reset} began", actor="bridge")


def reset(reseller: Reseller, *, at: datetime, cause: str, actor: str) -> tuple[Reseller, Event]:
    """Begin a new period; return the reseller and the event."""
    event = Event(
        kind="reseller_reset",
        text=f"reseller {reseller.admin}: {cause}, and nothing is used of the quota",
        actor=actor,
        before=str(reseller.used_bytes),
        after="0",
    )
    return replace(reseller, used_bytes=0, period_started_at=at, told_percent=0), event


def charged(reseller: Reseller, amount_bytes: int) -> tuple[Reseller, tuple[Event, ...]]:
    """Add bytes to what was used, and return the events that this makes due.

    A correction takes bytes back (`amount_bytes` is negative), though not below zero.
    """
    used_bytes = max(0, reseller.used_bytes + amount_bytes)
    return told(replace(reseller, used_bytes=used_bytes))


def told(reseller: Reseller) -> tuple[Reseller, tuple[Event, ...]]:
    """Return the reseller and the event of a percentage that is newly reached, if there is one.

    Below a percentage again (a raised quota, a correction) it is told of again when it is reached.
    """
    percent = 0
    if reseller.is_over:
        percent = FULL_PERCENT
    elif reseller.used_bytes * 100 >= reseller.quota_bytes * NEAR_PERCENT:
        percent = NEAR_PERCENT
    if percent == reseller.told_percent:
        return reseller, ()
    is_news = percent > reseller.told_percent
    return replace(reseller, told_percent=percent), (_event(reseller, percent),) if is_news else ()


def _event(reseller: Reseller, percent: int) -> Event:
    effect = ""
    if percent == FULL_PERCENT:
        effect = ": its users go on, since the quota is not enforced"
        if reseller.is_enforced:
            effect = ": its users are cut off until it is reset or raised"
    return Event(
        kind="reseller_over" if percent == FULL_PERCENT else "reseller_near",
        text=f"reseller {reseller.admin} has used {percent} % of its quota{effect}",
        before=str(reseller.used_bytes),
        after=str(reseller.quota_bytes),
    )


def changed(before: Reseller | None, after: Reseller | None, *, actor: str) -> Event:
    """Return the event of a quota that an admin set, changed or took away."""
    name = after.admin if after else before.admin if before else ""
    return Event(
        kind="reseller_changed",
        text=f"reseller {name}: the quota was {'set' if after else 'taken away'}",
        actor=actor,
        before=_shown(before),
        after=_shown(after),
    )


def _shown(reseller: Reseller | None) -> str:
    if reseller is None:
        return "no quota"
    effect = "enforced" if reseller.is_enforced else "not enforced"
    return f"quota {reseller.quota_bytes}, reset {reseller.reset}, {effect}"


def let_in_text(admin: str) -> str:
    """Return the text for a user of a reseller that is cut off, which was made active."""
    return (
        "the user was made active in the panel although the bridge had disabled it; while the "
        f"quota of its admin {admin} is used up the bridge disables the user again in a minute: "
        f"raise that quota, or `marzban-bridge resellers reset {admin}`"
    )
