"""The account of a deleted user, kept in case the panel shows the user again.

A panel that starts on an empty volume, or whose database is being restored, has no users for a
while. A user with the same name and creation time is the same user: its account continues with its
quota, baseline and published limit, and bytes used meanwhile are charged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from marzban_bridge.quota.account import Account, shifted
from marzban_bridge.quota.shared_quota import SharedQuota
from marzban_bridge.quota.usage import NOTHING, Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class GoneAccount:
    """An account as it was when its user was last seen."""

    account: Account
    gone_at: datetime
    unscoped: Totals = NOTHING
    """The part of the totals that was reported without a panel's name."""
    had_name: bool = False
    """Whether the unscoped name was charged to the user when it was last seen."""
    is_name_taken: bool = False
    """Whether the unscoped name was charged to another panel's user since."""
    departed_bytes: int = 0
    """This user's part of the shared quota's `departed_bytes`."""
    shared: SharedQuota | None = None
    """The shared quota, if this was its last user."""
    replaced: SharedQuota | None = None
    """The shared quota when the account was put aside, in case the user is replaced."""


def returned(
    gone: GoneAccount, *, current: Account | None, unscoped: Totals, is_name_kept: bool
) -> Account:
    """Return the account with which a returned user continues.

    `current`: the account of the user that replaced it, if any. `unscoped`: the totals of the
    unscoped name that are charged to this panel. `is_name_kept`: whether they were charged to no
    other user since; otherwise unscoped bytes since the user was last seen are not charged.
    """
    account = gone.account
    if not is_name_kept:
        account = shifted(account, before=gone.unscoped, after=unscoped)
    if current is None or current.shared_period is None:
        return account
    return replace(
        account,
        spent_before_bytes=current.lifetime_panel_bytes - account.sighting.used_bytes,
        shared_period=current.shared_period,
        shared_version=current.shared_version,
        superseded=current.superseded,
    )
