"""The account: what the bridge stores of one user, as values.

`observe` updates an account from a panel snapshot, `balance` computes the usage of its quota, and
`plan` the next change. External usage of the current period is the ledger's total minus the
baseline; a reset moves the baseline and deletes nothing. Totals are billed bytes, which quotas
limit; raw bytes are stored beside them for display only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from marzban_bridge.event import Event as Event  # noqa: PLC0414 - what happened to an account
from marzban_bridge.panels.names import account_key
from marzban_bridge.panels.users import NextPlan, PanelUser, ResetStrategy, Status
from marzban_bridge.quota.usage import Seqs, Totals, UsageMark, merged

MIB = 1024 * 1024
GIB = 1024 * MIB
FLOOR_BYTES = MIB
"""The smallest limit that is published, since the panel reads 0 as unlimited."""
ROUNDING_BYTES = 16 * 1024
"""Marzban's edit dialog sends a limit back rounded to 0.00001 GiB (about 10.5 KiB)."""
REMEMBERED_LIMITS = 8


class Enforcement(StrEnum):
    """How an exhausted quota is enforced."""

    LIMIT = "limit"
    """Publish the remaining quota as the panel's data limit; the panel cuts the user off."""
    DISABLE = "disable"
    """Do not change the data limit; disable the user when the quota is used up."""
    OBSERVE = "observe"
    """Evaluate and plan, but change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelSnapshot:
    """The state of a user as the panel last showed it."""

    seen_at: datetime
    status: Status
    data_limit_bytes: int | None
    used_bytes: int
    lifetime_bytes: int
    reset_strategy: ResetStrategy
    expire: int | None = None
    on_hold_expire_duration: int | None = None
    next_plan: NextPlan | None = None
    online_at: datetime | None = None
    edited_at: datetime | None = None

    @property
    def logged_bytes(self) -> int:
        """Traffic of earlier periods in the panel's log; it changes only at a reset."""
        return self.lifetime_bytes - self.used_bytes


def snapshot_of(user: PanelUser, *, seen_at: datetime) -> PanelSnapshot:
    """Take the snapshot of a panel user."""
    return PanelSnapshot(
        seen_at=seen_at,
        status=user.status,
        data_limit_bytes=user.data_limit_bytes,
        used_bytes=user.used_bytes,
        lifetime_bytes=user.lifetime_bytes,
        reset_strategy=user.reset_strategy,
        expire=user.expire,
        on_hold_expire_duration=user.on_hold_expire_duration,
        next_plan=user.next_plan,
        online_at=user.online_at,
        edited_at=user.edited_at,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Restoration:
    """What a reset, or a write that landed late, removed from a user and is to be restored."""

    status: Status | None = None
    on_hold_expire_duration: int | None = None
    next_plan: NextPlan | None = None
    drops_next_plan: bool = False
    """Whether a next plan, which the user did not have before, is to be removed."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to restore."""
        return self.status is None and self.next_plan is None and not self.drops_next_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetRequest:
    """A requested reset that is not finished; stored, so that it survives a crash."""

    cause: str
    actor: str
    total_bytes: int
    raw_total_bytes: int
    requested_at: datetime
    seqs: Seqs | None = None
    """By reported name, the change number up to which it is in these totals."""
    restoration: Restoration = Restoration()
    is_panel_called: bool = False
    """Whether the panel has reset the user, so that only the account remains to be changed."""
    is_of_all: bool = False
    """Whether it was part of a reset of all users, for which the panel sends no webhook."""
    shared_period: int | None = None
    """The shared period that this reset follows; None if the reset begins a period."""
    requested_in_period: int | None = None
    """The shared period when the reset was requested. If a later period has begun by its end, the
    reset belongs to that one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWrite:
    """One write, stored before it is sent; None for fields that it does not change."""

    data_limit_bytes: int | None
    status: Status | None
    may_land_until: datetime
    """The last time at which the panel may still carry it out."""
    next_plan: NextPlan | None = None
    """The next plan that it sends along."""
    number: int = 0
    """The number in its note line (`note_line`); 0 without a line."""
    text_mark: str | None = None
    """A digest of the admin's text in the note that it sends; None if it sends no note."""
    lifts_limit: bool = False
    """Whether it removes the limit."""
    is_answered: bool = False
    """Whether the panel answered, and no earlier try of it can land any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalsAt:
    """The ledger's totals of a user at one evaluation."""

    at: datetime
    totals: Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnEdit:
    """A write of the bridge, as the panel says when it was carried out."""

    before_at: datetime | None
    """When the user was last edited before, as the bridge read it."""
    edited_at: datetime
    data_limit_bytes: int | None
    """The limit that the user had then."""
    next_plan: NextPlan | None = None
    """The next plan that the user had before, and after."""
    text_mark: str = ""
    """Of the admin's own text in the note, before and after."""
    is_seen: bool = False
    """A later evaluation showed the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenLine:
    """This store's line in the user's note at the last evaluation, and the limit beside it."""

    number: int
    data_limit_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnexplainedEdit:
    """A smaller, odd limit soon after a write of the bridge, which was taken for the new quota."""

    quota_bytes: int | None
    """The quota before that."""
    found_at: datetime
    has_held: bool = False
    """Whether the user is held because of it; the limit at the rebase is another bridge's too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded:
    """A limit on this panel that does not set the shared quota: another panel's limit does."""

    data_limit_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One panel user, until it is deleted: quota, published limit, period and baseline."""

    username: str
    """In the panel's spelling: `Alice` and `alice` are two users."""
    created_at: datetime | None
    """The user's creation; it tells a recreated user from the deleted one."""
    admin: str | None
    quota_bytes: int | None
    """The quota that the admin set; None is unlimited."""
    baseline_bytes: int
    """The ledger's total when the current period began."""
    seen_total_bytes: int
    """The ledger's total at the last evaluation; a smaller one means that reports were lost."""
    raw_baseline_bytes: int
    """The ledger's raw total when the current period began."""
    seen_raw_bytes: int
    """The ledger's raw total at the last evaluation."""
    period_started_at: datetime
    sighting: PanelSnapshot
    published_bytes: int | None = None
    """The published limit; None while the panel shows the quota itself."""
    open_writes: tuple[OpenWrite, ...] = ()
    """Writes that may still land in the panel, in the order in which they were sent."""
    write_number: int = 0
    """The number of this store's writes to the user; the note line has the write's number."""
    seen_line: SeenLine | None = None
    """This store's note line at the last evaluation; None without one."""
    seen_text: str | None = None
    """The admin's text in the note at the last evaluation, while an open write may replace it."""
    lost_text: str | None = None
    """The admin's text that a late write removed from the note and that is to be restored."""
    known_lines: tuple[str, ...] = ()
    """Lines of other stores that were in the note when no bridge renewed them any more."""
    limit_written_at: datetime | None = None
    """When the panel last answered a write of a limit."""
    unexplained_edit: UnexplainedEdit | None = None
    own_edits: tuple[OwnEdit, ...] = ()
    """The last writes of the bridge, where the panel says when users are edited."""
    intended_bytes: int | None = None
    """The limit of an unanswered write of a version without `open_writes`."""
    remembered_limits: tuple[int, ...] = ()
    """Recently published limits: an edit dialog opened earlier may send one of them back."""
    admin_baseline_bytes: int = 0
    """The ledger's total when the usage of the owning admin was last reset."""
    is_disabled_by_us: bool = False
    let_in_at: datetime | None = None
    """When a user that the bridge had disabled was found active."""
    intended_status: Status | None = None
    """The status of such a write."""
    is_held: bool = False
    """Whether the account is held: the ledger lost reports; it is not changed until a rebase."""
    needs_readd: bool = False
    """Whether a reset found the user limited: Marzban may not have added it to xray again, which
    any write does."""
    open_resets: tuple[datetime, ...] = ()
    """For each unanswered reset of the bridge, until when it may land or its webhook arrive."""
    echo_until: datetime | None = None
    """Until then one reset webhook belongs to a reset that is already counted (`echoes`)."""
    earlier_echoes_until: tuple[datetime, ...] = ()
    """Until then one more webhook each belongs to an earlier reset that is already counted."""
    used_when_due_bytes: int | None = None
    """The panel traffic that was last seen before the periodic reset was due."""
    used_rose_at: datetime | None = None
    """The last evaluation that showed more panel traffic than the one before."""
    resets_known_until: datetime | None = None
    """All resets in the panel until then are in the baseline, or were before the account."""
    recent_totals: tuple[TotalsAt, ...] = ()
    """Where webhooks say when a reset happened: what there was to forgive at such a moment."""
    reset_all_seen_at: datetime | None = None
    """The latest reset of all users that is included in this account."""
    fire_attempts: int = 0
    """How often the panel was asked to fire the next plan that is still waiting."""
    dropped_plan: NextPlan | None = None
    """A next plan that vanished without a detected reset; the reset may be detected later."""
    dropped_plan_at: datetime | None = None
    restoration: Restoration | None = None
    reset_request: ResetRequest | None = None
    spent_before_bytes: int = 0
    """With a shared quota: bytes used on this panel before the panel's current period."""
    shared_period: int | None = None
    """The number of the shared period that the account is in; None without a shared quota."""
    shared_version: int = 0
    """The number of the shared quota's value that the account has."""
    generation: int = 0
    """The generation of the shared quota, or the next one if the user was recreated."""
    joined_limit_bytes: int | None = None
    """The quota of the user before it shared one."""
    owes_reset: bool = False
    """Whether the user still has to follow a reset on another panel while quotas were shared."""
    superseded: Superseded | None = None
    """The limit in this panel when the quota was taken from another panel."""
    period_seqs: Seqs | None = None
    """By reported name, up to which number of the ledger its reports are before the period; None
    where that is not known."""
    admin_seqs: Seqs | None = None
    """The same for when the usage of the owning admin was last reset."""
    seen_seqs: Seqs | None = None
    """The same for the last evaluation."""
    corrected_seqs: Seqs = ()
    """By reported name, up to which number of the ledger corrections are in the baselines."""
    usage_marks: tuple[UsageMark, ...] = ()
    """What was used in all, once a day of the last week, oldest first; for forecasts."""

    @property
    def lifetime_panel_bytes(self) -> int:
        """Bytes used on this panel since the user shares a quota; they never decrease."""
        return self.spent_before_bytes + self.sighting.used_bytes

    @property
    def reset_due_at(self) -> datetime | None:
        """When the panel's periodic reset falls due; None for users without one."""
        days = self.sighting.reset_strategy.period_days
        return None if days is None else self.period_started_at + timedelta(days=days)

    @property
    def key(self) -> str:
        """The name under which the account is stored."""
        return account_key(self.username)


def with_values(account: Account, **values: Any) -> Account:
    """Return the account with these values; the same object if it has them already.

    For what each evaluation does: copying an account takes longer than to decide about it.
    """
    if all(getattr(account, name) == value for name, value in values.items()):
        return account
    return replace(account, **values)


def shifted(account: Account, *, before: Totals, after: Totals) -> Account:
    """Move the baselines so that usage stays the same when the totals change without traffic.

    If `before` has no change numbers of names, later corrections of bytes until now are not
    applied.
    """
    shift_bytes = after.billed_bytes - before.billed_bytes
    raw_shift_bytes = after.raw_bytes - before.raw_bytes
    if request := account.reset_request:
        request = replace(
            request,
            total_bytes=request.total_bytes + shift_bytes,
            raw_total_bytes=request.raw_total_bytes + raw_shift_bytes,
        )
    joined = tuple(set(after.seqs or ()) - set(before.seqs or ()))
    return replace(
        account,
        period_seqs=_joined(account.period_seqs, joined),
        admin_seqs=_joined(account.admin_seqs, joined),
        seen_seqs=_joined(account.seen_seqs, joined),
        corrected_seqs=merged(account.corrected_seqs, joined),
        baseline_bytes=account.baseline_bytes + shift_bytes,
        admin_baseline_bytes=account.admin_baseline_bytes + shift_bytes,
        seen_total_bytes=account.seen_total_bytes + shift_bytes,
        raw_baseline_bytes=account.raw_baseline_bytes + raw_shift_bytes,
        seen_raw_bytes=account.seen_raw_bytes + raw_shift_bytes,
        reset_request=request,
        recent_totals=(),
    )


def _joined(seqs: Seqs | None, others: Seqs) -> Seqs | None:
    """Merge change numbers: bytes of names up to them are before the period."""
    return None if seqs is None else merged(seqs, others)


def moved_along(account: Account, moved: Totals, *, corrected_seqs: Seqs) -> Account:
    """Move the baselines as the beginning of the account's shared period was moved.

    A held account's corrections are applied after its rebase.
    """
    return replace(
        account,
        baseline_bytes=account.baseline_bytes + moved.billed_bytes,
        raw_baseline_bytes=account.raw_baseline_bytes + moved.raw_bytes,
        period_seqs=moved.seqs,
        corrected_seqs=account.corrected_seqs if account.is_held else corrected_seqs,
    )


def is_same_limit(one: int | None, other: int | None) -> bool:
    """Tell whether two limits differ by no more than the panel's own rounding."""
    if one is None or other is None:
        return one is other
    return abs(one - other) <= ROUNDING_BYTES
