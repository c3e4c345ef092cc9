"""The arithmetic of a quota: used and remaining bytes, and the limit and status for the panel."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from marzban_bridge.quota.account import FLOOR_BYTES, Account, Enforcement
from marzban_bridge.quota.usage import Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Quota and usage of the current period, in bytes."""

    quota_bytes: int | None
    panel_bytes: int
    external_bytes: int
    """Billed external bytes."""
    external_raw_bytes: int | None = None
    """Raw external bytes, for display; None if not requested."""

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
    """The limit and status that the panel should have for an account."""

    data_limit_bytes: int | None
    is_disabled: bool
    """Whether the user has to be disabled, since a limit cannot cut it off."""
    balance: Balance = field(repr=False)


def trusted(account: Account, *, is_store_suspended: bool) -> Account:
    """Return the account for display: held while the store is suspended."""
    return replace(account, is_held=True) if is_store_suspended else account


def effective_total_bytes(account: Account, *, total_bytes: int) -> int:
    """Return the ledger's total that an account's usage is computed with.

    For a held account it is the total seen before the loss, which is what a rebase keeps.
    """
    has_lost = account.is_held or total_bytes < account.seen_total_bytes
    return account.seen_total_bytes if has_lost else total_bytes


def balance(account: Account, *, total_bytes: int) -> Balance:
    """Compute an account's balance at a ledger total."""
    total_bytes = effective_total_bytes(account, total_bytes=total_bytes)
    return Balance(
        quota_bytes=account.quota_bytes,
        panel_bytes=account.sighting.used_bytes,
        external_bytes=total_bytes - account.baseline_bytes,
    )


def balance_with_raw(account: Account, totals: Totals) -> Balance:
    """Compute an account's balance for display, with its raw bytes."""
    has_lost = account.is_held or totals.billed_bytes < account.seen_total_bytes
    raw_total_bytes = account.seen_raw_bytes if has_lost else totals.raw_bytes
    raw_bytes = max(0, raw_total_bytes - account.raw_baseline_bytes)
    return replace(balance(account, total_bytes=totals.billed_bytes), external_raw_bytes=raw_bytes)


def desired(
    account: Account,
    *,
    total_bytes: int,
    enforcement: Enforcement,
    is_reseller_cut_off: bool = False,
) -> Desired:
    """Compute the limit and status that the panel should have.

    The panel cuts off at `used >= limit`, and limits below a floor are not published. So a user who
    used less than the floor on the panel's nodes is disabled instead, as is each user of a reseller
    whose quota is used up.
    """
    current = balance(account, total_bytes=total_bytes)
    if account.quota_bytes is None:
        return Desired(data_limit_bytes=None, is_disabled=is_reseller_cut_off, balance=current)
    limit_bytes = account.quota_bytes
    if enforcement is not Enforcement.DISABLE:
        floor_bytes = min(FLOOR_BYTES, account.quota_bytes)
        limit_bytes = max(floor_bytes, account.quota_bytes - current.external_bytes)
    return Desired(
        data_limit_bytes=limit_bytes,
        is_disabled=is_reseller_cut_off
        or (current.is_exhausted and current.panel_bytes < limit_bytes),
        balance=current,
    )
