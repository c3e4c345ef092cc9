"""Converts quotas and usage when `BRIDGE_QUOTAS_SPAN_PANELS` is switched on or off.

Switched on, the shared usage is the sum of what each account had used in its own period. Switched
off, each account has its own share of what was used, and the shares add up to that: so whatever is
switched how often, what is used stays used, and once (decision 0022).

An account's share is what its panel counted since the shared period began and what was reported for
it; `SharedQuota.starts` has where both stood then. What is left over is the first account's: what
users counted who are on their panel no more, and what was reported for panels without such a user.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from marzban_bridge.quota.account import Account, shifted
from marzban_bridge.quota.balance import effective_total_bytes
from marzban_bridge.quota.shared import in_step, is_behind, spent_between, take_quota
from marzban_bridge.quota.shared_quota import SharedQuota
from marzban_bridge.quota.usage import Seqs, Totals, merged

OWES = -1
"""The shared period, before all others, of a panel that has still to carry out a reset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One panel's account of a name, and what of the ledger is that panel's own."""

    account: Account
    own: Totals


def form(
    members: Mapping[str, Member], *, nobodys: Totals
) -> tuple[SharedQuota, dict[str, Account]]:
    """Make accounts with quotas of their own share one, with the usage of each.

    `members` are in the order of the panels; `nobodys` are the totals reported for the name and
    charged to none of them. A pending reset concerns its account only: the period continues on the
    others, and the bytes that the panel counted before that reset are not charged any more.
    """
    panel, first = next(iter(members.items()))
    bases = {name: _base_of(member.account) for name, member in members.items()}
    start = Totals(
        billed_bytes=nobodys.billed_bytes + sum(base.billed_bytes for base in bases.values()),
        raw_bytes=nobodys.raw_bytes + sum(base.raw_bytes for base in bases.values()),
        seqs=_all_seqs([nobodys.seqs, *(base.seqs for base in bases.values())]),
    )
    corrected = nobodys.seqs or ()
    for member in members.values():
        corrected = merged(corrected, member.account.corrected_seqs)
    shared = SharedQuota(
        quota_bytes=first.account.quota_bytes,
        panel=panel,
        start=start,
        corrected_seqs=corrected,
        starts=bases,
    )
    formed = {}
    for name, member in members.items():
        others = [each for other, each in members.items() if other != name]
        elsewhere = _sum([nobodys, *(_stood(each) for each in others)])
        formed[name] = _formed(member, shared, elsewhere=elsewhere)
    return shared, formed


def _base_of(account: Account) -> Totals:
    """Return the totals at which an account's own period began, the panel's counter included.

    The counter began at zero, or, if a reset is pending, at its current value.
    """
    shown_bytes = account.sighting.used_bytes if _owes(account) else 0
    request = account.reset_request
    if request is None:
        billed_bytes, raw_bytes = account.baseline_bytes, account.raw_baseline_bytes
        seqs = account.period_seqs
    else:
        billed_bytes, raw_bytes = request.total_bytes, request.raw_total_bytes
        seqs = request.seqs
    return Totals(
        billed_bytes=billed_bytes + shown_bytes, raw_bytes=raw_bytes + shown_bytes, seqs=seqs
    )


def _owes(account: Account) -> bool:
    return account.owes_reset or account.reset_request is not None


def _stood(member: Member) -> Totals:
    """Return the sum of bytes counted on a panel and reported for it, as the account has it."""
    used_bytes = member.account.sighting.used_bytes
    return Totals(
        billed_bytes=member.own.billed_bytes + used_bytes,
        raw_bytes=member.own.raw_bytes + used_bytes,
    )


def _formed(member: Member, shared: SharedQuota, *, elsewhere: Totals) -> Account:
    own = member.own
    account = shifted(member.account, before=own, after=_sum([own, elsewhere]))
    period, shown_bytes = shared.period, 0
    if _owes(member.account):
        period, shown_bytes = OWES, member.account.sighting.used_bytes
        if request := account.reset_request:
            account = replace(account, reset_request=replace(request, shared_period=shared.period))
    joined = replace(
        account,
        spent_before_bytes=0,
        shared_period=period,
        shared_version=0,
        joined_limit_bytes=account.quota_bytes,
        owes_reset=False,
    )
    taken, _ = take_quota(joined, shared)
    if period == OWES and shared.start:
        # The panel's counter is from before the pending reset, and is not charged to the others.
        taken = replace(
            taken,
            baseline_bytes=shared.start.billed_bytes - shown_bytes,
            raw_baseline_bytes=shared.start.raw_bytes - shown_bytes,
        )
    return in_step(taken, shared)


def leave(
    members: Mapping[str, Member], shared: SharedQuota, *, totals: Mapping[str, Totals]
) -> dict[str, Account]:
    """Give accounts their own quotas again, each with its share of the usage.

    `members` are in the order of the panels; `totals` are those of each until now. A panel that has
    still to follow a reset of the others does so afterwards (`Account.owes_reset`).
    """
    behind = {name for name, each in members.items() if _has_to_follow(each.account, shared)}
    counted = {
        name: 0 if name in behind else member.account.sighting.used_bytes
        for name, member in members.items()
    }
    billed = _shares(
        {name: lifetime_totals(each).billed_bytes for name, each in members.items()},
        {name: start.billed_bytes for name, start in shared.starts.items()},
        counted=counted,
        used_bytes=_used(members, totals, behind, is_raw=False),
    )
    raw = _shares(
        {name: lifetime_totals(each).raw_bytes for name, each in members.items()},
        {name: start.raw_bytes for name, start in shared.starts.items()},
        counted=counted,
        used_bytes=_used(members, totals, behind, is_raw=True),
    )
    return {
        name: _left(
            member,
            totals=totals[name],
            external=Totals(
                billed_bytes=billed[name] - counted[name], raw_bytes=raw[name] - counted[name]
            ),
            owes_reset=name in behind,
        )
        for name, member in members.items()
    }


def leave_while_gone(account: Account, *, own: Totals) -> Account:
    """Give the account of a deleted user its own quota, in case the user returns.

    Its usage is in another account's share, and is not charged again.
    """
    used_bytes = account.sighting.used_bytes
    nothing = Totals(billed_bytes=-used_bytes, raw_bytes=-used_bytes)
    totals = Totals(billed_bytes=account.seen_total_bytes, raw_bytes=account.seen_raw_bytes)
    member = Member(account=account, own=own)
    return _left(member, totals=totals, external=nothing, owes_reset=False)


def _has_to_follow(account: Account, shared: SharedQuota) -> bool:
    request = account.reset_request
    follows = request is not None and request.shared_period is not None
    return follows or is_behind(account, shared)


def lifetime_totals(member: Member) -> Totals:
    """Return the bytes a panel counted since the quota is shared, plus those reported for it."""
    lifetime_bytes = member.account.lifetime_panel_bytes
    return Totals(
        billed_bytes=member.own.billed_bytes + lifetime_bytes,
        raw_bytes=member.own.raw_bytes + lifetime_bytes,
    )


def _used(
    members: Mapping[str, Member],
    totals: Mapping[str, Totals],
    behind: set[str],
    *,
    is_raw: bool,
) -> int:
    """Return the usage of the shared period; each account in the period gives the same number.

    If the ledger lost reports, the held accounts give the larger number, which is taken.
    """
    used: list[int] = []
    for name, member in members.items():
        account, total = member.account, totals[name]
        if name in behind:
            continue
        if is_raw:
            counted_bytes = max(total.raw_bytes, account.seen_raw_bytes)
            external_bytes = counted_bytes - account.raw_baseline_bytes
        else:
            counted_bytes = effective_total_bytes(account, total_bytes=total.billed_bytes)
            external_bytes = counted_bytes - account.baseline_bytes
        used.append(external_bytes + account.sighting.used_bytes)
    return max(used, default=0)


def _shares(
    stands: Mapping[str, int],
    starts: Mapping[str, int],
    *,
    counted: Mapping[str, int],
    used_bytes: int,
) -> dict[str, int]:
    """Divide the usage: each account gets what its panel counted and what was reported for it.

    The first one gets the rest. The shares add up to the usage, unless the panels show more.
    """
    rest_bytes = max(0, used_bytes - sum(counted.values()))
    shares = dict(counted)
    first, *others = stands
    for name in others:
        if name in starts:
            reported_bytes = max(0, stands[name] - starts[name] - counted[name])
            given_bytes = min(reported_bytes, rest_bytes)
            shares[name] += given_bytes
            rest_bytes -= given_bytes
    shares[first] += rest_bytes
    return shares


def _left(member: Member, *, totals: Totals, external: Totals, owes_reset: bool) -> Account:
    own, before = member.own, member.account
    counted = Totals(
        billed_bytes=max(totals.billed_bytes, before.seen_total_bytes),
        raw_bytes=max(totals.raw_bytes, before.seen_raw_bytes),
        seqs=own.seqs,
    )
    account = shifted(before, before=counted, after=own)
    base = Totals(
        billed_bytes=own.billed_bytes - external.billed_bytes,
        raw_bytes=own.raw_bytes - external.raw_bytes,
    )
    request = account.reset_request
    if request and (owes_reset or request.shared_period is not None):
        owes_reset = False  # the request is stored already
        request = replace(request, total_bytes=base.billed_bytes, raw_total_bytes=base.raw_bytes)
    quota_bytes, superseded = account.quota_bytes, account.superseded
    if quota_bytes is None and superseded:  # a limit that concerned this panel only
        quota_bytes, superseded = superseded.data_limit_bytes, None
    return replace(
        account,
        quota_bytes=quota_bytes,
        baseline_bytes=base.billed_bytes,
        raw_baseline_bytes=base.raw_bytes,
        seen_total_bytes=own.billed_bytes,
        seen_raw_bytes=own.raw_bytes,
        spent_before_bytes=0,
        shared_period=None,
        shared_version=0,
        superseded=superseded,
        generation=0,
        joined_limit_bytes=None,
        owes_reset=owes_reset,
        reset_request=request,
    )


def period_start_of(account: Account) -> Totals:
    """Return the totals at which an account's period began."""
    return Totals(
        billed_bytes=account.baseline_bytes,
        raw_bytes=account.raw_baseline_bytes,
        seqs=account.period_seqs,
    )


def with_reset_to_follow(before: Account, after: Account, *, was_reset: bool) -> Account:
    """Evaluate a user with a pending reset: bytes used until it is carried out are charged.

    A reset by the panel itself is taken for the pending one.
    """
    if not after.owes_reset or after.is_held:
        return after
    if not was_reset:
        return _with_used(after, after.sighting.used_bytes - before.sighting.used_bytes)
    kept = replace(
        after,
        baseline_bytes=before.baseline_bytes,
        raw_baseline_bytes=before.raw_baseline_bytes,
        period_seqs=before.period_seqs,
        corrected_seqs=before.corrected_seqs,
        owes_reset=False,
    )
    return with_unseen(before, kept)


def with_unseen(before: Account, after: Account) -> Account:
    """Charge the bytes a panel counted between the last evaluation and a pending reset."""
    unseen_bytes = spent_between(before.sighting, after.sighting) - before.sighting.used_bytes
    return _with_used(after, max(0, unseen_bytes))


def _with_used(account: Account, more_bytes: int) -> Account:
    return replace(
        account,
        baseline_bytes=account.baseline_bytes - more_bytes,
        raw_baseline_bytes=account.raw_baseline_bytes - more_bytes,
    )


def _sum(parts: Sequence[Totals]) -> Totals:
    return Totals(
        billed_bytes=sum(part.billed_bytes for part in parts),
        raw_bytes=sum(part.raw_bytes for part in parts),
        seqs=_all_seqs([part.seqs for part in parts]),
    )


def _all_seqs(parts: Sequence[Seqs | None]) -> Seqs | None:
    """Return the change numbers of all names; None if they are unknown for one part."""
    together: Seqs = ()
    for part in parts:
        if part is None:
            return None
        together = merged(together, part)
    return together
