"""Are two configured panels one and the same? Decided from what both show of their users.

A panel says nothing of itself that tells it from another, and one panel may answer at many
addresses. But a user's creation (to the microsecond in SQLite) and the credentials that the panel
made for it are on no other panel, unless that is a copy of its database or a script makes users on
both. Such two count traffic apart from each other, so that counters tell them from one panel as
soon as something was used on either since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from marzban_bridge.panels.names import FIRST_PANEL
from marzban_bridge.panels.users import is_same_creation


@dataclass(frozen=True, slots=True, kw_only=True)
class UserMark:
    """What tells one panel's user from another panel's user of the same name."""

    created_at: datetime | None
    credentials: str
    """A digest of what the user signs in with at the panel's nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelUsers:
    """Some users of a panel, as one page of its list shows them; empty for a panel without any."""

    total: int
    """How many users there are on all pages."""
    marks: Mapping[str, UserMark] = field(default_factory=dict)
    """By account key."""
    lifetime_bytes: Mapping[str, int] = field(default_factory=dict)
    """By account key, what was counted since the user was created, through all resets."""


def share_a_user(one: Mapping[str, UserMark], other: Mapping[str, UserMark]) -> bool:
    """Tell whether two panels' newest users have some in common, and none that differ."""
    names = one.keys() & other.keys()
    return bool(names) and all(_are_one_user(one[name], other[name]) for name in names)


def have_same_users(one: Mapping[str, UserMark], other: Mapping[str, UserMark]) -> bool:
    """Tell whether two panels' newest users are the same ones, as far as both were seen.

    They were not read in the same moment: some may have been created or deleted in between.
    """
    names = one.keys() & other.keys()
    return len(names) * 2 > min(len(one), len(other)) and share_a_user(one, other)


def _are_one_user(one: UserMark, other: UserMark) -> bool:
    is_same = is_same_creation(one.created_at, other.created_at)
    return is_same and one.credentials == other.credentials


def is_one_panel(before: PanelUsers, other: PanelUsers, after: PanelUsers) -> bool:
    """Tell whether a panel, read twice, is the one that was read by another entry in between.

    What a panel has counted never falls: so much of each user's traffic had been counted in
    between as before at least, and as after at most.
    """
    is_same_number = min(before.total, after.total) <= other.total <= max(before.total, after.total)
    names = before.lifetime_bytes.keys() & other.lifetime_bytes.keys() & after.lifetime_bytes.keys()
    are_same_users = have_same_users(before.marks, other.marks) or have_same_users(
        other.marks, after.marks
    )
    return (
        is_same_number
        and are_same_users
        and all(
            before.lifetime_bytes[name] <= other.lifetime_bytes[name] <= after.lifetime_bytes[name]
            for name in names
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One of two configured panels that are one."""

    name: str
    place: int
    """In the order of the panels."""
    accounts: int
    is_as_before: bool
    """Whether it shows the users that it showed when it was last known to be a panel by itself."""


def superfluous(one: Entry, other: Entry) -> str:
    """Return which of two entries of one panel is left alone: the one that came to it later.

    It is the one without accounts, else the one that showed other users before, else the one that
    stands later in the order.
    """
    for left, stays in ((one, other), (other, one)):
        if not left.accounts and stays.accounts:
            return left.name
    for left, stays in ((one, other), (other, one)):
        if stays.is_as_before and not left.is_as_before:
            return left.name
    return max(one, other, key=lambda entry: entry.place).name


def text_of_one_panel(stays: str, left: str) -> str:
    """Say which two entries are one panel and what to do."""
    mend = f"take the table of {left} out of BRIDGE_PANELS_FILE and restart"
    if left == FIRST_PANEL:
        mend = f"set MARZBAN_URL to its own address, or take the table of {stays} out, and restart"
    return (
        f"panels {stays} and {left} are one panel: both addresses show the same users, created in "
        f"the same moments and with the same traffic. No user is changed as one of {left}, so that "
        f"nothing counts twice: {mend}; `marzban-bridge panels forget {left}` drops what accounts "
        "it has. If they are two panels, one a copy of the other on which nothing was used yet: "
        f"stop the bridge, run `marzban-bridge panels apart {stays} {left}` and start it"
    )
