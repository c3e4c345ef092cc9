"""What a user has used between two states of its account: the bytes that its reseller is charged.

| from one state to the next | is charged |
|---|---|
| the panel's lifetime counter rises | the difference, also across resets |
| it falls, and a new period began | what it shows: a reset of all users wiped the panel's log |
| it falls within a period | nothing: an accepted backup of the panel, counted before |
| the ledger's total rises | the difference |
| baselines are shifted along with the total | nothing |
| a correction moves the baselines | what it adds, or takes back |
| another user of the name | all that one used |
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from marzban_bridge.panels.users import is_same_creation


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedUser:
    """A user of a reseller as last counted."""

    admin: str | None
    created_at: datetime | None
    period_started_at: datetime
    lifetime_bytes: int
    """What the panel's nodes counted since the user's creation, as the panel shows it."""
    external_bytes: int
    """Billed external bytes, on a scale of which differences alone mean something."""
    is_shared: bool
    """Whether that scale is the one of shared quotas."""


def is_another_user(before: CountedUser, after: CountedUser) -> bool:
    """Tell whether a name is another user's than it was, deleted and created again.

    A panel that was moved shows other times of creation, and its users go on in their periods.
    """
    is_created_again = not is_same_creation(before.created_at, after.created_at)
    return is_created_again and before.period_started_at != after.period_started_at


def used_between(before: CountedUser, after: CountedUser) -> int:
    """Return the bytes that a user used between two states, or that a correction took back."""
    if is_another_user(before, after) and not after.is_shared:
        return after.lifetime_bytes + after.external_bytes
    panel_bytes = after.lifetime_bytes - before.lifetime_bytes
    if panel_bytes < 0:
        is_wiped = before.period_started_at != after.period_started_at
        panel_bytes = after.lifetime_bytes if is_wiped else 0
    if before.is_shared is not after.is_shared:
        return panel_bytes
    return panel_bytes + after.external_bytes - before.external_bytes


def used_by_new(after: CountedUser, *, since: datetime) -> int:
    """Return what a user is charged with who is counted for the first time.

    All that it used if it was created since its reseller's users were last listed. Else it was
    there before the quota was set, or another admin's, and what it used until now is not charged.
    """
    if after.created_at is None or after.created_at < since.replace(microsecond=0):
        return 0
    return after.lifetime_bytes + after.external_bytes
