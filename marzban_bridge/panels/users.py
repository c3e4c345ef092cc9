"""What a panel's users and admins are, and what may be written to a user: values, no calls.

Everything here is spelt in the bridge's own words; the adapter translates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

HALF_A_SECOND = 500_000
"""In microseconds."""


class Status(StrEnum):
    """The panel's states of a user."""

    ACTIVE = "active"
    DISABLED = "disabled"
    LIMITED = "limited"
    EXPIRED = "expired"
    ON_HOLD = "on_hold"


class ResetStrategy(StrEnum):
    """How often the panel resets a user's traffic by itself."""

    NO_RESET = "no_reset"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    YEAR = "year"

    @property
    def period_days(self) -> int | None:
        """The period in whole days, or None; Marzban counts a month as 30 and a year as 365."""
        return _PERIOD_DAYS[self]


_PERIOD_DAYS: Mapping[ResetStrategy, int | None] = {
    ResetStrategy.NO_RESET: None,
    ResetStrategy.DAY: 1,
    ResetStrategy.WEEK: 7,
    ResetStrategy.MONTH: 30,
    ResetStrategy.YEAR: 365,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NextPlan:
    """The plan that replaces a user's current one when it runs out."""

    data_limit_bytes: int | None
    expire: int | None
    adds_remaining_traffic: bool
    fires_on_either: bool
    panel_fields: Mapping[str, object] = field(default_factory=dict)
    """The plan exactly as the panel gave it, to be sent back unchanged."""
    template_id: int | None = None
    """Of the template that says what the plan itself does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelUser:
    """One user as the panel shows it at one moment."""

    username: str
    status: Status
    data_limit_bytes: int | None
    """What the panel enforces now; None is unlimited."""
    used_bytes: int
    """Traffic on the panel's own nodes in the current period."""
    lifetime_bytes: int
    """`used_bytes` plus the panel's log of earlier periods."""
    reset_strategy: ResetStrategy
    created_at: datetime | None
    expire: int | None = None
    on_hold_expire_duration: int | None = None
    next_plan: NextPlan | None = None
    admin: str | None = None
    """Who owns the user; None when the panel's environment admin made it."""
    online_at: datetime | None = None
    """When the panel last counted traffic of the user; a reset leaves it as it is."""
    note: str | None = None
    """What the admin wrote about the user, and the line of the last write (`note_line`)."""
    edited_at: datetime | None = None
    """When the user was last edited by a write; None where the panel does not say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelAdmin:
    """Who a bearer token belongs to."""

    username: str
    is_sudo: bool
    """Whether it may see and change the users of all admins."""
    used_bytes: int = 0
    """The panel's own counter of what the admin's users used."""
    missing_permissions: tuple[str, ...] = ()
    """Those that a bridge needs and that the admin's role, or its API key, lacks."""
    limit_bytes: int | None = None
    """What all its users together may use, where the panel has such limits; None is no limit."""
    is_limited: bool = False
    """Whether that is used up."""
    is_disabled: bool = False
    cuts_users_off: bool = False
    """Whether its users are kept off the nodes for that, whatever their own state is."""

    @property
    def is_stopped(self) -> bool:
        """Whether the admin's own state may concern its users."""
        return self.is_limited or self.is_disabled


@dataclass(frozen=True, slots=True, kw_only=True)
class UserUpdate:
    """The fields of one user that a single write changes; None leaves a field as it is."""

    username: str
    data_limit_bytes: int | None = None
    lifts_limit: bool = False
    """Whether the user is to have no data limit after the write."""
    status: Status | None = None
    on_hold_expire_duration: int | None = None
    next_plan: NextPlan | None = None
    """What the user has as next plan after the write: a panel drops one that is not sent along."""
    drops_next_plan: bool = False
    """Whether the user is to have no next plan after the write, whatever it has now."""
    note: str | None = None
    """The whole note after the write; empty removes it."""


@dataclass(slots=True, kw_only=True)
class Listed:
    """What a panel answers about many names: its users, and those that have to be left alone."""

    users: list[PanelUser] = field(default_factory=list)
    aside: dict[str, str] = field(default_factory=dict)
    """By name, why a user cannot be read, or not be asked for."""
    is_refused: bool = False
    """Whether something refuses lists of users, whichever they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInAnswer:
    """What a panel answers to a person's sign-in form, to be passed back as it is."""

    status: int
    body: bytes
    content_type: str | None
    token: str | None
    """The bearer token in it; None where there is none that can be used."""

    @property
    def is_success(self) -> bool:
        """Whether the panel takes the credentials."""
        return 200 <= self.status < 300

    @property
    def is_refusal(self) -> bool:
        """Whether the panel says what is wrong with the form or the credentials."""
        return 400 <= self.status < 500


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelEvent:
    """What one event of a panel's webhook says of a user."""

    username: str
    is_reset: bool
    """Whether the user's traffic was set to zero."""
    user: PanelUser | None
    """The user as it was afterwards; None where the event does not say it."""
    by: str | None = None
    """The admin who did it; None where the event names none."""
    happened_at: datetime | None = None
    """None where the event does not say it truly."""


def is_same_creation(one: datetime | None, other: datetime | None) -> bool:
    """Tell whether two readings of `created_at` are of one user.

    Marzban keeps microseconds in SQLite and whole seconds in MariaDB and MySQL, which cut them off
    or round them when a panel is moved. Where both readings have microseconds, those count.
    """
    if one is None or other is None:
        return one is other
    if one.microsecond and other.microsecond:
        return one == other
    return other in _whole_seconds(one) or one in _whole_seconds(other)


def _whole_seconds(at: datetime) -> set[datetime]:
    """Return what a database without fractions of a second makes of a moment."""
    cut = at.replace(microsecond=0)
    return {cut} if at.microsecond < HALF_A_SECOND else {cut, cut + timedelta(seconds=1)}
