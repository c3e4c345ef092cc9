"""What the bridge needs from a panel: the values it reads and the few things it can do.

Everything here is spelt in the bridge's own words; the adapter translates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from marzban_bridge.panels.dialect import Dialect

TRIED_VERSION = "0.8"
"""Of Marzban; its patch versions behave alike."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelAdmin:
    """Who a bearer token belongs to."""

    username: str
    is_sudo: bool
    used_bytes: int = 0
    """The panel's own counter of what the admin's users used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelCheck:
    """What a panel says of itself and of the admin the bridge is there; as a text for the log."""

    admin: str
    is_sudo: bool
    version: str | None
    """None where it does not say it as Marzban does."""

    def __str__(self) -> str:
        return f"signed in as {self.admin}; it is Marzban {self.version or 'of an unknown version'}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What keeps the bridge from seeing or changing what it should, and what to do."""
        found = []
        if not self.is_sudo:
            found.append(
                f"{self.admin} is no sudo admin, so that users of other admins can be neither seen "
                "nor limited: make it one (marzban cli admin update), or give the bridge another"
            )
        if self.version is None:
            found.append("it does not say its version as Marzban 0.8.4 does: is it a Marzban?")
        elif not self.version.lstrip("v").startswith(f"{TRIED_VERSION}."):
            found.append(
                f"it is Marzban {self.version}; what the bridge relies on was tried with 0.8.4: "
                "watch it with BRIDGE_ENFORCEMENT=observe first"
            )
        return tuple(found)


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


class Panel(Protocol):
    """A panel, as far as the bridge uses it.

    Every method raises PanelUnavailableError when the call may succeed later, PanelLoginError
    when the bridge's credentials are refused, and PanelRefusedError when the panel says no.
    """

    async def check(self) -> PanelCheck:
        """Say who the bridge is in the panel; cheap. Raises when it is none, or another program."""
        ...

    async def demand_there(self) -> None:
        """Raise PanelUnavailableError when the panel fails at what concerns none of its users."""
        ...

    async def get_user(self, username: str) -> PanelUser:
        """Return the user of exactly this name.

        Raises UserNotFoundError when there is none, and OddUserError for one that cannot be read.
        """
        ...

    dialect: Dialect

    async def get_users(self, usernames: Sequence[str]) -> Listed:
        """Return those of the named users that the panel lists, each read by itself."""
        ...

    async def names_like(self, username: str) -> list[str]:
        """Return the names of all users that are equal to a name without case."""
        ...

    async def update_user(
        self, update: UserUpdate, *, on_lost_try: Callable[[], None] = ...
    ) -> PanelUser:
        """Write the update and return the user as the panel answers it.

        `on_lost_try` is called before the update is sent again because a first try got no answer:
        the panel may carry that one out later.
        """
        ...

    async def reset_user(self, username: str) -> None:
        """Set the user's used traffic to zero, with all side effects the panel gives that."""
        ...

    async def fire_next_plan(self, username: str) -> None:
        """Replace the user's plan by its next plan now."""
        ...
