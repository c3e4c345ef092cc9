"""Takes in users as they were read from the panel: evaluates each, and stores its account.

Nothing here asks the panel or writes to it; what is left to do is for `settler`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping

from marzban_bridge.clock import Clock
from marzban_bridge.metrics import Metrics
from marzban_bridge.panels.users import PanelUser
from marzban_bridge.quota.account import Account, Event
from marzban_bridge.quota.plan import Change, ChangeKind
from marzban_bridge.quota.usage import Totals
from marzban_bridge.reconcile.trust.panel_trust import PanelTrust
from marzban_bridge.reconcile.unknown_names import UnknownNames
from marzban_bridge.reconcile.users.chunk import UNREAD_AT, TakenIn
from marzban_bridge.reconcile.users.evaluation import Evaluation, Evaluator
from marzban_bridge.reconcile.users.locks import UserLocks
from marzban_bridge.reconcile.users.resets import UserResets
from marzban_bridge.reconcile.work_queue import CorrectionQueue, OtherQueues, WorkQueue
from marzban_bridge.store.store import Store, StoredUser

log = logging.getLogger(__name__)

RETURNED = "the panel has this user again: the account continues as it was"


class UserIntake:
    """Takes in the users of one panel; `locks` are those of the users that are being settled."""

    def __init__(
        self,
        *,
        store: Store,
        evaluator: Evaluator,
        trust: PanelTrust,
        resets: UserResets,
        unknown: UnknownNames,
        locks: UserLocks,
        queue: WorkQueue,
        elsewhere: OtherQueues,
        corrections: CorrectionQueue,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._evaluator = evaluator
        self._trust = trust
        self._resets = resets
        self._unknown = unknown
        self._locks = locks
        self._queue, self._elsewhere = queue, elsewhere
        self._corrections = corrections
        self._clock = clock
        self._metrics = metrics
        self._evaluated_at: dict[str, float] = {}

    def evaluated_at(self, key: str) -> float:
        """Return when the user was evaluated last (`time.monotonic`); UNREAD_AT if never."""
        return self._evaluated_at.get(key, UNREAD_AT)

    def take_in(self, users: Mapping[str, PanelUser | None], *, read_at: float) -> TakenIn:
        """Store in one commit the users whose evaluation needs no event, or a new account's alone.

        Returns those for whom something is left to do, among them those that were stored and need
        a write. There is no `await` in it, so no other task runs meanwhile.
        """
        if self._trust.is_suspended:
            return TakenIn(others={})
        found = {key: user for key, user in users.items() if user is not None}
        stored = self._store.users({key: user.admin for key, user in found.items()})
        quiet = {
            key: evaluation
            for key, user in found.items()
            if (evaluation := self._evaluate_quiet(key, user, read_at, stored[key]))
        }
        accounts = [each.account for each in quiet.values()]
        moved = [account.key for account in accounts if self._evaluator.has_moved(account)]
        events = {key: each.events for key, each in quiet.items() if each.events}
        self._store.accounts.save_all(accounts, events=events, at=self._clock())
        now_seconds = time.monotonic()
        self._evaluated_at.update((key, now_seconds) for key in quiet)
        for key, of_it in events.items():
            self._unknown.forget(key)
            self._corrections.add(self._store.usage.names_to_correct(key))
            self._log(quiet[key].account, of_it)
        self._elsewhere.add_if_needed(moved)
        changes = {key: self._change_of(each.account) for key, each in quiet.items()}
        return TakenIn(
            others={key: user for key, user in users.items() if changes.get(key, True)},
            moving=[
                key for key, each in changes.items() if each and each.kind is ChangeKind.PUBLISH
            ],
        )

    def _evaluate_quiet(
        self, key: str, user: PanelUser, read_at: float, stored: StoredUser
    ) -> Evaluation | None:
        """Return the evaluation if nothing but numbers changed, or the account is new; else None.

        A new account is not quiet where another store's line, another panel or an earlier user of
        the name is involved.
        """
        is_old = read_at <= self.evaluated_at(key)
        if is_old or self._locks.is_held(key) or self._store.placement.is_unclaimed(key):
            return None
        if self._trust.second_bridge.reason(key, user):
            return None
        account = stored.account
        evaluation = self._evaluator.fold(account, user, stored.totals, news=stored.news)
        if account is None:
            is_simple = not self._store.shares_quotas and self._store.gone_accounts.get(key) is None
            return evaluation if is_simple else None
        is_quiet = evaluation.is_quiet and self._trust.census.is_as_before(account, user)
        return evaluation if is_quiet else None

    def _change_of(self, account: Account) -> Change | None:
        change = self._evaluator.plan(account, account.seen_total_bytes)
        return change if change and self._evaluator.allows(change) else None

    def recognize(self, key: str, user: PanelUser) -> None:
        """Claim an unclaimed name for this user, and restore its account if it was put aside."""
        if self._store.name_owners.claim(key, at=self._clock()):
            self._corrections.add(self._store.usage.names_to_correct(key))
        if gone := self._evaluator.returning(key, user):
            event = Event(kind="returned", text=RETURNED)
            self._store.departures.take_up(gone, event, at=self._clock())
            log.info("returned user=%s %s", self._named(gone.account), RETURNED)
            self._corrections.add(self._store.usage.names_to_correct(key))
            self._elsewhere.add_if_needed([key])

    def evaluate(self, key: str, user: PanelUser, totals: Totals) -> Account:
        """Evaluate the user and store the result."""
        now = self._clock()
        self._evaluated_at[key] = time.monotonic()
        evaluation = self._evaluator.fold(self._store.accounts.get(key), user, totals)
        account = evaluation.account
        if evaluation.is_waiting:
            return account
        is_news_for_others = evaluation.is_shared_anew or self._evaluator.has_moved(account)
        if evaluation.reset:
            self._metrics.resets.labels(cause=evaluation.reset.cause.name.lower()).inc()
            if evaluation.reset.wiped_log:
                self._queue.add(self._resets.note_of_everybody(user.admin, key))
        if evaluation.replaced:
            self._store.departures.put_aside(evaluation.replaced, at=now)
        if evaluation.replaced or evaluation.is_new:
            self._corrections.add(self._store.usage.names_to_correct(key))
        self._store.accounts.save(
            account,
            evaluation.events,
            at=now,
            shared=evaluation.shared,
            takes_announcement=not evaluation.is_past,
        )
        self._log(account, evaluation.events)
        if is_news_for_others:
            self._elsewhere.add_if_needed([key])
        return account

    def _log(self, account: Account, events: Iterable[Event]) -> None:
        for event in events:
            log.info("%s user=%s %s", event.kind, self._named(account), event.text)

    def _named(self, account: Account) -> str:
        return self._store.placement.public_name(account.username)
