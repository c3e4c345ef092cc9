"""What the bridge stores of one user: values alone.

`observe` folds what was seen into an account, `balance` does the arithmetic of its quota, `plan`
says what to do. External usage of the current period is the ledger's total less the baseline; a
reset moves the baseline and deletes nothing. Totals are of billed bytes, which is what quotas are
about; the raw bytes beside them are kept to be shown, and decide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from marzban_bridge.panels.names import account_key
from marzban_bridge.panels.users import NextPlan, PanelUser, ResetStrategy, Status
from marzban_bridge.quota.usage import Seqs, Totals, merged

MIB = 1024 * 1024
GIB = 1024 * MIB
FLOOR_BYTES = MIB
"""The least limit ever published: the panel reads 0 as unlimited."""
ROUNDING_BYTES = 16 * 1024
"""Marzban's edit dialog re-sends a limit rounded to 0.00001 GiB (about 10.5 KiB)."""
REMEMBERED_LIMITS = 8


class Enforcement(StrEnum):
    """How an exhausted quota is made to hold."""

    LIMIT = "limit"
    """Publish the remaining quota as the panel's data limit; the panel cuts the user off."""
    DISABLE = "disable"
    """Leave the data limit alone; disable the user at the crossing."""
    OBSERVE = "observe"
    """Work everything out, change nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelSnapshot:
    """What the panel last showed of a user, as far as later decisions need it."""

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
        """Traffic of earlier periods in the panel's log; it moves only when a reset happens."""
        return self.lifetime_bytes - self.used_bytes


def snapshot_of(user: PanelUser, *, seen_at: datetime) -> PanelSnapshot:
    """Keep of a panel user what later decisions need."""
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
    """What a reset, or a write that landed late, took from a user: still to be put back."""

    status: Status | None = None
    on_hold_expire_duration: int | None = None
    next_plan: NextPlan | None = None
    drops_next_plan: bool = False
    """Whether the user had no next plan and has one now, which is to be taken out again."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to put back."""
        return self.status is None and self.next_plan is None and not self.drops_next_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetRequest:
    """A reset the bridge was asked for and has not finished; it survives a crash."""

    cause: str
    actor: str
    total_bytes: int
    raw_total_bytes: int
    requested_at: datetime
    seqs: Seqs | None = None
    """Up to which number of the ledger each name was in these totals."""
    restoration: Restoration = Restoration()
    is_panel_called: bool = False
    """The panel has done its part; only the books are left."""
    is_of_all: bool = False
    """It was done by a reset of all users, of which no webhook tells."""
    shared_period: int | None = None
    """Which period of a shared quota this follows; None begins a period by itself."""
    requested_in_period: int | None = None
    """The shared period when it was asked for. Where another one has begun by the end, in which all
    until then is forgiven, this is part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWrite:
    """One write, stored before it is sent; None for what it leaves as it is."""

    data_limit_bytes: int | None
    status: Status | None
    may_land_until: datetime
    """The last moment at which the panel may carry it out."""
    next_plan: NextPlan | None = None
    """The next plan that it takes along."""
    number: int = 0
    """The number in the line that it carries (`note_line`); 0 when it carries none."""
    text_mark: str | None = None
    """Of the admin's own text in the note that it takes along; None when it leaves the note."""
    lifts_limit: bool = False
    """Whether it takes the limit away."""
    is_answered: bool = False
    """The panel answered, and no earlier try of it can land any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalsAt:
    """The ledger's totals of a user at one look."""

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
    """A later look showed what it came to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenLine:
    """The line of ours that stood in the user's note at the last look, and the limit beside it."""

    number: int
    data_limit_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnexplainedEdit:
    """A smaller limit that nobody types, soon after a write of ours, taken for the new quota."""

    quota_bytes: int | None
    """The quota before it."""
    found_at: datetime
    has_held: bool = False
    """It has held the user; the limit when that is let go is the other bridge's as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded:
    """A limit in the panel that is not the admin's word on the quota: another panel's is."""

    data_limit_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One incarnation of a panel user: its quota, what was published instead, its period."""

    username: str
    """As the panel spells it: `Alice` and `alice` are two users."""
    created_at: datetime | None
    """Tells a re-created user from the one that was deleted."""
    admin: str | None
    quota_bytes: int | None
    """What the admin meant; None is unlimited."""
    baseline_bytes: int
    """The ledger's total when the current period began."""
    seen_total_bytes: int
    """The ledger's total at the last look; a smaller one means the ledger lost something."""
    raw_baseline_bytes: int
    """The ledger's raw total when the current period began."""
    seen_raw_bytes: int
    """The ledger's raw total at the last look."""
    period_started_at: datetime
    sighting: PanelSnapshot
    published_bytes: int | None = None
    """The limit we wrote instead of the quota; None while the panel shows the quota itself."""
    open_writes: tuple[OpenWrite, ...] = ()
    """Writes whose limit or status may still appear in the panel, in the order they were made."""
    write_number: int = 0
    """How many writes this store has made to the user; the line in the note says which."""
    seen_line: SeenLine | None = None
    """None where the note had no line of ours at the last look."""
    seen_text: str | None = None
    """The admin's own text in the note at the last look, kept while a write may replace it."""
    lost_text: str | None = None
    """The text that a write which landed late took from the note: still to be put back."""
    known_lines: tuple[str, ...] = ()
    """Lines of other stores that stood in the note when no bridge renewed them any more."""
    limit_written_at: datetime | None = None
    """When the panel last answered a write of a limit."""
    unexplained_edit: UnexplainedEdit | None = None
    own_edits: tuple[OwnEdit, ...] = ()
    """The last writes of the bridge, where the panel says when users are edited."""
    intended_bytes: int | None = None
    """The limit of a write that a version without `open_writes` left under way."""
    remembered_limits: tuple[int, ...] = ()
    """Limits we published lately: an edit dialog opened earlier may send one of them back."""
    admin_baseline_bytes: int = 0
    """The ledger's total when the usage of the owning admin was last reset."""
    is_disabled_by_us: bool = False
    let_in_at: datetime | None = None
    """When the user was found active although the bridge had disabled it."""
    intended_status: Status | None = None
    """The status of such a write."""
    is_held: bool = False
    """The ledger's total fell: nothing is changed until the operator rebases."""
    needs_readd: bool = False
    """A reset found the user limited: Marzban may have left it out of xray; any write re-adds."""
    open_resets: tuple[datetime, ...] = ()
    """Until when the panel may carry out, or tell of, resets of ours that it did not answer."""
    echo_until: datetime | None = None
    """Until then one reset webhook is the echo of a reset that is already counted (`echoes`)."""
    earlier_echoes_until: tuple[datetime, ...] = ()
    """Until then one more each is, of a reset before that."""
    used_when_due_bytes: int | None = None
    """Panel traffic last seen before the periodic reset fell due."""
    used_rose_at: datetime | None = None
    """The last look that showed more panel traffic than the one before."""
    resets_known_until: datetime | None = None
    """All resets in the panel until then are in the baseline, or were before the account."""
    recent_totals: tuple[TotalsAt, ...] = ()
    """Where webhooks say when a reset happened: what there was to forgive at such a moment."""
    reset_all_seen_at: datetime | None = None
    """The latest reset-all that this account has taken into account."""
    fire_attempts: int = 0
    """How often we asked the panel to fire the next plan that is still waiting."""
    dropped_plan: NextPlan | None = None
    """A next plan that vanished without a reset to be seen; one may still come to light."""
    dropped_plan_at: datetime | None = None
    restoration: Restoration | None = None
    reset_request: ResetRequest | None = None
    spent_before_bytes: int = 0
    """What a user who shares a quota used on this panel before the panel's current period."""
    shared_period: int | None = None
    """The period of the shared quota that the account is in; None while it shares none."""
    shared_version: int = 0
    """Which of the shared quota's values the account has."""
    generation: int = 0
    """That of the shared quota, or the next where the user took the place of an earlier one."""
    joined_limit_bytes: int | None = None
    """The quota that the user had when it began to share one."""
    owes_reset: bool = False
    """The quota was shared when another panel's user was reset; this one is still to be."""
    superseded: Superseded | None = None
    """The limit the panel showed when the quota was taken from another panel."""
    period_seqs: Seqs | None = None
    """By reported name, up to which number of the ledger its reports are before the period; None
    where that is not known."""
    admin_seqs: Seqs | None = None
    """The same for when the usage of the owning admin was last reset."""
    seen_seqs: Seqs | None = None
    """The same for the last look."""
    corrected_seqs: Seqs = ()
    """By reported name, up to which number of the ledger corrections are in the baselines."""

    @property
    def lifetime_panel_bytes(self) -> int:
        """What the user used on this panel since it shares a quota; never falls."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to an account, for the audit trail."""

    kind: str
    text: str
    actor: str = "bridge"
    before: str | None = None
    after: str | None = None


def shifted(account: Account, *, before: Totals, after: Totals) -> Account:
    """Keep what an account has used where its totals become others without any use.

    Where `before` does not say of which names it was, everything up to now is taken as it is: what
    corrections take back of that later changes nothing here.
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
    """Have what was reported of names up to now be before a period, without any use in it."""
    return None if seqs is None else merged(seqs, others)


def is_same_limit(one: int | None, other: int | None) -> bool:
    """Tell whether two limits differ by no more than the panel's own rounding."""
    if one is None or other is None:
        return one is other
    return abs(one - other) <= ROUNDING_BYTES
