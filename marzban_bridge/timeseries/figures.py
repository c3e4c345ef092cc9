"""What dashboards show of one account, as numbers and texts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from collector.influx.lines import FieldValue
from collector.schema import NOBODY
from marzban_bridge.panels.names import PublicName, scoped
from marzban_bridge.panels.users import Status
from marzban_bridge.quota.account import Account
from marzban_bridge.quota.balance import balance
from marzban_bridge.quota.forecasts.forecast import days_to_limit, expires_at
from marzban_bridge.quota.usage import Totals

NEAR = 0.8
"""The share of a quota from which on a user is near it."""
NO_FORECAST = -1.0
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_MILLI = timedelta(milliseconds=1)
AccountId = tuple[str, str]
"""A panel and the key of an account on it."""


class UserFigures(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What is kept of one account; bytes, and times in milliseconds, as in its point."""

    user: str
    admin: str
    panel: str
    status: Status
    quota_bytes: int
    """0 is unlimited."""
    marzban_bytes: int
    external_bytes: int
    used_ratio: float
    days_to_limit: float
    """Negative: no forecast."""
    expires_at_millis: int
    """0: never."""
    online_at_millis: int
    next_reset_at_millis: int
    is_unenforced: bool
    panel_user_url: str

    @property
    def used_bytes(self) -> int:
        """Panel and external traffic together."""
        return self.marzban_bytes + self.external_bytes

    @property
    def is_over(self) -> bool:
        """Whether the quota is used up."""
        return self.quota_bytes > 0 and self.used_ratio >= 1

    @property
    def is_near(self) -> bool:
        """Whether most of the quota is used, and not all."""
        return self.quota_bytes > 0 and NEAR <= self.used_ratio < 1

    def expires_within(self, span: timedelta, *, now_millis: int) -> bool:
        """Tell whether a user who is let in now will not be for lack of time."""
        left_millis = self.expires_at_millis - now_millis
        return self.status is Status.ACTIVE and 0 < left_millis <= span // _MILLI

    def outlook(self) -> dict[str, FieldValue | None]:
        """Return what is to come, and when the user was seen last, as fields of its points."""
        return {
            "days_to_limit": self.days_to_limit,
            "expires_at_millis": self.expires_at_millis,
            "online_at_millis": self.online_at_millis,
            "next_reset_at_millis": self.next_reset_at_millis,
            "panel_user_url": self.panel_user_url,
        }


def figures_of(
    account: Account, totals: Totals, *, at: datetime, name: PublicName, panel_user_url: str = ""
) -> UserFigures:
    """Return what there is to show of an account at the ledger's totals."""
    found = balance(account, total_bytes=totals.billed_bytes)
    seen, quota_bytes = account.sighting, found.quota_bytes
    days = days_to_limit(account, totals, now=at)
    return UserFigures(
        user=name.username,
        admin=scoped(name.panel, account.admin) if account.admin else NOBODY,
        panel=name.panel,
        status=seen.status,
        quota_bytes=quota_bytes or 0,
        marzban_bytes=found.panel_bytes,
        external_bytes=found.external_bytes,
        used_ratio=found.used_bytes / quota_bytes if quota_bytes else 0.0,
        days_to_limit=NO_FORECAST if days is None else _in_steps(days),
        expires_at_millis=millis_of(expires_at(account)),
        online_at_millis=millis_of(seen.online_at),
        next_reset_at_millis=millis_of(account.reset_due_at),
        is_unenforced=found.is_exhausted and seen.status is Status.ACTIVE,
        panel_user_url=panel_user_url,
    )


def _in_steps(days: float) -> float:
    """Round a forecast, so that a user who uses nothing more is not written again all the time."""
    return round(days, 1 if days >= 1 else 2)


def millis_of(at: datetime | None) -> int:
    """Return a time in milliseconds; 0 for none."""
    return 0 if at is None else (at - _BEGINNING) // _MILLI
