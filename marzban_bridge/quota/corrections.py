"""Applies the ledger's corrections to accounts, as far as they concern the current period.

Totals only grow; a correction moves an account's baseline instead, by the bytes taken back of
reports after the change number at which its period began. See docs/decisions/0018.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from marzban_bridge.quota.account import Account, Event
from marzban_bridge.quota.balance import balance
from marzban_bridge.quota.shared_quota import SharedQuota
from marzban_bridge.quota.usage import CorrectedName, Seqs, Totals, merged
from marzban_bridge.sizes import changed_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The query to the collector for the corrections of one name."""

    username: str
    after_seq: int
    """Corrections up to this change number are in the baseline already."""
    through_seq: int
    """The change number up to which the name's total was read."""
    period_seq: int | None
    """The change number after which reports belong to the period; None if unknown."""
    period_since: datetime
    """The beginning of the period, used if there is no change number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A correction, as named in an event."""

    number: int
    kind: str
    reason: str
    actor: str
    scope: str

    def __str__(self) -> str:
        """Return a short description."""
        of = f" of {self.scope}" if self.scope else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"correction {self.number} ({self.kind}{of}{reason})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The bytes that corrections added in the queried range; negative if taken back."""

    billed_bytes: int
    """Billed bytes in the period; the next field has the raw ones."""
    raw_bytes: int
    all_billed_bytes: int
    sources: tuple[Source, ...] = ()


def question(
    account: Account, name: CorrectedName, *, shared: SharedQuota | None = None
) -> Question | None:
    """Return the query for a name; None when all of its corrections are applied."""
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
    """Return the change number after which a name's reports are charged in a period."""
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
    """Return the account with a name's corrections in its baselines, and the event.

    External usage does not become negative: a larger correction counts only up to zero.
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
    part = f"{changed_bytes(change_bytes)} of it" if change_bytes else "none of it"
    event = Event(
        kind="corrected",
        text=f"{what}: {changed_bytes(answer.all_billed_bytes)}, {part} in the current period",
        actor=answer.sources[0].actor if answer.sources else "collector",
        before=str(before_bytes),
        after=str(before_bytes + change_bytes),
    )
    return taken, event


def corrected_together(
    shared: SharedQuota, before: Account, after: Account, asked: Question, *, panel: str
) -> SharedQuota:
    """Return the shared quota with the beginning of its period taken from a corrected account.

    `panel`: the panel to which the corrected name is charged.
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
