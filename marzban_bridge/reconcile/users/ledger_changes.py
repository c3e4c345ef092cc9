"""What the ledger alone changes in a user's account: it holds it, or takes back what was wrong.

The panel has no part in it. The caller sees to it that nobody else changes the account meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime

from marzban_bridge.quota.account import Account, Event
from marzban_bridge.quota.corrections import (
    Answer,
    Question,
    corrected,
    corrected_together,
    question,
    question_of_admin,
)
from marzban_bridge.quota.gone_accounts import GoneAccount
from marzban_bridge.quota.observe import hold
from marzban_bridge.quota.shared_quota import SharedQuota
from marzban_bridge.quota.usage import CorrectedName
from marzban_bridge.store.store import Store

log = logging.getLogger(__name__)

Ask = Callable[[Question], Awaitable[Answer]]


class UserBooks:
    """One panel's accounts, those of users who are gone included."""

    def __init__(self, *, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    def hold(self, key: str) -> None:
        """Leave the user as it is until `rebase`: reports that are in its usage were lost."""
        account, gone = self._account(key)
        if account is None or account.is_held:
            return
        held, event = hold(account, seen=self._store.usage.totals(key))
        self._save(held, event, gone=gone)
        log.error(
            "%s user=%s %s",
            event.kind,
            self._store.placement.public_name(held.username),
            event.text,
        )

    async def correct(self, name: CorrectedName, ask: Ask) -> bool:
        """Move the baselines by what corrections took back of a name; return whether that is done.

        What was applied is stored with the baselines, so that nothing is applied twice. A reset
        that is under way comes first, and `rebase` for a user who is held. Raises what `ask` does.
        """
        account, gone = self._account(name.key)
        shared = gone.shared if gone else self._store.shared_quotas.get(name.key)
        if account is None or account.is_held:
            return True
        asked = question(account, name, shared=shared)
        if asked is None:
            return True
        if account.reset_request or (shared and shared.start is None):
            return False
        answer, of_admin = await ask(asked), None
        if asked_of_admin := question_of_admin(account, name):
            of_admin = await ask(asked_of_admin)
        return self._take_back(name, asked, answer, of_admin)

    def _take_back(
        self, name: CorrectedName, asked: Question, answer: Answer, of_admin: Answer | None
    ) -> bool:
        """Store what was answered, unless another question is to be asked by now."""
        account, gone = self._account(name.key)
        shared = gone.shared if gone else self._store.shared_quotas.get(name.key)
        if account is None or question(account, name, shared=shared) != asked:
            return False
        if account.reset_request or account.is_held:
            return False
        totals = self._store.usage.totals(name.key)
        taken, event = corrected(account, asked, answer, totals=totals, of_admin=of_admin)
        if shared:
            shared = corrected_together(shared, account, taken, asked, panel=name.panel)
        self._save(taken, event, gone=gone, shared=shared)
        log.info(
            "%s user=%s %s",
            event.kind,
            self._store.placement.public_name(taken.username),
            event.text,
        )
        return True

    def _account(self, key: str) -> tuple[Account | None, GoneAccount | None]:
        account = self._store.accounts.get(key)
        gone = None if account else self._store.gone_accounts.get(key)
        return (gone.account if gone else account), gone

    def _save(
        self,
        account: Account,
        event: Event,
        *,
        gone: GoneAccount | None,
        shared: SharedQuota | None = None,
    ) -> None:
        now = self._clock()
        if gone:
            kept = replace(gone, account=account, shared=shared or gone.shared)
            self._store.departures.save(kept, event, at=now)
        else:
            self._store.accounts.save(account, [event], at=now, shared=shared)
