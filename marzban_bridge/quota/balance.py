"""The arithmetic of a quota: what an account has used, what is left, what the panel should hold."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from marzban_bridge.quota.account import FLOOR_BYTES, Account, Enforcement
from marzban_bridge.quota.usage import Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """How an account stands: all traffic of the period against the quota, in bytes."""

    quota_bytes: int | None
    panel_bytes: int
    external_bytes: int
    """What external traffic counts for."""
    external_raw_bytes: int | None = None
    """The external bytes themselves, where somebody wants to see them."""

    @property
    def used_bytes(self) -> int:
        """The panel's own plus external traffic of the current period."""
        return self.panel_bytes + self.external_bytes

    @property
    def left_bytes(self) -> int | None:
        """What may still be used; negative when overrun, None when unlimited."""
        return None if self.quota_bytes is None else self.quota_bytes - self.used_bytes

    @property
    def is_exhausted(self) -> bool:
        """Whether the quota is used up, by the panel's rule `used >= limit`."""
        return self.left_bytes is not None and self.left_bytes <= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the panel should hold for an account."""

    data_limit_bytes: int | None
    is_disabled: bool
    """Whether only the status can keep the user out."""
    balance: Balance = field(repr=False)


def trusted(account: Account, *, is_store_suspended: bool) -> Account:
    """Return the account as it is to be shown: all are held while the store is in doubt."""
    return replace(account, is_held=True) if is_store_suspended else account


def standing_total(account: Account, *, total_bytes: int) -> int:
    """Return the ledger total an account stands at.

    Where the ledger has lost some of it, that is the one that was seen before: what the ledger says
    since is neither what was used nor what a rebase will keep.
    """
    has_lost = account.is_held or total_bytes < account.seen_total_bytes
    return account.seen_total_bytes if has_lost else total_bytes


def balance(account: Account, *, total_bytes: int) -> Balance:
    """Work out how an account stands at the given ledger total."""
    total_bytes = standing_total(account, total_bytes=total_bytes)
    return Balance(
        quota_bytes=account.quota_bytes,
        panel_bytes=account.sighting.used_bytes,
        external_bytes=total_bytes - account.baseline_bytes,
    )


def balance_with_raw(account: Account, totals: Totals) -> Balance:
    """Work out how an account stands, to be shown: with its raw bytes beside what they count."""
    has_lost = account.is_held or totals.billed_bytes < account.seen_total_bytes
    raw_total_bytes = account.seen_raw_bytes if has_lost else totals.raw_bytes
    raw_bytes = max(0, raw_total_bytes - account.raw_baseline_bytes)
    return replace(balance(account, total_bytes=totals.billed_bytes), external_raw_bytes=raw_bytes)


def desired(account: Account, *, total_bytes: int, enforcement: Enforcement) -> Desired:
    """Work out what the panel should hold.

    The panel cuts off at `used >= limit`, so it cannot cut off a user who used less on its nodes
    than the floor: exactly those are to be disabled.
    """
    standing = balance(account, total_bytes=total_bytes)
    if account.quota_bytes is None:
        return Desired(data_limit_bytes=None, is_disabled=False, balance=standing)
    limit_bytes = account.quota_bytes
    if enforcement is not Enforcement.DISABLE:
        floor_bytes = min(FLOOR_BYTES, account.quota_bytes)
        limit_bytes = max(floor_bytes, account.quota_bytes - standing.external_bytes)
    return Desired(
        data_limit_bytes=limit_bytes,
        is_disabled=standing.is_exhausted and standing.panel_bytes < limit_bytes,
        balance=standing,
    )
