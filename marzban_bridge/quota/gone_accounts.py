"""The account of a user whom the panel no longer shows, kept for when it shows the user again.

A panel that starts on an empty volume, or whose database is being restored, has no users for a
while. A user of the same name and the same creation is the same user: its account goes on with its
quota, its baseline and what was published, and what was used meanwhile counts.
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
    """What of the account's totals was reported under the name alone, without a panel's."""
    had_name: bool = False
    """Whether the name alone counted for the user when it was last seen."""
    is_name_taken: bool = False
    """Whether the name alone has counted for another panel's user since."""
    departed_bytes: int = 0
    """What of the shared quota's `departed_bytes` is this user's."""
    shared: SharedQuota | None = None
    """The quota it shared, if it was the last to share it."""
    replaced: SharedQuota | None = None
    """The quota it shared when it was put aside, for where another user takes its place."""


def returned(
    gone: GoneAccount, *, current: Account | None, unscoped: Totals, is_name_kept: bool
) -> Account:
    """Return the account with which a user who is back goes on.

    `current` is the account of the user that took its place, if there was one; `unscoped` what is
    reported under the name alone and counts for this panel now, and `is_name_kept` whether it has
    counted for no other user since. Otherwise what was reported under the name alone since the user
    was last seen is not this user's.
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
