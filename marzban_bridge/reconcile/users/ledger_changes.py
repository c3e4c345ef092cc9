"""Changes of accounts caused by the ledger alone: holding an account, applying corrections.

The panel is not called. The caller holds the user's lock.
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


class LedgerChanges:
    """One panel's accounts, including those put aside for deleted users."""

    def __init__(self, *, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    def hold(self, key: str) -> None:
        """Hold the user until `rebase`: the ledger lost reports that are in its usage."""
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
        """Move the baselines by the corrections of a name; return whether that is complete.

        What was applied is stored with the baselines, so that nothing is applied twice. It is
        postponed during a reset, and for a held user until `rebase`. Raises what `ask` does.
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
        """Apply and store the answer; return False if the account needs another question by now."""
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
