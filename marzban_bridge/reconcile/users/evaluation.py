"""Evaluation of one user as read from the panel: the new account and shared quota."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from marzban_bridge.panels.dialect import Dialect
from marzban_bridge.panels.names import account_key
from marzban_bridge.panels.users import PanelUser, is_same_creation
from marzban_bridge.quota import shared as shared_quotas
from marzban_bridge.quota.account import Account, Enforcement, Event
from marzban_bridge.quota.adoption import adopt, succeeding
from marzban_bridge.quota.forecasts.marks import marked
from marzban_bridge.quota.gone_accounts import GoneAccount
from marzban_bridge.quota.observe import observe
from marzban_bridge.quota.plan import Change, ChangeKind, plan
from marzban_bridge.quota.policy import POLICIES
from marzban_bridge.quota.resellers.reseller import let_in_text
from marzban_bridge.quota.resets.detection import ResetSign
from marzban_bridge.quota.resets.told_times import with_fed_totals
from marzban_bridge.quota.shared_quota import SharedQuota
from marzban_bridge.quota.shared_switch import with_reset_to_follow
from marzban_bridge.quota.typed_limits import TypedLimit, TypedLimits, quota_of_typed_limit
from marzban_bridge.quota.usage import NOTHING, Totals
from marzban_bridge.quota.writes.edit_times import with_overwritten_edit
from marzban_bridge.quota.writes.late_landings import keep_text
from marzban_bridge.quota.writes.note_line import MAX_NOTE_LENGTH, Lines, lines_for, without_lines
from marzban_bridge.reconcile.users.fed_totals import FedTotals
from marzban_bridge.reconcile.work_queue import Urgency
from marzban_bridge.store.reset_news import UserNews
from marzban_bridge.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The account after an evaluation, the events to record, and the shared quota."""

    account: Account
    is_new: bool = False
    is_waiting: bool = False
    """Whether a requested reset has to be carried out first."""
    events: tuple[Event, ...] = ()
    reset: ResetSign | None = None
    shared: SharedQuota | None = None
    is_shared_anew: bool = False
    """Whether the shared quota or its period changed."""
    is_past: bool = False
    """Whether the panel shows an earlier state of the user, as after a restored backup."""
    replaced: Account | None = None
    """The account of the earlier user of this name, which was deleted and created again."""
    is_return: bool = False
    """Whether the account was put aside after a deletion, and has to be restored first."""

    @property
    def is_quiet(self) -> bool:
        """Whether nothing but numbers changed."""
        is_plain = not (self.is_new or self.is_waiting or self.is_past or self.events or self.reset)
        is_behind = shared_quotas.is_behind(self.account, self.shared) or self.account.owes_reset
        return is_plain and not (self.is_shared_anew or is_behind or self.is_return)


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """The result of an evaluation and the planned change; neither is stored or carried out."""

    account: Account
    total_bytes: int
    change: Change | None


class Evaluator:
    """Evaluates one panel's users against their stored accounts; stores nothing."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Callable[[], datetime],
        enforcement: Enforcement,
        keeps_next_plan: bool,
        uses_notes: bool,
        typed_limits: TypedLimits,
        dialect: Callable[[], Dialect],
    ) -> None:
        self._dialect = dialect
        self._typed_limits = typed_limits
        self._uses_notes = uses_notes
        self._store = store
        self._fed = FedTotals()
        self._clock = clock
        self._enforcement = enforcement
        self._keeps_next_plan = keeps_next_plan
        self.allows = POLICIES[enforcement]
        """Tells whether a planned change may be carried out."""

    def has_account(self, key: str) -> bool:
        """Tell whether a name is that of a user with an account."""
        return self._store.accounts.has(key)

    def is_adopted(self, key: str) -> bool:
        """Tell whether a name has an account, and no reports that are still to be claimed."""
        return self.has_account(key) and not self._store.placement.is_unclaimed(key)

    def urgency(self, key: str) -> Urgency | None:
        """Return how urgently new usage requires to settle this account; None for not at all."""
        account = self._claimed(key)
        if account is None:
            is_known = self._store.placement.is_unclaimed(key) or self._store.placement.is_known(
                key
            )
            return (
                Urgency.PUBLISH if is_known and not self._store.placement.is_missing(key) else None
            )
        totals = self._store.usage.totals(key)
        if account.recent_totals:
            self._fed.note(key, totals, at=self._clock())
        return self._urgency_of(account, totals)

    def calls_for_change(self, key: str) -> bool:
        """Tell whether a user has an account, as stored, that requires settling."""
        account = self._claimed(key)
        if account is None:
            return False
        return self._urgency_of(account, self._store.usage.totals(key)) is not None

    def _claimed(self, key: str) -> Account | None:
        """Return an account whose reports are all claimed."""
        return None if self._store.placement.is_unclaimed(key) else self._store.accounts.get(key)

    def _urgency_of(self, account: Account, totals: Totals) -> Urgency | None:
        if self.has_to_catch_up(account):
            return Urgency.CROSSING
        total_bytes = totals.billed_bytes
        if total_bytes < account.seen_total_bytes:
            return None if account.is_held else Urgency.CROSSING
        change = self.plan(account, total_bytes)
        if change is None or not self.allows(change):
            return None
        return Urgency.PUBLISH if change.kind is ChangeKind.PUBLISH else Urgency.CROSSING

    def preview(self, key: str, user: PanelUser) -> Preview:
        """Compute the first change that settling the user would make; stores and writes nothing."""
        totals = self._store.usage.totals(key)
        account = self.fold(self._store.accounts.get(key), user, totals).account
        return Preview(
            account=account,
            total_bytes=totals.billed_bytes,
            change=self.plan(account, totals.billed_bytes),
        )

    def fold(
        self,
        before: Account | None,
        user: PanelUser,
        totals: Totals,
        *,
        news: UserNews | None = None,
    ) -> Evaluation:
        """Evaluate the user as read from the panel with its account and the ledger's totals.

        `news`: what is stored of its resets, if it was read already.
        """
        key, now = account_key(user.username), self._clock()
        is_return = False
        if before is None and (gone := self.returning(key, user)):
            # Only in a preview: otherwise the account was restored before.
            before, is_return = gone.account, True
        if before is None:
            line, baseline = self.lines(user).own, self._store.openings.of_new_account(key)
            account = adopt(user, baseline=baseline, totals=totals, now=now, line=line)
            if gone := self._store.gone_accounts.get(key):
                account = succeeding(account, gone.account, now=now)
                account = keep_text(account, self._text(user))
            account = marked(account, totals, now=now)
            event = Event(kind="adopted", text="an account was created for the user")
            return self._share(before, Evaluation(account=account, is_new=True, events=(event,)))
        if before.reset_request:
            return Evaluation(
                account=before, is_waiting=True, shared=self._store.shared_quotas.get(key)
            )
        if news is None:
            news = self._store.reset_news.of_users({key: user.admin})[key]
        seen = observe(
            with_fed_totals(before, self._fed.of(key)) if news.told_at else before,
            user,
            totals=totals,
            now=now,
            dialect=self._dialect(),
            was_announced=news.told_at is not None,
            is_announced_again=news.is_told_again,
            told_at=news.told_at,
            reset_all=news.reset_all,
            keeps_next_plan=self._keeps_next_plan,
            line=self.lines(user).own,
            text=self._text(user),
            typed_limit=self._meaning_of_typed_limit(user),
        )
        is_another = not is_same_creation(before.created_at, seen.account.created_at)
        account = seen.account
        if before.owes_reset and not seen.is_past:
            account = with_reset_to_follow(before, account, was_reset=seen.reset is not None)
        if not seen.is_past:
            account = marked(account, totals, now=now)
        evaluation = Evaluation(
            account=account,
            events=self._as_of_reseller(account, seen.events),
            reset=seen.reset,
            is_past=seen.is_past,
            replaced=before if is_another else None,
            is_return=is_return,
        )
        return self._share(before, evaluation)

    def _as_of_reseller(self, account: Account, events: tuple[Event, ...]) -> tuple[Event, ...]:
        """Return the events with the reseller as the reason why a user was disabled, if it is."""
        if not self._store.resellers.is_cut_off(account.admin):
            return events
        text = let_in_text(account.admin or "")
        return tuple(replace(e, text=text) if e.kind == "let_in" else e for e in events)

    def with_overwritten_edit(
        self, account: Account, told: PanelUser
    ) -> tuple[Account, Event] | None:
        """Return the account with an edit that a write of ours went over; None for none."""
        external_bytes = self._store.usage.totals(account.key).billed_bytes - account.baseline_bytes
        meaning = self._meaning_of_typed_limit(told)

        def quota_of(typed_bytes: int | None) -> int | None:
            return quota_of_typed_limit(typed_bytes, external_bytes=external_bytes, meaning=meaning)

        text = self._text(told)
        return with_overwritten_edit(
            account, told, text, dialect=self._dialect(), quota_of=quota_of
        )

    def returning(self, key: str, user: PanelUser) -> GoneAccount | None:
        """Return the account put aside for this very user (same creation time), if there is one."""
        gone = self._store.gone_accounts.get(key)
        is_his = gone is not None and is_same_creation(gone.account.created_at, user.created_at)
        return gone if is_his else None

    def lines(self, user: PanelUser) -> Lines:
        """Return the lines in a user's note; without own ones if this bridge writes no notes.

        Then own lines are from an earlier configuration and older than what was published since.
        """
        if not user.note:
            return Lines()
        names = self._store.identity.names_in_notes
        lines = lines_for(user.note, username=user.username, own_stores=names)
        return lines if self._uses_notes else replace(lines, own=None)

    def _text(self, user: PanelUser) -> str | None:
        """Return the admin's text in a user's note; None if this bridge writes no notes.

        Also None where the text is too long to be written back.
        """
        text = without_lines(user.note)
        writes_notes = self._uses_notes and self._enforcement is not Enforcement.OBSERVE
        return text if writes_notes and len(text) <= MAX_NOTE_LENGTH else None

    def text_of_admin(self, user: PanelUser) -> str:
        """Return a user's note without the lines of this store and of those it was rebuilt from."""
        return without_lines(user.note, stores=self._store.identity.names_to_take_out)

    def _share(self, before: Account | None, evaluation: Evaluation) -> Evaluation:
        if not self._store.shares_quotas:
            return evaluation
        key = evaluation.account.key
        shared = self._store.shared_quotas.get(key)
        others = self._store.shared_quotas.members(key)
        others.pop(self._store.panel, None)
        account, folded, events = shared_quotas.fold(
            before,
            evaluation.account,
            shared,
            panel=self._store.panel,
            order=self._store.panels,
            was_reset=evaluation.reset is not None,
            others=others,
            had_user=before is None and self._store.gone_accounts.get(key) is not None,
        )
        folded = self._with_starts(before, account, shared, folded)
        return replace(
            evaluation,
            account=account,
            events=(*evaluation.events, *events),
            shared=folded,
            is_shared_anew=folded != shared,
        )

    def _with_starts(
        self, before: Account | None, account: Account, old: SharedQuota | None, new: SharedQuota
    ) -> SharedQuota:
        """Record the panels' counters where a shared period begins, or may begin by recreation."""
        key, panel = account.key, self._store.panel
        is_renewed = old is not None and old.generation != new.generation and not new.starts
        if is_renewed or (old is not None and old.period != new.period):
            new = replace(new, starts=self._store.period_starts(account))
        elif old is None or before is None or before.shared_period is None:
            own = (
                self._store.usage.own_totals(key)
                if self._store.placement.is_missing(key)
                else NOTHING
            )
            new = replace(new, starts={**new.starts, panel: own})
        if new.anew and (old is None or old.anew != new.anew):
            new = replace(new, anew=replace(new.anew, starts=self._store.period_starts(account)))
        return new

    def _meaning_of_typed_limit(self, user: PanelUser) -> TypedLimit:
        """Return what a limit set by an admin means; without a published one it is the quota."""
        is_published = self._enforcement is Enforcement.LIMIT
        return self._typed_limits.of(user.admin) if is_published else TypedLimit.QUOTA

    def has_moved(self, account: Account) -> bool:
        """Tell whether an account, not stored yet, adds usage to a shared quota."""
        if not self._store.shares_quotas:
            return False
        before = self._store.accounts.get(account.key)
        return before is None or before.lifetime_panel_bytes != account.lifetime_panel_bytes

    def has_to_catch_up(self, account: Account) -> bool:
        """Tell whether a shared quota has another value or period than the account has of it."""
        shared = self._store.shared_quotas.get(account.key)
        if shared is None:
            return account.owes_reset
        return account.shared_version != shared.version or self.must_follow(account) is not None

    def must_follow(self, account: Account) -> int | None:
        """Return the shared period that began on another panel and not yet on this one, or None.

        In observe mode it is None.
        """
        if account.reset_request or account.is_held or self._enforcement is Enforcement.OBSERVE:
            return None
        if account.owes_reset:
            return 0
        shared = self._store.shared_quotas.get(account.key)
        is_behind = shared is not None and shared_quotas.is_behind(account, shared)
        return shared.period if shared and is_behind else None

    def may_finish(self, account: Account) -> bool:
        """Tell whether a requested reset may be continued.

        Not if the bridge observes now and did not when the reset was requested.
        """
        request, observes = account.reset_request, self._enforcement is Enforcement.OBSERVE
        return not observes or (request is not None and request.is_panel_called)

    def as_asked(self, change: Change) -> Change | None:
        """Return the part of a change that is allowed after an explicitly requested reset.

        In observe mode: what restores the user after that reset, but no published limit.
        """
        if self.allows(change):
            return change
        if change.kind is not ChangeKind.RESTORE or change.update is None:
            return None
        return replace(change, update=replace(change.update, data_limit_bytes=None))

    def plan(self, account: Account, total_bytes: int) -> Change | None:
        """Return the next change an account needs, whether or not it is allowed."""
        # Observe mode plans as limit mode does, and carries nothing out.
        return plan(
            account,
            total_bytes=total_bytes,
            enforcement=self._enforcement,
            now=self._clock(),
            dialect=self._dialect(),
            is_reseller_cut_off=self._store.resellers.is_cut_off(account.admin),
        )
