"""What corrections of the ledger take back of an account's usage, and what of it is of its period.

Decides nothing about the panel. Totals go on growing whatever is corrected; an account's baseline
moves instead, by what was taken back of the reports after its period's number. See
docs/decisions/0018.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from marzban_bridge.quota.account import Account, Event
from marzban_bridge.quota.balance import balance
from marzban_bridge.quota.shared_quota import SharedQuota
from marzban_bridge.quota.usage import CorrectedName, Seqs, Totals, merged


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What the collector is asked about the corrections of one name."""

    username: str
    after_seq: int
    """Up to this number of the ledger corrections are in the baseline."""
    through_seq: int
    """Up to this one the name's total was read."""
    period_seq: int | None
    """The period has what was reported after this number; None where that is not known."""
    period_since: datetime
    """When it began: decides where there is no number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A correction, as far as people want to know."""

    number: int
    kind: str
    reason: str
    actor: str
    scope: str

    def __str__(self) -> str:
        """Say what it is in a few words."""
        of = f" of {self.scope}" if self.scope else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"correction {self.number} ({self.kind}{of}{reason})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What corrections added within the stretch, negative for what was taken back."""

    billed_bytes: int
    """Of the period; so is the next."""
    raw_bytes: int
    all_billed_bytes: int
    sources: tuple[Source, ...] = ()


def question(
    account: Account, name: CorrectedName, *, shared: SharedQuota | None = None
) -> Question | None:
    """Return what is to be asked about a name; None when all of its corrections are applied."""
    corrected, period = account.corrected_seqs, account.period_seqs
    if shared is not None:
        corrected = shared.corrected_seqs
        period = shared.start.seqs if shared.start else None
    return _question(name, corrected=corrected, period=period, since=account.period_started_at)


def question_of_admin(account: Account, name: CorrectedName) -> Question | None:
    """Return the same for the period of the owning admin; None when it is the account's."""
    if account.admin_seqs is None or account.admin_seqs == account.period_seqs:
        return None
    return _question(
        name,
        corrected=account.corrected_seqs,
        period=account.admin_seqs,
        since=account.period_started_at,
    )


def _question(
    name: CorrectedName, *, corrected: Seqs, period: Seqs | None, since: datetime
) -> Question | None:
    after_seq = dict(corrected).get(name.username, 0)
    if after_seq >= name.corrected_seq:
        return None
    return Question(
        username=name.username,
        after_seq=after_seq,
        through_seq=name.through_seq,
        period_seq=_period_seq(name, period),
        period_since=since,
    )


def _period_seq(name: CorrectedName, period: Seqs | None) -> int | None:
    """Return the number after which a name's reports are of a period and count for the account."""
    if period is None:
        return name.counted_from_seq or None
    return max(name.counted_from_seq, dict(period).get(name.username, 0))


def corrected(
    account: Account,
    asked: Question,
    answer: Answer,
    *,
    totals: Totals,
    of_admin: Answer | None = None,
) -> tuple[Account, Event]:
    """Return the account with a name's corrections in its baselines, and the event to say so.

    External usage never becomes negative: what does not fit into it is of no period.
    """
    before_bytes = balance(account, total_bytes=totals.billed_bytes).external_bytes
    raw_before_bytes = totals.raw_bytes - account.raw_baseline_bytes
    admin_before_bytes = totals.billed_bytes - account.admin_baseline_bytes
    admin_bytes = (of_admin or answer).billed_bytes
    change_bytes = _change(before_bytes, answer.billed_bytes)
    taken = replace(
        account,
        baseline_bytes=account.baseline_bytes - change_bytes,
        raw_baseline_bytes=account.raw_baseline_bytes - _change(raw_before_bytes, answer.raw_bytes),
        admin_baseline_bytes=account.admin_baseline_bytes
        - _change(admin_before_bytes, admin_bytes),
        corrected_seqs=merged(account.corrected_seqs, ((asked.username, asked.through_seq),)),
    )
    what = "; ".join(map(str, answer.sources)) or "corrections"
    part = f"{change_bytes:+d} of them" if change_bytes else "none of them"
    event = Event(
        kind="corrected",
        text=f"{what}: {answer.all_billed_bytes:+d} bytes, {part} in the current period",
        actor=answer.sources[0].actor if answer.sources else "collector",
        before=str(before_bytes),
        after=str(before_bytes + change_bytes),
    )
    return taken, event


def corrected_together(
    shared: SharedQuota, before: Account, after: Account, asked: Question, *, panel: str
) -> SharedQuota:
    """Return a shared quota whose period begins where one of its accounts now says it does.

    `panel`: for which the corrected name is reported.
    """
    if shared.start is None:
        return shared
    moved = Totals(
        billed_bytes=after.baseline_bytes - before.baseline_bytes,
        raw_bytes=after.raw_baseline_bytes - before.raw_baseline_bytes,
    )
    starts = dict(shared.starts)
    if begun := starts.get(panel):
        starts[panel] = _moved(begun, moved)
    seqs = merged(shared.corrected_seqs, ((asked.username, asked.through_seq),))
    start = _moved(shared.start, moved)
    return replace(shared, start=start, starts=starts, corrected_seqs=seqs)


def _moved(totals: Totals, by: Totals) -> Totals:
    return replace(
        totals,
        billed_bytes=totals.billed_bytes + by.billed_bytes,
        raw_bytes=totals.raw_bytes + by.raw_bytes,
    )


def _change(external_bytes: int, corrected_bytes: int) -> int:
    """Return by how much external usage changes, which does not fall below zero by it."""
    return max(corrected_bytes, min(0, -external_bytes))
